"""Whole stages in plain PyTorch: sft, the reward models, and ppo, from prompts and dialogues as text to the trained weights, in float64.

    python3 tests/peers/stages_reference.py              # from the project's root; rewrites tests/golden/stages-whole/

Written from Llama 2 (sections 2.2, 3.1, 3.2.2, 3.2.3 and table 29), Schulman et al. 2017 (PPO) and 2016 (generalised advantage estimation), Ziegler et
al. 2019 (KL penalty and its controller), Hugging Face's definition of Llama, Meta's chat format, and the project's documentation of its random
numbers (engine/random.ts: sha256 of seed and purpose, xoshiro128**, Fisher and Yates). Each dialogue is processed by a model alone: rows are not packed,
batches are not padded or split, responses are decoded without a cache; per-token values are computed with loops over lists. The inputs (the models' initial
weights, which are a hash of their positions, and the texts) are in the golden file with the results, so that both sides read the same.
"""
import hashlib, json, math, os, torch
import torch.nn.functional as F

here = os.path.dirname(os.path.abspath(__file__))
out = os.path.join(here, "..", "golden", "stages-whole")
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)

SEED = 1
SHAPE = {"vocabSize": 264, "dim": 12, "layers": 2, "heads": 2, "kvHeads": 1, "ffn": 20, "maxPositions": 96}
V, D, LAYERS, HEADS, GROUPS, FFN = (SHAPE[k] for k in ("vocabSize", "dim", "layers", "heads", "kvHeads", "ffn"))
E = D // HEADS
BOS, EOS = 1, 2


# ---- random numbers (engine/random.ts)
def digest(seed, purpose):
    part = lambda x: f"{'string' if isinstance(x, str) else 'number'}:{len(str(x))}:{x};"
    return hashlib.sha256("".join(part(x) for x in (seed, *purpose)).encode()).digest()


def derive_seed(seed, *purpose):
    return int.from_bytes(digest(seed, purpose)[:6], "little")


class Random:
    def __init__(self, seed, *purpose):
        d = digest(seed, purpose)
        self.s = [int.from_bytes(d[4 * i : 4 * i + 4], "little") for i in range(4)]
        self.s[3] |= 1

    def bits(self):
        s, m = self.s, 0xFFFFFFFF
        turn = lambda x, k: ((x << k) | (x >> (32 - k))) & m
        result = turn(s[1] * 5 & m, 7) * 9 & m
        t = s[1] << 9 & m
        s[2] ^= s[0]; s[3] ^= s[1]; s[1] ^= s[2]; s[0] ^= s[3]; s[2] ^= t
        s[3] = turn(s[3], 11)
        return result

    def next(self):
        return ((self.bits() >> 5) * 67108864 + (self.bits() >> 6)) / 9007199254740992

    def integer(self, bound):
        limit = 2**32 - 2**32 % bound
        x = self.bits()
        while x >= limit: x = self.bits()
        return x % bound

    def shuffle(self, items):
        items = list(items)
        for i in range(len(items) - 1, 0, -1):
            j = self.integer(i + 1)
            items[i], items[j] = items[j], items[i]
        return items


# ---- the tokenizer of the tests: 259 "ab", 260 "_ab", 261 "a", 262 "b", 263 "_" ("_" stands for U+2581); every other character has the id of its byte + 3
PIECES = {259: "ab", 260: " ab", 261: "a", 262: "b", 263: " "}


def encode(text):
    """Merges the pieces in the order in which they were learnt: first "a" "b", then "_" "ab"."""
    ids = [{"a": 261, "b": 262, " ": 263}.get(c, ord(c) + 3) for c in " " + text]
    for pair, joined in (((261, 262), 259), ((263, 259), 260)):
        merged, i = [], 0
        while i < len(ids):
            if tuple(ids[i : i + 2]) == pair: merged.append(joined); i += 2
            else: merged.append(ids[i]); i += 1
        ids = merged
    return ids


def encode_prompt(question):
    return [BOS] + encode(f"[INST] {question} [/INST]")


def encode_dialogue(turns):
    """turns: question, answer, question, answer, ... Returns the tokens, and for each whether it counts in the loss."""
    tokens, loss = [], []
    for question, answer in zip(turns[::2], turns[1::2]):
        asked, whole = encode_prompt(question), [BOS] + encode(f"[INST] {question} [/INST] {answer} ") + [EOS]
        tokens += whole
        loss += [i >= len(asked) for i in range(len(whole))]
    return tokens, loss


