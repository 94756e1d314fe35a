// CUDA source of what kernels for Hopper share (gpu-products-kernels.h, gpu-attend-streamed-kernels.h): the bulk copy engine, its barriers, and clusters of blocks.
#pragma once

constexpr const char* gpuCopySource = R"cuda(
/** Describes a matrix to the copy engine (gpu.h). */
struct alignas(64) TensorMap { char bytes[128]; };
__device__ __forceinline__ unsigned sharedAddress(const void* at) { return static_cast<unsigned>(__cvta_generic_to_shared(at)); }
__device__ __forceinline__ void initBarrier(unsigned barrier, int count) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory"); }
__device__ __forceinline__ void arrive(unsigned barrier) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory"); }
__device__ __forceinline__ void expectBytes(unsigned barrier, unsigned bytes) { asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory"); }
__device__ __forceinline__ void await(unsigned barrier, unsigned parity) {
  unsigned done = 0;
  while (done == 0) {
    asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}" : "=r"(done) : "r"(barrier), "r"(parity) : "memory");
  }
}
/** Requests 64 columns of a box of rows. */
__device__ __forceinline__ void loadBox(unsigned to, const TensorMap& map, int column, int row, unsigned barrier) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(to), "l"(reinterpret_cast<unsigned long long>(&map)), "r"(column), "r"(row), "r"(barrier)
               : "memory");
}
/** The same for memory that is not read again soon. */
__device__ __forceinline__ void streamBox(unsigned to, const TensorMap& map, int column, int row, unsigned barrier, unsigned long long policy) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to), "l"(reinterpret_cast<unsigned long long>(&map)), "r"(column), "r"(row),
               "r"(barrier), "l"(policy)
               : "memory");
}
/** The L2 policy for memory that is read once. */
__device__ __forceinline__ unsigned long long readOnce() {
  unsigned long long policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
/** Lets the copy engine and other threads see barriers that this thread has initialized. */
__device__ __forceinline__ void publishBarriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ __forceinline__ void clusterBarrier() { asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory"); }
/** Where the cluster's block `rank` has what this block has at a shared address. */
__device__ __forceinline__ unsigned addressIn(unsigned rank, unsigned at) {
  unsigned there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(at), "r"(rank));
  return there;
}
)cuda";
