"""The comparison for bench/mixed-gpu.ts: the step of torch_decode_gpu.py, captured in a CUDA graph, in a loop over batches of answers: the prompts of a batch padded on the left to the longest, a static cache, and steps until each answer
of the batch has a stop token (checked every 16 steps) or has 1,024 tokens. Requests are sorted by the length of their prompts. The time includes processing the prompts.
Usage: torch_mixed_gpu.py size=7b [how=graph|eager] [prompts=512] [k=4] [batch=64] [stops=120] [new=1024] [device=cpu]"""
import json, random, sys, time, torch, torch.nn.functional as F

given = dict(word.split("=") for word in sys.argv[1:]); size, dev = given.get("size", "7b"), given.get("device", "cuda"); cuda = dev == "cuda"
number = lambda name, otherwise: int(given.get(name, otherwise))
B, N, k, stops, G = number("batch", 64), number("prompts", 512), number("k", 4), number("stops", 120), number("new", 1024); S = 512 + G
D, FF, L, H, KV = {"tiny": (64, 176, 2, 4, 4), "110m": (768, 2048, 12, 12, 12), "1.1b": (2048, 5632, 22, 32, 4), "7b": (4096, 11008, 32, 32, 32)}[size]; E = D // H; VOCAB = 32000
dt = torch.bfloat16 if cuda else torch.float32; sync = torch.cuda.synchronize if cuda else lambda: None
w = lambda *s: torch.randn(*s, device=dev, dtype=dt) * .02
ones = lambda: torch.ones(D, device=dev, dtype=dt)
emb, out = w(VOCAB, D), w(VOCAB, D); norm = ones(); layers = [(ones(), w((H + 2 * KV) * E, D), w(D, H * E), ones(), w(2 * FF, D), w(D, FF)) for _ in range(L)]
K = [torch.zeros(B, KV, S, E, device=dev, dtype=dt) for _ in range(L)]; VV = [torch.zeros_like(one) for one in K]
angles = torch.arange(S, device=dev).float()[:, None] / 10000 ** (torch.arange(0, E, 2, device=dev).float() / E)
cos, sin = torch.cat([angles.cos()] * 2, -1).to(dt), torch.cat([angles.sin()] * 2, -1).to(dt)
stop = torch.zeros(VOCAB, dtype=torch.bool, device=dev); stop[3 + 31000 // stops * torch.arange(stops, device=dev)] = True
ids = torch.zeros(B, dtype=torch.long, device=dev); starts = torch.zeros(B, dtype=torch.long, device=dev); at = torch.tensor([0], device=dev)
done = torch.zeros(B, dtype=torch.bool, device=dev); lengths = torch.zeros(B, dtype=torch.long, device=dev); places = torch.arange(S, device=dev)
def rope(x, positions):  # (B, heads, T, E), (B, T)
    a, b = x.chunk(2, -1); return x * cos[positions][:, None] + torch.cat([-b, a], -1) * sin[positions][:, None]
def draw(x):
    lp = F.linear(F.rms_norm(x, (D,), norm, 1e-5), out).float().log_softmax(-1); n = (lp - torch.log(-torch.log(torch.rand_like(lp)))).argmax(-1)
    lengths.add_((~done).long()); done.logical_or_(stop[n]); ids.copy_(n)
def block(x, T, mask, positions, write, layer):
    n1, qkv, o, n2, gu, down = layer
    h = F.linear(F.rms_norm(x, (D,), n1, 1e-5), qkv).view(B, T, H + 2 * KV, E).transpose(1, 2); q, key, value = h[:, :H], h[:, H:H + KV], h[:, H + KV:]
    key, value = write(rope(key, positions), value)
    a = F.scaled_dot_product_attention(rope(q, positions), key, value, attn_mask=mask, enable_gqa=H != KV).transpose(1, 2).reshape(B, T, H * E)
    x = x + F.linear(a, o); g, u = F.linear(F.rms_norm(x, (D,), n2, 1e-5), gu).chunk(2, -1); return x + F.linear(F.silu(g) * u, down)
def step():
    x = emb[ids][:, None]; positions = (at - starts)[:, None]; mask = ((places <= at)[None] & (places[None] >= starts[:, None]))[:, None, None]
    for layer, kc, vc in zip(layers, K, VV):
        def write(key, value): kc.index_copy_(2, at, key); vc.index_copy_(2, at, value); return kc, vc
        x = block(x, 1, mask, positions, write, layer)
    draw(x[:, 0]); at.add_(1)
def read(batch):
    P = max(map(len, batch)); tokens = torch.tensor([[0] * (P - len(p)) + p for p in batch], device=dev); starts.copy_(torch.tensor([P - len(p) for p in batch]))
    before = torch.arange(P, device=dev); positions = (before[None] - starts[:, None]).clamp(min=0)
    mask = (before[None, :, None] >= before[None, None]) & ((before[None, None] >= starts[:, None, None]) | (before[None, :, None] == before[None, None]))
    x = emb[tokens]
    for layer, kc, vc in zip(layers, K, VV):
        def write(key, value): kc[:, :, :P] = key; vc[:, :, :P] = value; return key, value
        x = block(x, P, mask[:, None], positions, write, layer)
    draw(x[:, -1]); at.fill_(P)
with torch.no_grad():
    once = step
    if cuda and given.get("how", "graph") == "graph":
        stream = torch.cuda.Stream(); at.fill_(8)
        with torch.cuda.stream(stream):
            for _ in range(3): step()
        torch.cuda.current_stream().wait_stream(stream); graph = torch.cuda.CUDAGraph(); at.fill_(8)
        with torch.cuda.graph(graph): step()
        once = graph.replay
    rng = random.Random(1); made = [[3 + rng.randrange(VOCAB - 3) for _ in range(round(16 * 2 ** (5 * rng.random())))] for _ in range(N)]
    requests = sorted((p for p in made for _ in range(k)), key=len); total = 0
    def answer(batch, most):
        done.zero_(); lengths.zero_(); read(batch)
        for taken in range(1, most):
            once()
            if taken % 16 == 0 and bool(done.all()): break
        return int(lengths.sum())
    answer(requests[:B], 32); sync()
    if cuda: torch.cuda.reset_peak_memory_stats()
    started = time.time()
    for first in range(0, len(requests), B):
        batch = requests[first:first + B]; total += answer(batch + batch[:1] * (B - len(batch)), G)
    sync(); seconds = time.time() - started
print(json.dumps(dict(who="PyTorch, CUDA graph, static batches" if once is not step else "PyTorch, eager, static batches", size=size, batch=B, tokens=total, meanLength=total / len(requests), seconds=seconds,
    tokensPerSecond=round(total / seconds), peakGiB=torch.cuda.max_memory_allocated() / 2**30 if cuda else 0, torch=torch.__version__, gpu=torch.cuda.get_device_name(0) if cuda else "cpu")))