# ---- models
def hashed(number, count):
    """`count` numbers in [-1, 1): a hash of the tensor's number and the element's index. All operations are modulo 2^32."""
    def one(i):
        x = (i * 2654435761 + number * 40503 + 12345) & 0xFFFFFFFF
        for multiplier in (2246822519, 3266489917):
            x ^= x >> 16
            x = x * multiplier & 0xFFFFFFFF
        x ^= x >> 15
        return x / 2**31 - 1
    return torch.tensor([one(i) for i in range(count)])


def names(scalar):
    layer = lambda l: [
        (f"model.layers.{l}.input_layernorm.weight", [D]), (f"model.layers.{l}.self_attn.q_proj.weight", [HEADS * E, D]),
        (f"model.layers.{l}.self_attn.k_proj.weight", [GROUPS * E, D]), (f"model.layers.{l}.self_attn.v_proj.weight", [GROUPS * E, D]),
        (f"model.layers.{l}.self_attn.o_proj.weight", [D, HEADS * E]), (f"model.layers.{l}.post_attention_layernorm.weight", [D]),
        (f"model.layers.{l}.mlp.gate_proj.weight", [FFN, D]), (f"model.layers.{l}.mlp.up_proj.weight", [FFN, D]), (f"model.layers.{l}.mlp.down_proj.weight", [D, FFN]),
    ]
    end = [("model.norm.weight", [D]), ("score.weight", [1, D]) if scalar else ("lm_head.weight", [V, D])]
    return [("model.embed_tokens.weight", [V, D]), *(x for l in range(LAYERS) for x in layer(l)), *end]


def make(number, scalar=False):
    """
    Weights from a hash: norms near 1, others uniform within sqrt(3 / columns), embeddings within 1, a head within 2. A policy's embeddings have 4 in their first
    column, its output layer -10 for all tokens except the end of a sequence and the tokenizer's five pieces, so its responses are readable. Values are rounded to
    float32, as in a checkpoint.
    """
    w = {}
    for k, (name, shape) in enumerate(names(scalar)):
        x = hashed(1000 * number + k, math.prod(shape)).reshape(shape)
        if "norm" in name: x = 1 + 0.2 * x
        elif name == "score.weight": x = 2 * x
        elif "embed" in name: x[:, 0] = x[:, 0] if scalar else torch.tensor(4.0)
        elif "lm_head" in name:
            x[:, 0] = -10
            x[[EOS, *PIECES], 0] = 0
        else: x = x * math.sqrt(3 / shape[-1])
        w[name] = x.float().double().requires_grad_()
    return w


def copy(w):
    return {name: x.detach().clone().requires_grad_() for name, x in w.items()}


def rms_norm(x, weight):
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))


