// The machine that libtorch runs on: generators, threads, the GPU, and everything that affects the bits of results.
#pragma once
#include "values.h"

napi_value seedGenerator(const Arguments& in);
napi_value generatorState(const Arguments& in);
napi_value setGeneratorState(const Arguments& in);
napi_value setThreads(const Arguments& in);
/** allowTf32(on): whether float32 matrix products on a GPU may round their inputs to 10 bits of mantissa. */
napi_value allowTf32(const Arguments& in);
napi_value gpuKernelsMissing(const Arguments& in);
napi_value gpuCompiler(const Arguments& in);
napi_value beginGraph(const Arguments& in);
napi_value endGraph(const Arguments& in);
napi_value runGraph(const Arguments& in);
napi_value freeGraph(const Arguments& in);
napi_value synchronize(const Arguments& in);
/** deviceMemory(reset?) -> [bytes allocated now, peak bytes since the last call with true] on the first GPU; null where unknown. */
napi_value deviceMemory(const Arguments& in);
/** startProfile() begins to record what the GPU does; stopProfile(file) ends it and writes the trace (profile.cc). */
napi_value startProfile(const Arguments& in);
napi_value stopProfile(const Arguments& in);
/** environment() -> {libtorch, config, blas, cpuCapability, threads, gpus, gpu} */
/** Returns cached memory that no tensor uses to the GPU, for other programs and tensors of other sizes. */
void releaseDeviceMemory();
napi_value environment(const Arguments& in);
