// GPU kernels: CUDA source (gpu-kernels.h) that NVRTC compiles at run time for the machine's device. Neither a CUDA compiler nor CUDA's headers are
// needed. Without NVRTC, or if it can't compile for the device, the composed forms run instead.
#pragma once
#include <ATen/ATen.h>

#include <initializer_list>
#include <string>
#include <vector>

/** Whether the kernels support tensors like this one: on a GPU, float32 or bfloat16, contiguous. */
bool hasGpuKernels(const at::Tensor& like);

/** Why the GPU kernels are unavailable on this machine; empty if they are available or there is no GPU. */
const std::string& gpuKernelsMissing();

/** The compiler of the GPU kernels, "nvrtc 12.8"; empty without a GPU. */
const std::string& gpuCompiler();

/** Major version of the GPU's compute capability: 8 is Ampere, 9 Hopper; 0 without a GPU. */
int gpuGeneration();
/** Number of the GPU's multiprocessors; 0 without a GPU. */
int gpuMultiprocessors();

/** Launches kernel `name` for the dtype of `like` on the current stream: `blocks` blocks of `threads` threads each. Each argument is the address of a value. */
void launch(const char* name, const at::Tensor& like, int64_t blocks, int threads, std::initializer_list<const void*> arguments);

/** A program of kernels: its source, compiled with definitions ("HEAD_DIM=128") when its first kernel is launched. */
struct GpuProgram {
  const char* name;
  const char* source;
  std::vector<std::string> definitions;
  /**
   * Whether its kernels may start while the previous one still runs: each calls afterTheOneBefore() (gpu-kernels.h) before it writes, and before it reads what kernels of this step write. Weights, and
   * in attention the positions and the cache of earlier steps, may be read before: the first kernel of a step (embed) lets none start early, so everything before the step has ended by then.
   */
  bool overlaps = false;
  /** Compiled for this one architecture, whose own instructions it uses: "sm_90a". */
  bool onlyHere = false;
};
/** Blocks of a launch, `cluster` of which run together and read each other's shared memory, each with `sharedBytes` of it besides what the kernel declares. */
struct GpuGrid {
  int64_t blocks;
  int threads, cluster = 1, sharedBytes = 0;
};
void launchFrom(const GpuProgram& program, const char* name, const at::Tensor& like, const GpuGrid& grid, std::initializer_list<const void*> arguments);
inline void launchFrom(const GpuProgram& program, const char* name, const at::Tensor& like, int64_t blocks, int threads, std::initializer_list<const void*> arguments) {
  launchFrom(program, name, like, GpuGrid{blocks, threads}, arguments);
}

/** Describes a matrix to the bulk copy engine of Hopper, which copies boxes of 64 columns and `rows` rows of it. */
struct alignas(64) GpuTensorMap {
  char bytes[128];
};
/** matrix (R, K): bfloat16, contiguous, K a multiple of 8, at an address that is a multiple of 16. */
GpuTensorMap mapMatrix(const at::Tensor& matrix, int rows);

/** Operations on a separate stream, recorded once and run any number of times (a CUDA graph). They must not allocate memory. */
class GpuGraph {
 public:
  /** Starts recording: operations are recorded instead of run, and the current stream changes. */
  static void begin();
  /** Ends recording and restores the previous stream; returns the graph's number. */
  static int64_t end();
  /** Runs a graph on the current stream. */
  static void run(int64_t graph);
  static void free(int64_t graph);
};

inline int64_t ceilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }
