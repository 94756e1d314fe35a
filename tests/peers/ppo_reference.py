"""A hundred updates of PPO in plain PyTorch, for a step-by-step comparison with stages/ppo/trainer.ts.

    /usr/bin/python3 tests/peers/ppo_reference.py              # from the project's root; rewrites tests/golden/stages-ppo100/

Written from Llama 2 (section 3.2.3), Schulman et al. 2017 (PPO) and 2016 (generalised advantage estimation), Ziegler et al. 2019 (KL penalty and
its controller), and from Hugging Face's definition of Llama, one plain operation at a time: each sequence is processed alone,
unpadded; per-token values are computed with loops over lists. Responses and their scores are random and stored with the results, so that both sides
train on the same. The policy is not sampled: old log-probabilities are those of the policy at the start of an iteration.
"""
import json, math, os, struct, torch
import torch.nn.functional as F

SEED = 31
here = os.path.dirname(os.path.abspath(__file__))
golden = os.path.join(here, "..", "golden")
out = os.path.join(golden, "stages-ppo100")
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


def hidden_states(w, tokens):
    """The normalised states (T, D) of one sequence."""
    T = len(tokens)
    inverse = 1.0 / config["rope_parameters"]["rope_theta"] ** (torch.arange(0, HEAD_DIM, 2).float() / HEAD_DIM)
    angles = torch.arange(T).float()[:, None] * inverse[None, :]
    angles = torch.cat([angles, angles], -1)
    cos, sin = angles.cos(), angles.sin()
    seen = torch.ones(T, T, dtype=torch.bool).tril()
    x = w["model.embed_tokens.weight"][torch.tensor(tokens)]
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


def token_distributions(w, rollout, temperature):
    """log pi(. | prompt, response so far) for each response token: (L, V)."""
    prompt, response = rollout["prompt"], rollout["response"]
    states = hidden_states(w, prompt + response)[len(prompt) - 1 : -1]
    return (states @ w["lm_head.weight"].T / temperature).log_softmax(-1)


def log_probabilities(w, rollout, temperature):
    return token_distributions(w, rollout, temperature)[torch.arange(len(rollout["response"])), torch.tensor(rollout["response"])]


def values(w, rollout, past_end):
    """V of the state in which each response token is sampled, and of the state after the last."""
    prompt, response = rollout["prompt"], rollout["response"]
    scores = (hidden_states(w, prompt + response) @ w["score.weight"].T).squeeze(-1)
    return scores[len(prompt) - 1 : len(prompt) + len(response) - (0 if past_end else 1)]


# ---- the responses: a prompt of 1 to 5 tokens, a response of 2 to 8, a score; all random
draws = torch.Generator().manual_seed(SEED)
integer = lambda low, high: int(torch.randint(low, high, (1,), generator=draws))


def rollout():
    return {
        "prompt": [1] + [integer(3, VOCAB) for _ in range(integer(0, 5))],
        "response": [integer(3, VOCAB) for _ in range(integer(1, 8))] + [2],
        "score": round(float(torch.randn((), generator=draws)), 4),
    }


head = [round(float(x), 6) for x in torch.randn(DIM, generator=draws) / math.sqrt(DIM + 1)]


def train(o):
    """o: options. Returns the inputs and metrics of each iteration and each update."""
    start = read_safetensors(os.path.join(model_folder, "model.safetensors"))
    reference = {name: tensor.clone() for name, tensor in start.items()}
    policy = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
    value = {name: tensor.clone().requires_grad_() for name, tensor in start.items() if name != "lm_head.weight"}
    value["score.weight"] = torch.tensor([head]).requires_grad_()
    new_optimizer = lambda model, rate: torch.optim.AdamW(list(model.values()), lr=rate, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.1)
    policy_optimizer, value_optimizer = new_optimizer(policy, o["learningRate"]), new_optimizer(value, o["valueLearningRate"])
    past_end, T, beta = o["terminal"] == "past-end", o["temperature"], o["beta"]
    iterations, updates, rollouts, orders = [], [], [], []
    for _ in range(o["iterations"]):
        batch = [rollout() for _ in range(o["batchSize"])]
        rollouts.append(batch)
        # The batch's training inputs: numbers, without gradients.
        kl_total = 0.0
        with torch.no_grad():
            for r in batch:
                r["old"] = log_probabilities(policy, r, T).tolist()
                ref = log_probabilities(reference, r, T).tolist()
                r["values"] = values(value, r, past_end).tolist()
                rewards = []
                for new, old in zip(r["old"], ref):
                    if o["klEstimator"] == "k1": kl = new - old
                    elif o["klEstimator"] == "k2": kl = 0.5 * (new - old) ** 2
                    else: kl = math.exp(old - new) - 1 - (old - new)
                    kl_total += kl
                    rewards.append(-beta * kl)
                if past_end: rewards.append(r["score"])
                else: rewards[-1] += r["score"]
                v = r["values"] + [0.0]
                deltas = [rewards[t] + o["gamma"] * v[t + 1] - v[t] for t in range(len(rewards))]
                gae = [sum((o["gamma"] * o["lambda"]) ** (u - t) * deltas[u] for u in range(t, len(deltas))) for t in range(len(deltas))]
                r["returns"] = [a + b for a, b in zip(gae, r["values"])]
                r["advantages"] = gae[: len(r["response"])]
        every = torch.tensor([a for r in batch for a in r["advantages"]], dtype=torch.float64)
        mean, variance = every.mean(), every.var(unbiased=False)
        for r in batch: r["advantages"] = [float((a - mean) / torch.sqrt(variance + 1e-8)) for a in r["advantages"]]
        first = batch[0]
        iterations.append({"kl": kl_total / len(batch), "beta": beta, "old": first["old"], "values": first["values"], "advantages": first["advantages"], "returns": first["returns"]})
        if o["klTarget"] is not None:
            beta *= 1 + max(-0.2, min(0.2, kl_total / len(batch) / o["klTarget"] - 1)) * len(batch) / o["klHorizon"]

        order = torch.randperm(len(batch), generator=draws).tolist()
        orders.append(order)
        for at in range(0, len(batch), o["miniBatchSize"]):
            part = [batch[i] for i in order[at : at + o["miniBatchSize"]]]
            numbers = lambda name: torch.tensor([x for r in part for x in r[name]])
            distributions = torch.cat([token_distributions(policy, r, T) for r in part])
            new = distributions[torch.arange(len(distributions)), torch.tensor([token for r in part for token in r["response"]])]
            ratio = torch.exp(new - numbers("old"))
            A = numbers("advantages")
            policy_loss = -torch.min(ratio * A, torch.clamp(ratio, 1 - o["clip"], 1 + o["clip"]) * A).mean()
            v, v_old, R = torch.cat([values(value, r, past_end) for r in part]), numbers("values"), numbers("returns")
            v_clipped = v_old + torch.clamp(v - v_old, -o["valueClip"], o["valueClip"])
            value_loss = 0.5 * torch.max((v - R) ** 2, (v_clipped - R) ** 2).mean()
            with torch.no_grad():
                d = new - numbers("old")
                row = {
                    "policyLoss": float(policy_loss), "valueLoss": float(value_loss),
                    "clipFraction": float(((ratio - 1).abs() > o["clip"]).float().mean()), "approximateKl": float((d.exp() - 1 - d).mean()),
                    "entropy": float(-(distributions.exp() * distributions).sum(-1).mean()),
                }
            for name, model, optimizer, loss in [("policy", policy, policy_optimizer, policy_loss), ("value", value, value_optimizer, value_loss)]:
                optimizer.zero_grad()
                loss.backward()
                row[f"{name}GradientNorm"] = float(torch.nn.utils.clip_grad_norm_(list(model.values()), o["maxNorm"]))
                optimizer.step()
            updates.append(row)
    for batch in rollouts:
        for r in batch:
            for name in ("old", "values", "returns", "advantages"): del r[name]
    return {"options": o, "rollouts": rollouts, "orders": orders, "iterations": iterations, "updates": updates}


paper = {"batchSize": 8, "miniBatchSize": 2, "clip": 0.2, "valueClip": 0.2, "gamma": 1.0, "lambda": 0.95, "maxNorm": 1.0, "learningRate": 3e-3, "valueLearningRate": 2e-3}
runs = {
    "paper": {**paper, "iterations": 25, "temperature": 1.0, "beta": 0.01, "klEstimator": "k1", "klTarget": None, "klHorizon": None, "terminal": "last-token"},
    "other": {**paper, "iterations": 5, "temperature": 0.8, "beta": 0.2, "klEstimator": "k3", "klTarget": 2.0, "klHorizon": 100, "terminal": "past-end", "gamma": 0.98},
}


def rounded(value):
    if isinstance(value, float): return float(f"{value:.8g}")
    if isinstance(value, dict): return {name: rounded(inner) for name, inner in value.items()}
    if isinstance(value, list): return [rounded(inner) for inner in value]
    return value


results = {"head": head, **{name: train(options) for name, options in runs.items()}}
os.makedirs(out, exist_ok=True)
with open(os.path.join(out, "ppo100.json"), "w") as file:
    json.dump(rounded(results), file, separators=(",", ":"))
    file.write("\n")
with open(os.path.join(out, "manifest.json"), "w") as file:
    json.dump({"tool": f"PyTorch {torch.__version__}, CPU float32, one thread", "seed": SEED, "command": "/usr/bin/python3 tests/peers/ppo_reference.py", "file": "../../peers/ppo_reference.py", "start": "../llama-gqa/model"}, file, indent=2)
    file.write("\n")
for name in runs:
    ups = results[name]["updates"]
    print(name, len(ups), ups[0], ups[-1], max(u["clipFraction"] for u in ups), results[name]["iterations"][-1]["kl"], results[name]["iterations"][-1]["beta"])