def rotate_half(x):
    return torch.cat([-x[..., E // 2 :], x[..., : E // 2]], -1)


def hidden_states(w, tokens):
    """The normalised states (T, D) of one sequence."""
    T = len(tokens)
    angles = torch.arange(T).double()[:, None] / 10000.0 ** (torch.arange(0, E, 2).double() / E)[None, :]
    angles = torch.cat([angles, angles], -1)
    cos, sin = angles.cos(), angles.sin()
    seen = torch.ones(T, T, dtype=torch.bool).tril()
    x = w["model.embed_tokens.weight"][torch.tensor(tokens)]
    for layer in range(LAYERS):
        p = lambda name: w[f"model.layers.{layer}.{name}.weight"]
        h = rms_norm(x, p("input_layernorm"))
        q = (h @ p("self_attn.q_proj").T).view(T, HEADS, E).transpose(0, 1)
        k = (h @ p("self_attn.k_proj").T).view(T, GROUPS, E).transpose(0, 1)
        v = (h @ p("self_attn.v_proj").T).view(T, GROUPS, E).transpose(0, 1)
        q, k = q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin
        k, v = (t.repeat_interleave(HEADS // GROUPS, 0) for t in (k, v))
        scores = (q @ k.transpose(1, 2) / math.sqrt(E)).masked_fill(~seen[None], float("-inf"))
        x = x + (scores.softmax(-1) @ v).transpose(0, 1).reshape(T, D) @ p("self_attn.o_proj").T
        h = rms_norm(x, p("post_attention_layernorm"))
        x = x + (F.silu(h @ p("mlp.gate_proj").T) * (h @ p("mlp.up_proj").T)) @ p("mlp.down_proj").T
    return rms_norm(x, w["model.norm.weight"])


def score(w, tokens):
    return (hidden_states(w, tokens)[-1] @ w["score.weight"].T).squeeze()


def new_head(seed):
    """N(0, 1 / (D + 1)) from PyTorch's own generator, as for a float32 tensor."""
    torch.manual_seed(derive_seed(seed, "reward head"))
    return torch.zeros(1, D, dtype=torch.float32).normal_(0, 1 / math.sqrt(D + 1)).double().requires_grad_()


# ---- used by every stage that trains
def optimizer(w, o):
    return torch.optim.AdamW(list(w.values()), lr=0.0, betas=(0.9, 0.95), eps=1e-5, weight_decay=o["weightDecay"])


def update(w, adam, loss, rate, o):
    adam.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(list(w.values()), o["maxNorm"])
    for group in adam.param_groups: group["lr"] = rate
    adam.step()
    return float(norm)


def cosine(o, step, steps, warmup):
    if step < warmup: return o["learningRate"] * (step + 1) / warmup
    cosine = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
    return o["learningRate"] * (o["finalLearningRate"] + (1 - o["finalLearningRate"]) * cosine)


def chunks(items, size):
    return [items[i : i + size] for i in range(0, len(items), size)]


def train(w, batches, batch_loss, o, warmup):
    adam, steps = optimizer(w, o), []
    for step, batch in enumerate(batches):
        rate, loss = cosine(o, step, len(batches), warmup), batch_loss(batch)
        steps.append({"loss": float(loss.detach()), "learningRate": rate, "gradientNorm": update(w, adam, loss, rate, o)})
    return {"steps": steps, "weights": summary(w)}


def summary(w):
    """Two numbers per tensor by which tensors are compared: the sum of squares, and a sum weighted by a hash."""
    return {name: [float((x.detach() ** 2).sum()), float((x.detach().flatten() * hashed(999_999, x.numel())).sum())] for name, x in w.items()}


# ---- sft: several dialogues per row, several rows per step
QUESTIONS = ["ab", "b ab", "aab", "ba ba", "a", "bb ab a", "abab", "b"]
ANSWERS = ["ba", "a", "abab", "b b", "ab a", "bab", "aa", "ab ab b"]
DIALOGUES = [[q, a] for q, a in zip(QUESTIONS, ANSWERS)] + [["ab", "b", "a b", "ab"], ["a", "aa", "b", "bb"], ["ba", "ab", "abab", "b"]]


def pack(examples, length):
    """First fit: each example goes into the first row with room."""
    rows = []
    for example in examples:
        row = next((row for row in rows if sum(len(tokens) for tokens, _ in row) + len(example[0]) <= length), None)
        if row is None: rows.append([example])
        else: row.append(example)
    return rows


def sft(o):
    w, examples = make(1), [encode_dialogue(turns) for turns in DIALOGUES]
    epochs = [pack(Random(SEED, "sft", "epoch", e).shuffle(examples), o["sequenceLength"]) for e in range(o["epochs"])]
    batches = [batch for rows in epochs for batch in chunks(rows, o["batchSize"])]
    assert len(batches) == o["epochs"] * math.ceil(len(epochs[0]) / o["batchSize"])

    def loss(batch):
        total, count = 0.0, 0
        for tokens, on in (example for row in batch for example in row):
            mask = torch.tensor(on)[1:]
            logits = hidden_states(w, tokens)[:-1] @ w["lm_head.weight"].T
            total = total + F.cross_entropy(logits[mask], torch.tensor(tokens)[1:][mask], reduction="sum")
            count += int(mask.sum())
        return total / count

    result = train(w, batches, loss, o, o["warmupSteps"])
    return {"config": o, "dialogues": DIALOGUES, "rows": [[len(row) for row in rows] for rows in epochs], **result}


# ---- reward models
PAIRS = [
    {"prompt": q, "chosen": ANSWERS[i], "rejected": ANSWERS[(3 * i + 1) % 8], "rating": None if i == 4 else i % 4,
     "chosenSafe": [True, False, None][i % 3], "rejectedSafe": [False, None, True, False][i % 4]}
    for i, q in enumerate(QUESTIONS[:7])
]
MARGINS = {"none": [0, 0, 0, 0], "small": [1, 2 / 3, 1 / 3, 0], "large": [3, 2, 1, 0]}


def reward_model(o, safety_weight):
    w = {name: x for name, x in make(1).items() if name != "lm_head.weight"}
    w["score.weight"] = new_head(SEED)
    epochs = [Random(SEED, "reward-model", "epoch", e).shuffle(PAIRS) for e in range(o["epochs"])]
    batches = [batch for pairs in epochs for batch in chunks(pairs, o["batchPairs"])]

    def loss(batch):
        total = 0.0
        for p in batch:
            scores = [score(w, encode_dialogue([p["prompt"], p[which]])[0]) for which in ("chosen", "rejected")]
            margin = 0 if p["rating"] is None else MARGINS[o["margin"]][p["rating"]]
            total = total - F.logsigmoid(scores[0] - scores[1] - margin)
            for s, safe in zip(scores, (p["chosenSafe"], p["rejectedSafe"])):
                if safe is not None: total = total + safety_weight / 2 * F.binary_cross_entropy_with_logits(s, torch.tensor(float(safe)))
        return total / len(batch)

    warmup = max(o["warmupMinimum"], math.ceil(o["warmupFraction"] * len(batches)))
    head = w["score.weight"].flatten().tolist()
    return {"config": o, "pairs": PAIRS, "head": head, **train(w, batches, loss, o, warmup)}


# ---- ppo
PROMPTS = [{"id": f"p{i}", "question": q, "safety": i % 3 == 2} for i, q in enumerate(QUESTIONS[:5])]


def distributions(w, prompt, response, temperature):
    states = hidden_states(w, prompt + response)[len(prompt) - 1 : -1]
    return (states @ w["lm_head.weight"].T / temperature).log_softmax(-1)


def generate(w, prompt, seed, o):
    """The first token whose cumulative probability exceeds the uniform number. Fails if float32 could give another one."""
    random, tokens = Random(seed, "sampling"), []
    while len(tokens) < o["maxNewTokens"] and tokens[-1:] != [EOS]:
        cumulative = distributions(w, prompt, tokens + [0], o["temperature"])[-1].detach().exp().cumsum(0)
        u = random.next() * float(cumulative[-1])
        assert float((cumulative - u).abs().min()) > 1e-5, "a draw too near to a boundary: take another seed"
        tokens.append(int((cumulative <= u).sum()))
    return tokens


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def variance(values):
    values = list(values)
    return mean((x - mean(values)) ** 2 for x in values)


def ppo(o):
    reference, policy = make(1), copy(make(1))
    helpfulness, safety = make(2, scalar=True), make(3, scalar=True)
    T, past_end, beta = o["temperature"], o["terminal"] == "past-end", o["beta"]
    if o["valueInit"] == "reward": value = copy(helpfulness)
    else: value = {name: x for name, x in copy(reference).items() if name != "lm_head.weight"}
    value["score.weight"] = new_head(derive_seed(SEED, "ppo", "value head"))
    adam, value_adam = optimizer(policy, o), optimizer(value, o)
    stream = (p for once in range(1000) for p in Random(SEED, "ppo", "prompts", once).shuffle(PROMPTS))
    numbers = lambda batch, name: torch.tensor([x for r in batch for x in r[name]])

    def answer(p, seed):
        prompt = encode_prompt(p["question"])
        response = generate(policy, prompt, seed, o)
        text = "".join(PIECES[token] for token in response if token != EOS).strip()
        finished = response[-1] == EOS
        scores = [None, None]
        if text != "":
            tokens = encode_dialogue([p["question"], text])[0]
            with torch.no_grad(): scores = [float(torch.sigmoid(score(m, tokens if finished else tokens[:-2]))) for m in (helpfulness, safety)]
            gated = p["safety"] or scores[1] < o["threshold"]
            combined = scores[1] if gated else scores[0]
        else: combined = o["unreadableScore"]
        return {"promptId": p["id"], "prompt": prompt, "response": response, "text": text, "finished": finished,
                "reward": math.log(combined / (1 - combined)), "helpfulness": scores[0], "safety": scores[1]}

    iterations = []
    for iteration in range(1, o["iterations"] + 1):
        batch = [answer(next(stream), derive_seed(SEED, "ppo", "rollout", iteration, i)) for i in range(o["batchSize"])]
        rewards = [r["reward"] for r in batch]
        for r in batch:
            r["score"] = (r["reward"] - mean(rewards)) / math.sqrt(variance(rewards) + 1e-8)
            if not r["finished"] and o["noEos"] == "penalty": r["score"] -= o["noEosPenalty"]
            if not r["finished"] and o["noEos"] == "replace": r["score"] = -o["noEosPenalty"]
        kl_total = 0.0
        with torch.no_grad():
            for r in batch:
                pick = lambda w: distributions(w, r["prompt"], r["response"], T)[torch.arange(len(r["response"])), torch.tensor(r["response"])].tolist()
                r["old"] = pick(policy)
                states = hidden_states(value, r["prompt"] + r["response"])[len(r["prompt"]) - 1 :]
                r["values"] = (states @ value["score.weight"].T).flatten().tolist()[: len(r["response"]) + past_end]
                paid = []
                for new, old in zip(r["old"], pick(reference)):
                    kl = {"k1": new - old, "k2": 0.5 * (new - old) ** 2, "k3": math.exp(old - new) - 1 - (old - new)}[o["klEstimator"]]
                    kl_total += kl
                    paid.append(-beta * kl)
                if past_end: paid.append(r["score"])
                else: paid[-1] += r["score"]
                v = r["values"] + [0.0]
                deltas = [paid[t] + o["gamma"] * v[t + 1] - v[t] for t in range(len(paid))]
                gae = [sum((o["gamma"] * o["lambda"]) ** (u - t) * deltas[u] for u in range(t, len(deltas))) for t in range(len(deltas))]
                r["returns"] = [a + b for a, b in zip(gae, r["values"])]
                r["advantages"] = gae[: len(r["response"])]
        every = [a for r in batch for a in r["advantages"]]
        shift = {"shift": 0.0, "keep": mean(every), "none": None}[o["whitenAdvantages"]]
        if shift is not None:
            for r in batch: r["advantages"] = [(a - mean(every)) / math.sqrt(variance(every) + 1e-8) + shift for a in r["advantages"]]
        returns, errors = [x for r in batch for x in r["returns"]], [x - y for r in batch for x, y in zip(r["returns"], r["values"])]
        row = {
            "iteration": iteration, "reward": mean(rewards), "responseLength": mean(len(r["response"]) for r in batch),
            "withoutEos": mean(0 if r["finished"] else 1 for r in batch), "unreadable": mean(1 if r["text"] == "" else 0 for r in batch),
            **{name: mean(r[name] for r in batch if r[name] is not None) for name in ("helpfulness", "safety")},
            "kl": kl_total / len(batch), "klPerToken": kl_total / sum(len(r["response"]) for r in batch), "beta": beta,
            "explainedVariance": 1 - variance(errors) / variance(returns),
        }
        if o["klControl"] == "adaptive":
            beta *= 1 + max(-0.2, min(0.2, row["kl"] / o["klTarget"] - 1)) * len(batch) / o["klHorizon"]

        steps = []
        for epoch in range(o["epochs"]):
            for part in chunks(Random(SEED, "ppo", "permutation", iteration - 1, epoch).shuffle(batch), o["miniBatchSize"]):
                all_tokens = torch.cat([distributions(policy, r["prompt"], r["response"], T) for r in part])
                new = all_tokens[torch.arange(len(all_tokens)), torch.tensor([token for r in part for token in r["response"]])]
                ratio, A = torch.exp(new - numbers(part, "old")), numbers(part, "advantages")
                policy_loss = -torch.min(ratio * A, torch.clamp(ratio, 1 - o["clip"], 1 + o["clip"]) * A).mean()
                v = torch.cat([(hidden_states(value, r["prompt"] + r["response"])[len(r["prompt"]) - 1 :][: len(r["values"])] @ value["score.weight"].T).flatten() for r in part])
                v_old, R = numbers(part, "values"), numbers(part, "returns")
                v_clipped = v_old + torch.clamp(v - v_old, -o["valueClip"], o["valueClip"])
                value_loss = 0.5 * torch.max((v - R) ** 2, (v_clipped - R) ** 2).mean()
                d = (new - numbers(part, "old")).detach()
                steps.append({
                    "policyLoss": float(policy_loss.detach()), "valueLoss": float(value_loss.detach()), "entropy": float(-(all_tokens.exp() * all_tokens).sum(-1).mean().detach()),
                    "clipFraction": float(((ratio.detach() - 1).abs() > o["clip"]).double().mean()), "approximateKl": float((d.exp() - 1 - d).mean()),
                    "policyGradientNorm": update(policy, adam, policy_loss, o["learningRate"], o),
                    "valueGradientNorm": update(value, value_adam, value_loss, o["valueLearningRate"], o),
                })
        row.update({name: mean(step[name] for step in steps) for name in steps[0]}, mismatchKl=steps[0]["approximateKl"])
        row["samples"] = [{"promptId": r["promptId"], "prompt": next(p["question"] for p in PROMPTS if p["id"] == r["promptId"]), "response": r["text"],
                           **{name: r[name] for name in ("finished", "reward", "helpfulness", "safety")}} for r in batch]
        iterations.append(row)
    return {"config": o, "prompts": PROMPTS, "iterations": iterations, "weights": summary(policy)}


def rounded(x):
    if isinstance(x, float): return float(f"{x:.9g}")
    if isinstance(x, dict): return {name: rounded(inner) for name, inner in x.items()}
    if isinstance(x, list): return [rounded(inner) for inner in x]
    return x


trained = {"learningRate": 4e-3, "finalLearningRate": 0.2, "weightDecay": 0.3, "maxNorm": 1.5}
of_pairs = {**trained, "batchPairs": 3, "epochs": 2, "warmupFraction": 0.5, "warmupMinimum": 2}
paper = {
    "iterations": 3, "batchSize": 8, "miniBatchSize": 4, "epochs": 1, "learningRate": 3e-3, "valueLearningRate": 5e-3, "weightDecay": 0.1, "maxNorm": 1.0,
    "clip": 0.2, "valueClip": 0.2, "beta": 0.1, "klControl": "fixed", "klTarget": 6, "klHorizon": 100, "klEstimator": "k1", "gamma": 1.0, "lambda": 0.95,
    "whitenAdvantages": "shift", "terminal": "last-token", "noEos": "none", "noEosPenalty": 1.0, "unreadableScore": 0.01,
    "threshold": 0.15, "temperature": 1.0, "maxNewTokens": 4, "valueInit": "reward",
}
other = {
    **paper, "batchSize": 7, "miniBatchSize": 3, "epochs": 2, "clip": 0.02, "valueClip": 0.05, "klControl": "adaptive", "klTarget": 0.05, "klEstimator": "k3",
    "gamma": 0.9, "lambda": 0.8, "whitenAdvantages": "keep", "terminal": "past-end", "noEos": "penalty", "threshold": 0.9, "maxNewTokens": 3,
    "temperature": 0.7, "valueInit": "policy",
}
results = {
    "seed": SEED, "shape": SHAPE,
    "sft": sft({**trained, "sequenceLength": 72, "batchSize": 2, "epochs": 3, "warmupSteps": 2}),
    "helpfulness": reward_model({**of_pairs, "margin": "small"}, 0),
    "safety": reward_model({**of_pairs, "margin": "large", "safetyLossWeight": 0.6}, 0.6),
    "ppo": {"paper": ppo(paper), "other": ppo(other)},
}
os.makedirs(out, exist_ok=True)
with open(os.path.join(out, "stages.json"), "w") as file:
    json.dump(rounded(results), file, separators=(",", ":"))
    file.write("\n")
with open(os.path.join(out, "manifest.json"), "w") as file:
    json.dump({"tool": f"PyTorch {torch.__version__}, CPU float64, one thread", "seed": SEED, "command": "python3 tests/peers/stages_reference.py", "file": "../../peers/stages_reference.py"}, file, indent=2)
    file.write("\n")
print(results["sft"]["rows"], [s["loss"] for s in results["sft"]["steps"]])
for name in ("helpfulness", "safety"): print(name, [s["loss"] for s in results[name]["steps"]])
for name, run in results["ppo"].items():
    for row in run["iterations"]: print(name, {k: round(v, 4) for k, v in row.items() if k != "samples"}, [s["response"] for s in row["samples"]])
