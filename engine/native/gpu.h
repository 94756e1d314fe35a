// Kernels for the GPU: CUDA source (gpu-kernels.h) that NVRTC compiles at run time for the device that is there. Neither a CUDA compiler nor CUDA's headers are
// needed. Where there is no NVRTC, or it can't compile for the device, the composed forms run instead.
#pragma once
#include <ATen/ATen.h>

#include <initializer_list>
#include <string>
#include <vector>

/** Whether tensors like this one are taken by the kernels: on a GPU, float32 or bfloat16, contiguous. */
bool hasGpuKernels(const at::Tensor& like);

/** Why there are no kernels for the GPU of this machine; empty where there are, or where there is no GPU. */
const std::string& gpuKernelsMissing();

/** Of the GPU's compute capability, the number before the point: 8 is Ampere, 9 Hopper; 0 without a GPU. */
int gpuGeneration();

/** Runs kernel `name` for the dtype of `like` on the current stream: `blocks` of `threads` threads each. Each argument is the address of a value. */
void launch(const char* name, const at::Tensor& like, int64_t blocks, int threads, std::initializer_list<const void*> arguments);

/** A program of kernels by its source, compiled with these definitions ("HEAD_DIM=128") when its first kernel runs. */
struct GpuProgram {
  const char* name;
  const char* source;
  std::vector<std::string> definitions;
  /** Whether its kernels may be launched while the one before still runs: each begins with afterTheOneBefore() (gpu-kernels.h), before it touches memory. */
  bool overlaps = false;
};
void launchFrom(const GpuProgram& program, const char* name, const at::Tensor& like, int64_t blocks, int threads, std::initializer_list<const void*> arguments);

/** Operations on a stream of its own, recorded once and run as often as wanted (a CUDA graph): no allocation may be among them. */
class GpuGraph {
 public:
  /** From here on nothing runs, and the current stream is another. */
  static void begin();
  /** Back to the stream of before; gives the number of what was recorded. */
  static int64_t end();
  /** Runs it on the current stream. */
  static void run(int64_t graph);
  static void free(int64_t graph);
};

inline int64_t ceilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }
