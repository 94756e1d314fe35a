// Tensor handles for JavaScript, freed by scope.
//
// A handle is a slot's index in the low 18 bits and the slot's generation in the 35 bits above it (a double holds 53). This detects a handle whose
// tensor was freed instead of reading the tensor that reused its slot.
#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

/** A new handle, owned by the innermost open scope. */
uint64_t put(at::Tensor tensor);
/** The tensor of a handle. Throws if it was freed. */
at::Tensor& tensorAt(uint64_t handle);

void openScope();
/** Frees the tensors made since openScope, except the survivors, which pass to the enclosing scope. */
void closeScope(const std::vector<uint64_t>& survivors);
/** Lets a tensor outlive every scope, until freeTensor. */
void keepTensor(uint64_t handle);
void freeTensor(uint64_t handle);
/** Frees every tensor, kept ones too, and ends all scopes. */
void freeAllTensors();
size_t liveTensors();
