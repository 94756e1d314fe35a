// Kernels for the GPU: CUDA source (gpu-kernels.h) that NVRTC compiles at run time for the device that is there. Neither a CUDA compiler nor CUDA's headers are
// needed. Where there is no NVRTC, or it can't compile for the device, the composed forms run instead.
#pragma once
#include <ATen/ATen.h>

#include <initializer_list>
#include <string>

/** Whether tensors like this one are taken by the kernels: on a GPU, float32 or bfloat16, contiguous. */
bool hasGpuKernels(const at::Tensor& like);

/** Why there are no kernels for the GPU of this machine; empty where there are, or where there is no GPU. */
const std::string& gpuKernelsMissing();

/** Runs kernel `name` for the dtype of `like` on the current stream: `blocks` of `threads` threads each. Each argument is the address of a value. */
void launch(const char* name, const at::Tensor& like, int64_t blocks, int threads, std::initializer_list<const void*> arguments);

inline int64_t ceilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }
