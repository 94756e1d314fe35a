"""Fifty steps of supervised fine-tuning and of reward modelling in plain PyTorch, for a step-by-step comparison with the training loops.

    python3 tests/peers/train_reference.py              # from the project's root; rewrites tests/golden/stages-train50/

Written from the papers and from Hugging Face's definitions of Llama (RMSNorm, rotary embeddings on split halves, grouped-query attention,
SwiGLU), one plain operation at a time; no special kernels or padding: each pair's dialogues are processed alone, unpadded, and each
packed row is masked by an explicit (T, T) table. The batches are generated here and stored with the losses, so that both sides read the same.
"""
import json, math, os, struct, torch
import torch.nn.functional as F

SEED, STEPS = 20, 50
here = os.path.dirname(os.path.abspath(__file__))
golden = os.path.join(here, "..", "golden")
out = os.path.join(golden, "stages-train50")
torch.set_num_threads(1)


def read_safetensors(path):
    """Eight bytes with the header's length, a JSON header, then the tensors' bytes."""
    data = open(path, "rb").read()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__": continue
        assert entry["dtype"] == "F32", (name, entry["dtype"])
        start, end = (8 + size + offset for offset in entry["data_offsets"])
        tensors[name] = torch.frombuffer(bytearray(data[start:end]), dtype=torch.float32).reshape(entry["shape"]).clone()
    return tensors


model_folder = os.path.join(golden, "llama-gqa", "model")
config = json.load(open(os.path.join(model_folder, "config.json")))
HEADS, GROUPS = config["num_attention_heads"], config["num_key_value_heads"]
DIM, VOCAB, LAYERS = config["hidden_size"], config["vocab_size"], config["num_hidden_layers"]
HEAD_DIM = DIM // HEADS


def rms_norm(x, weight):
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + config["rms_norm_eps"]))


def rotate_half(x):
    return torch.cat([-x[..., HEAD_DIM // 2 :], x[..., : HEAD_DIM // 2]], -1)


def hidden_states(w, ids, positions, seen):
    """ids (T,), positions (T,), seen (T, T) bool: whether query i attends to key j. Returns the normalised states (T, D)."""
    inverse = 1.0 / config["rope_parameters"]["rope_theta"] ** (torch.arange(0, HEAD_DIM, 2).float() / HEAD_DIM)
    angles = positions.float()[:, None] * inverse[None, :]
    angles = torch.cat([angles, angles], -1)  # (T, E)
    cos, sin = angles.cos(), angles.sin()
    T = len(ids)
    x = w["model.embed_tokens.weight"][ids]
    for layer in range(LAYERS):
        p = lambda name: w[f"model.layers.{layer}.{name}.weight"]
        h = rms_norm(x, p("input_layernorm"))
        q = (h @ p("self_attn.q_proj").T).view(T, HEADS, HEAD_DIM).transpose(0, 1)
        k = (h @ p("self_attn.k_proj").T).view(T, GROUPS, HEAD_DIM).transpose(0, 1)
        v = (h @ p("self_attn.v_proj").T).view(T, GROUPS, HEAD_DIM).transpose(0, 1)
        q, k = q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin
        k, v = (t.repeat_interleave(HEADS // GROUPS, 0) for t in (k, v))
        scores = (q @ k.transpose(1, 2) / math.sqrt(HEAD_DIM)).masked_fill(~seen[None], float("-inf"))
        attended = (scores.softmax(-1) @ v).transpose(0, 1).reshape(T, DIM)
        x = x + attended @ p("self_attn.o_proj").T
        h = rms_norm(x, p("post_attention_layernorm"))
        x = x + (F.silu(h @ p("mlp.gate_proj").T) * (h @ p("mlp.up_proj").T)) @ p("mlp.down_proj").T
    return rms_norm(x, w["model.norm.weight"])


def causal(T):
    return torch.ones(T, T, dtype=torch.bool).tril()


def train(weights, batch_loss, peak, warmup):
    """AdamW and clipping of Llama 2 section 2.2, linear warm-up (step 0 has a learning rate above 0), half a cosine down to a tenth at step STEPS."""
    optimizer = torch.optim.AdamW(list(weights.values()), lr=peak, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.1)
    losses, norms = [], []
    for step in range(STEPS):
        if step < warmup: rate = peak * (step + 1) / warmup
        else: rate = peak * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (STEPS - warmup))))
        for group in optimizer.param_groups: group["lr"] = rate
        optimizer.zero_grad()
        loss = batch_loss(step)
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(list(weights.values()), 1.0)))
        optimizer.step()
        losses.append(float(loss))
    return losses, norms


# ---- the batches: token t is followed by (7 t + 3) mod 150 in most cases, so that there is something to learn
draws = torch.Generator().manual_seed(SEED)
integer = lambda low, high: int(torch.randint(low, high, (1,), generator=draws))


