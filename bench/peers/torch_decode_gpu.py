"""The comparison for bench/generate-gpu.ts: a decoding step of a Llama in plain PyTorch (static cache, joined weights, sdpa over the cache, Gumbel draws), run eagerly, captured in a CUDA graph, or compiled and
captured. Timing begins after the prompt is processed, and no sequence ends early.
Usage: torch_decode_gpu.py how=eager|graph|compiled size=1.1b batch=64 prompt=64 new=256 [profile=on]"""
import json, sys, time, torch, torch.nn.functional as F

given = dict(word.split("=") for word in sys.argv[1:]); how, size = given.get("how", "graph"), given.get("size", "1.1b")
B, P, G = (int(given.get(name, otherwise)) for name, otherwise in (("batch", 64), ("prompt", 64), ("new", 256))); S = P + G
D, FF, L, H, KV = {"110m": (768, 2048, 12, 12, 12), "1.1b": (2048, 5632, 22, 32, 4), "7b": (4096, 11008, 32, 32, 32)}[size]; E = D // H; V = 32000
dev, dt = "cuda", torch.bfloat16
w = lambda *s: torch.randn(*s, device=dev, dtype=dt) * .02
ones = lambda: torch.ones(D, device=dev, dtype=dt)
emb, out = w(V, D), w(V, D); norm = ones(); layers = [(ones(), w((H + 2 * KV) * E, D), w(D, H * E), ones(), w(2 * FF, D), w(D, FF)) for _ in range(L)]
K = [torch.zeros(B, KV, S, E, device=dev, dtype=dt) for _ in range(L)]; VV = [torch.zeros_like(k) for k in K]
angles = torch.arange(S, device=dev).float()[:, None] / 10000 ** (torch.arange(0, E, 2, device=dev).float() / E)
cos, sin = torch.cat([angles.cos()] * 2, -1).to(dt), torch.cat([angles.sin()] * 2, -1).to(dt)
ids = torch.full((B,), 5, device=dev); pos = torch.tensor([P], device=dev); drawn = torch.zeros(B, S, dtype=torch.long, device=dev); places = torch.arange(S, device=dev)
def rope(x, c, s):
    a, b = x.chunk(2, -1)
    return x * c + torch.cat([-b, a], -1) * s
def body(ids, pos):
    x = emb[ids]; c, s = cos[pos], sin[pos]; mask = (places <= pos)[None, None, None]
    for (n1, qkv, o, n2, gu, down), k, v in zip(layers, K, VV):
        h = F.linear(F.rms_norm(x, (D,), n1, 1e-5), qkv).view(B, H + 2 * KV, 1, E); q, kk, vv = h[:, :H], h[:, H:H + KV], h[:, H + KV:]
        k.index_copy_(2, pos, rope(kk, c, s)); v.index_copy_(2, pos, vv)
        a = F.scaled_dot_product_attention(rope(q, c, s), k, v, attn_mask=mask, enable_gqa=H != KV).reshape(B, H * E)
        x = x + F.linear(a, o); g, u = F.linear(F.rms_norm(x, (D,), n2, 1e-5), gu).chunk(2, -1); x = x + F.linear(F.silu(g) * u, down)
    l = F.linear(F.rms_norm(x, (D,), norm, 1e-5), out).float(); lp = l.log_softmax(-1)
    return (lp + -torch.log(-torch.log(torch.rand_like(lp)))).argmax(-1)
step_body = torch.compile(body, dynamic=False) if how == "compiled" else body
def step():
    n = step_body(ids, pos); drawn.index_copy_(1, pos, n[:, None]); ids.copy_(n); pos.add_(1)
with torch.no_grad():
    if how != "eager":
        stream = torch.cuda.Stream(); pos.fill_(P)
        with torch.cuda.stream(stream):
            for _ in range(3): step()
        torch.cuda.current_stream().wait_stream(stream); graph = torch.cuda.CUDAGraph(); pos.fill_(P)
        with torch.cuda.graph(graph): step()
        once = graph.replay
    else: once = step
    def go():
        pos.fill_(P)
        for _ in range(G - 1): once()
        torch.cuda.synchronize()
    go(); torch.cuda.reset_peak_memory_stats(); started = time.time(); go(); seconds = time.time() - started
    if given.get("profile") == "on":
        from torch.profiler import profile, ProfilerActivity
        with profile(activities=[ProfilerActivity.CUDA]) as p:
            for _ in range(16): once()
            torch.cuda.synchronize()
        print(p.key_averages().table(sort_by="cuda_time_total", row_limit=20, max_name_column_width=90), file=sys.stderr)
print(json.dumps(dict(who="PyTorch, " + {"eager": "eager", "graph": "CUDA graph", "compiled": "compiled, CUDA graph"}[how], size=size, batch=B, prompt=P, new=G, tokensPerSecond=round(B * (G - 1) / seconds),
    millisecondsAStep=seconds / (G - 1) * 1e3, peakGiB=torch.cuda.max_memory_allocated() / 2**30, torch=torch.__version__, gpu=torch.cuda.get_device_name(0))))
