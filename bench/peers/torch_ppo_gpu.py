"""The comparison for bench/trl/main.ts ppo: iterations of PPO with transformers' models in bfloat16 (without float32 masters), PyTorch's fused AdamW, and a decoding step in plain
PyTorch over a static cache, captured in a CUDA graph. Policy, reference, value and reward model are four separate models, as in TRL and in Caravan.
Usage: torch_ppo_gpu.py <model folder of bench/peers/trl/make_model.py> [iterations=12] [new=64] [device=cuda|cpu]"""
import json, os, sys, time, torch, torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "trl"))
import hh

folder = sys.argv[1]; given = dict(word.split("=") for word in sys.argv[2:]); dev = given.get("device", "cuda"); cuda = dev == "cuda"
iterations, warmup, B, mini, G = int(given.get("iterations", 12)), 2, 64, 16, int(given.get("new", 64))
dt = torch.bfloat16 if cuda else torch.float32
load = lambda kind, path, **more: kind.from_pretrained(path, dtype=dt, attn_implementation="sdpa", **more).to(dev)
policy, reference = load(AutoModelForCausalLM, folder), load(AutoModelForCausalLM, folder)
value, reward = (load(AutoModelForSequenceClassification, folder + "-reward", num_labels=1) for _ in range(2))
adamw = lambda model, lr: torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.1, fused=True)
optimizers = [adamw(policy, 1e-6), adamw(value, 9e-6)]
tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
prompts = []
with open(folder + "-data/ppo.jsonl", encoding="utf-8") as file:
    for line in file: prompts.append(hh.encode(tokenizer, hh.parse(json.loads(line))["prompt"]))
torch.manual_seed(0); order = torch.randperm(len(prompts)).tolist()
sync = torch.cuda.synchronize if cuda else lambda: None

# Decoding: weights joined per layer and copied from the policy before each iteration, in place, so that the graph stays valid.
c = policy.config; L, H, D = c.num_hidden_layers, c.num_attention_heads, c.hidden_size; E = D // H; S = hh.LONGEST_PROMPT + G; eos = tokenizer.eos_token_id
joined = lambda layer: [layer.input_layernorm.weight, torch.cat([layer.self_attn.q_proj.weight, layer.self_attn.k_proj.weight, layer.self_attn.v_proj.weight]), layer.self_attn.o_proj.weight,
    layer.post_attention_layernorm.weight, torch.cat([layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight]), layer.mlp.down_proj.weight]
with torch.no_grad(): layers = [[w.clone() for w in joined(layer)] for layer in policy.model.layers]
K = [torch.zeros(B, H, S, E, device=dev, dtype=dt) for _ in range(L)]; V = [torch.zeros_like(k) for k in K]
angles = torch.arange(S, device=dev).float()[:, None] / 10000 ** (torch.arange(0, E, 2, device=dev).float() / E)
cos, sin = torch.cat([angles.cos()] * 2, -1).to(dt), torch.cat([angles.sin()] * 2, -1).to(dt)
places = torch.arange(S, device=dev); ids = torch.zeros(B, dtype=torch.long, device=dev); starts = torch.zeros(B, dtype=torch.long, device=dev); at = torch.tensor([0], device=dev)
drawn = torch.zeros(B, S, dtype=torch.long, device=dev); recorded = torch.zeros(B, S, device=dev)
def rope(x, positions):
    a, b = x.chunk(2, -1); return x * cos[positions][:, None, None] + torch.cat([-b, a], -1) * sin[positions][:, None, None]
def draw(logits):
    lp = logits.float().log_softmax(-1); n = (lp - torch.log(-torch.log(torch.rand_like(lp)))).argmax(-1)
    return n, lp.gather(1, n[:, None])
def step():
    x = policy.model.embed_tokens.weight[ids]; positions = at - starts; mask = ((places <= at)[None] & (places[None] >= starts[:, None]))[:, None, None]
    for (n1, qkv, o, n2, gu, down), k, v in zip(layers, K, V):
        q, kk, vv = F.linear(F.rms_norm(x, (D,), n1, c.rms_norm_eps), qkv).view(B, 3 * H, 1, E).chunk(3, 1)
        k.index_copy_(2, at, rope(kk, positions)); v.index_copy_(2, at, vv)
        x = x + F.linear(F.scaled_dot_product_attention(rope(q, positions), k, v, attn_mask=mask).reshape(B, D), o)
        g, u = F.linear(F.rms_norm(x, (D,), n2, c.rms_norm_eps), gu).chunk(2, -1); x = x + F.linear(F.silu(g) * u, down)
    n, lp = draw(F.linear(F.rms_norm(x, (D,), policy.model.norm.weight, c.rms_norm_eps), policy.lm_head.weight))
    at.add_(1); drawn.index_copy_(1, at, n[:, None]); recorded.index_copy_(1, at, lp); ids.copy_(n)
once = step
if cuda:
    with torch.no_grad():
        stream = torch.cuda.Stream(); at.fill_(S - 8)
        with torch.cuda.stream(stream):
            for _ in range(3): step()
        torch.cuda.current_stream().wait_stream(stream); graph = torch.cuda.CUDAGraph(); at.fill_(S - 4)
        with torch.cuda.graph(graph): step()
    once = graph.replay

@torch.no_grad()
def generate(batch):
    """Left-padded tokens (B, P + G), their mask, and the log-probabilities recorded while sampling (B, G)."""
    for own, layer in zip(layers, policy.model.layers):
        for mine, w in zip(own, joined(layer)): mine.copy_(w)
    P = max(map(len, batch)); tokens = torch.tensor([[0] * (P - len(p)) + p for p in batch], device=dev); mask = torch.tensor([[0] * (P - len(p)) + [1] * len(p) for p in batch], device=dev)
    starts.copy_(P - mask.sum(1)); positions = (mask.cumsum(1) - 1).clamp(min=0)
    out = policy(input_ids=tokens, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1)
    for k, v, layer in zip(K, V, out.past_key_values.layers): k[:, :, :P] = layer.keys; v[:, :, :P] = layer.values
    n, lp = draw(out.logits[:, -1]); ids.copy_(n); at.fill_(P); drawn[:, P] = n; recorded[:, P] = lp[:, 0]
    for _ in range(G - 1): once()
    answers = drawn[:, P:P + G].clone(); ended = (answers == eos).int().cumsum(1) - (answers == eos).int(); alive = (ended == 0).long()
    return torch.cat([tokens, answers * alive], 1), torch.cat([mask, alive], 1), recorded[:, P:P + G].clone(), P
def log_probabilities(model, tokens, mask, P):
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(input_ids=tokens, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=G + 1).logits[:, :-1]
    return logits.float().log_softmax(-1).gather(2, tokens[:, P:, None])[..., 0]
def values_of(model, tokens, mask):
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return model.score(model.model(input_ids=tokens, attention_mask=mask, position_ids=positions, use_cache=False).last_hidden_state)[..., 0].float()
seconds = []; tokens_seen = []; last = {}
for iteration in range(iterations):
    sync(); started = time.time()
    batch = [prompts[order[(iteration * B + i) % len(prompts)]] for i in range(B)]
    tokens, mask, old, P = generate(batch); sync(); generated = time.time()
    alive = mask[:, P:].bool()
    with torch.no_grad():
        ref = log_probabilities(reference, tokens, mask, P); old_values = values_of(value, tokens, mask)[:, P - 1:-1]
        ends = mask[:, P:].sum(1) - 1; score = values_of(reward, tokens, mask)[:, P:].gather(1, ends[:, None])[:, 0]
        score = (score - score.mean()) / (score.std() + 1e-8); rewards = -0.01 * (old - ref); rewards[torch.arange(B), ends] += score; rewards *= alive
        advantages = torch.zeros_like(rewards); carried = torch.zeros(B, device=dev)
        for t in reversed(range(G)):
            after = old_values[:, t + 1] * alive[:, t + 1] if t + 1 < G else 0
            carried = (rewards[:, t] + after - old_values[:, t]) * alive[:, t] + 0.95 * carried * alive[:, t]; advantages[:, t] = carried
        returns = advantages + old_values; flat = advantages[alive]; advantages = (advantages - flat.mean()) / (flat.std() + 1e-8)
    sync(); scored = time.time()
    for first in torch.randperm(B).view(-1, mini):
        a = alive[first]; new = log_probabilities(policy, tokens[first], mask[first], P); ratio = (new - old[first]).exp(); adv = advantages[first]
        loss = torch.max(-adv * ratio, -adv * ratio.clamp(0.8, 1.2))[a].mean(); loss.backward()
        v = values_of(value, tokens[first], mask[first])[:, P - 1:-1]; clipped = old_values[first] + (v - old_values[first]).clamp(-0.2, 0.2)
        (0.5 * torch.max((v - returns[first]) ** 2, (clipped - returns[first]) ** 2)[a].mean()).backward()
        for model, optimizer in zip((policy, value), optimizers): torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0); optimizer.step(); optimizer.zero_grad(set_to_none=True)
        # 1 before the first step, which shows that the decoding step above computes the same model.
        if not last: last = dict(ratio=float(ratio.detach()[a].mean()))
    sync(); ended = time.time(); seconds.append((generated - started, scored - generated, ended - scored)); tokens_seen.append(int(mask.sum()))
    if cuda and iteration + 1 == warmup: torch.cuda.reset_peak_memory_stats()
timed = seconds[warmup:] or seconds; mean = lambda i: sum(s[i] for s in timed) / len(timed); total = sum(map(sum, timed))
print(json.dumps(dict(who="transformers, CUDA graph", what="ppo", batch=B, new=G, secondsPerIteration=total / len(timed), generationSeconds=mean(0), scoringSeconds=mean(1), updateSeconds=mean(2),
    tokensPerSecond=round(sum(tokens_seen[warmup:] or tokens_seen) / total), firstRatio=last["ratio"], peakGiB=torch.cuda.max_memory_allocated() / 2**30 if cuda else 0, torch=torch.__version__,
    gpu=torch.cuda.get_device_name(0) if cuda else "cpu")))