def chain(length, noise):
    tokens = [integer(3, 153)]
    while len(tokens) < length:
        tokens.append(integer(3, 153) if integer(0, 100) < noise else (7 * tokens[-1] + 3) % 150 + 3)
    return tokens


def packed_row(length):
    """Dialogues of BOS, question, answer, EOS (loss on the answer and the EOS) until no more fit; then padding with id 0 and segment -1."""
    tokens, loss, segments = [], [], []
    while True:
        question, answer = integer(1, 6), integer(2, 9)
        if len(tokens) + question + answer + 2 > length: break
        segments += [segments[-1] + 1 if segments else 0] * (question + answer + 2)
        tokens += [1] + chain(question + answer, 20) + [2]
        loss += [0] * (question + 1) + [1] * (answer + 1)
    padding = length - len(tokens)
    return {"tokens": tokens + [0] * padding, "lossMask": loss + [0] * padding, "segments": segments + [-1] * padding}


def pair():
    """One question; the chosen answer follows the chain, the rejected one has more noise; a rating from 0 to 3, margins of table 27, 'small'."""
    question = [1] + chain(integer(1, 8), 20)
    answer = lambda noise: question + chain(integer(2, 11), noise) + [2]
    return {"chosen": answer(10), "rejected": answer(90), "rating": integer(0, 4)}


ROWS, LENGTH, PAIRS = 4, 33, 4
sft_batches = [[packed_row(LENGTH) for _ in range(ROWS)] for _ in range(STEPS)]
pair_batches = [[pair() for _ in range(PAIRS)] for _ in range(STEPS)]
head = (torch.randn(DIM, generator=draws) / math.sqrt(DIM + 1)).tolist()


# ---- (a) supervised fine-tuning
def sft_loss(w, batch):
    total, count = 0.0, 0
    for row in batch:
        tokens, segments = torch.tensor(row["tokens"]), torch.tensor(row["segments"])
        seen = causal(LENGTH) & (segments[:, None] == segments[None, :])
        positions = torch.tensor([i - row["segments"].index(s) for i, s in enumerate(row["segments"])])
        logits = hidden_states(w, tokens, positions, seen) @ w["lm_head.weight"].T
        on = torch.tensor(row["lossMask"])[1:].bool()
        total = total + F.cross_entropy(logits[:-1][on], tokens[1:][on], reduction="sum")
        count += int(on.sum())
    return total / count


def parameters():
    return {name: value.requires_grad_() for name, value in read_safetensors(os.path.join(model_folder, "model.safetensors")).items()}


sft_weights = parameters()
sft_options = {"peak": 2e-3, "warmup": 5}
sft_losses, sft_norms = train(sft_weights, lambda step: sft_loss(sft_weights, sft_batches[step]), **sft_options)

# ---- (b) reward model
rm_weights = parameters()
del rm_weights["lm_head.weight"]
rm_weights["score.weight"] = torch.tensor([head]).requires_grad_()
MARGINS = [1, 2 / 3, 1 / 3, 0]


def score(w, tokens):
    states = hidden_states(w, torch.tensor(tokens), torch.arange(len(tokens)), causal(len(tokens)))
    return (states[-1] @ w["score.weight"].T).squeeze()


def rm_loss(w, batch):
    losses = [-F.logsigmoid(score(w, p["chosen"]) - score(w, p["rejected"]) - MARGINS[p["rating"]]) for p in batch]
    return torch.stack(losses).mean()


rm_options = {"peak": 1e-3, "warmup": 5}
rm_losses, rm_norms = train(rm_weights, lambda step: rm_loss(rm_weights, pair_batches[step]), **rm_options)

os.makedirs(out, exist_ok=True)
flat = lambda batches: [item for batch in batches for item in batch]
with open(os.path.join(out, "train50.json"), "w") as file:
    json.dump({
        "sft": {**sft_options, "rowsABatch": ROWS, "rows": flat(sft_batches), "losses": sft_losses, "gradientNorms": sft_norms},
        "rewardModel": {**rm_options, "pairsABatch": PAIRS, "head": head, "pairs": flat(pair_batches), "losses": rm_losses, "gradientNorms": rm_norms},
    }, file, separators=(",", ":"))
    file.write("\n")
with open(os.path.join(out, "manifest.json"), "w") as file:
    json.dump({"tool": f"PyTorch {torch.__version__}, CPU float32, one thread", "seed": SEED, "command": "python3 tests/peers/train_reference.py", "file": "../../peers/train_reference.py", "start": "../llama-gqa/model"}, file, indent=2)
    file.write("\n")
print("sft", sft_losses[0], sft_losses[-1], max(sft_norms), min(sft_norms))
print("reward model", rm_losses[0], rm_losses[-1], max(rm_norms), min(rm_norms))
