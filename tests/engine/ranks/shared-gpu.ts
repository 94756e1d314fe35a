/**
 * The variables of a rank on a machine with one GPU, which all ranks use. NCCL refuses two ranks of one machine on one GPU, so each says that it is on
 * a machine of its own, and NCCL connects them over sockets.
 */
export const sharedGpu = (rank: number | string): Readonly<Record<string, string>> => ({
  CUDA_VISIBLE_DEVICES: "0",
  NCCL_HOSTID: `rank-${rank}`
})
