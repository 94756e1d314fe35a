// Tensors as JavaScript knows them: by handles, freed by scope.
//
// A handle is a slot's index in the low 18 bits and the slot's generation in the 35 bits above it (a double holds 53), so that a handle whose
// tensor was freed is recognised instead of reading whatever took its place.
#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

/** A new handle, of the innermost open scope. */
uint64_t put(at::Tensor tensor);
/** Throws when the tensor was freed. */
at::Tensor& tensorAt(uint64_t handle);

void openScope();
/** Frees what was made since openScope, except the survivors, which pass to the scope around it. */
void closeScope(const std::vector<uint64_t>& survivors);
/** Lets a tensor outlive every scope, until freeTensor. */
void keepTensor(uint64_t handle);
void freeTensor(uint64_t handle);
/** Frees every tensor, kept ones too, and ends all scopes. */
void freeAllTensors();
size_t liveTensors();
