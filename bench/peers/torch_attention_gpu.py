"""One causal attention call on a GPU, forward and backward, with libtorch's flash attention and cuDNN attention: milliseconds, whether a second call gives the same bits, and the time of cuDNN's first call
(which makes a plan). Then rows of dialogues with cumulative lengths, for which libtorch 2.11 makes a new plan in each call.
Usage: torch_attention_gpu.py"""
import time, torch

A = torch.ops.aten; dev, dt = "cuda", torch.bfloat16
def timed(f, n=20):
    f(); f(); torch.cuda.synchronize(); started = time.perf_counter()
    for _ in range(n): f()
    torch.cuda.synchronize(); return (time.perf_counter() - started) / n * 1e3
def first(f):
    torch.cuda.synchronize(); started = time.perf_counter(); result = f(); torch.cuda.synchronize()
    return (time.perf_counter() - started) * 1e3, result
same = lambda f: [bool(torch.equal(a, b)) for a, b in zip(f()[:3], f()[:3])]

for B, T, H, G, E in [(1, 4096, 32, 32, 128), (4, 4096, 32, 4, 64), (16, 1024, 12, 12, 64)]:
    q, k, v = (torch.randn(B, T, n, E, device=dev, dtype=dt) for n in (H, G, G)); go = torch.randn_like(q); scale = E ** -.5
    Q, K, V, GO = (x.transpose(1, 2) for x in (q, k, v, go))
    flash = lambda: A._flash_attention_forward(q, k, v, None, None, T, T, 0.0, True, False, scale=scale)
    f = flash(); flash_back = lambda: A._flash_attention_backward(go, q, k, v, f[0], f[1], None, None, T, T, 0.0, True, f[2], f[3], scale=scale)
    cudnn = lambda: A._scaled_dot_product_cudnn_attention(Q, K, V, None, True, 0.0, True, False, scale=scale)
    plan, c = first(cudnn); cudnn_back = lambda: A._scaled_dot_product_cudnn_attention_backward(GO, Q, K, V, c[0], c[1], c[6], c[7], None, None, None, T, T, 0.0, True, scale=scale)
    plan_back, _ = first(cudnn_back)
    print(f"{B} x {T}, {H} heads of {E} on {G}: flash {timed(flash):.3f} and {timed(flash_back):.3f} ms, cuDNN {timed(cudnn):.3f} and {timed(cudnn_back):.3f} (plans {plan:.0f} and {plan_back:.0f}); "
          f"the same gradients of q, k, v twice: flash {same(flash_back)}, cuDNN {same(cudnn_back)}; apart by {(c[0].transpose(1, 2) - f[0]).abs().max().item():.4f}", flush=True)

N = 16384
for H, G, E in [(32, 32, 128), (32, 4, 64)]:
    q, k, v = (torch.randn(N, n, E, device=dev, dtype=dt) for n in (H, G, G)); scale = E ** -.5
    for S, seed in [(40, 1), (40, 2), (48, 3)]:
        cut = torch.sort(torch.randperm(N - 1, generator=torch.Generator().manual_seed(seed))[: S - 1] + 1)[0]
        ends = torch.cat([torch.zeros(1), cut, torch.tensor([N])]).to(torch.int32).to(dev); longest = int((ends[1:] - ends[:-1]).max()); room = -(-longest // 512) * 512
        flash = timed(lambda: A._flash_attention_forward(q, k, v, ends, ends, longest, longest, 0.0, True, False, scale=scale))
        cudnn = timed(lambda: A._cudnn_attention_forward(q, k, v, None, ends, ends, room, room, True, 0.0, True, False, scale=scale))
        print(f"{S} dialogues in {N} tokens, {H} heads of {E} on {G}, forward: flash {flash:.3f} ms, cuDNN {cudnn:.3f}", flush=True)
