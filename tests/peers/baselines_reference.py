"""Losses of DPO, RLOO and GRPO, their advantages and gradients, in float64: computed here from the formulas, and by TRL's own trainers as a check.

    baselines_reference.py      # from the project's root; rewrites tests/golden/baselines/losses.json

Six responses of one to five tokens, in groups of three. A response's tokens have log-probabilities under the policy (new), the one that sampled it (old) and
the reference. Means are over responses, and over the tokens of each for GRPO. Everything is computed with plain loops; autograd gives the gradients.
TRL's RLOOTrainer._compute_loss, GRPOTrainer._compute_loss and DPOTrainer._compute_loss are called on the same numbers and must agree.
"""
import json, os, torch
from types import SimpleNamespace

SEED, BETA, CLIP, DPO_BETA, K = 17, 0.3, 0.2, 0.4, 3
torch.manual_seed(SEED)
f64 = torch.float64
lengths = [4, 1, 3, 5, 2, 4]
draw = lambda scale: [(-1.5 + scale * torch.randn(n, dtype=f64)).clamp(max=-0.01) for n in lengths]
new = draw(0.8)
near = lambda scale: [(x + scale * torch.randn(len(x), dtype=f64)).clamp(max=-0.005) for x in new]
old, reference = near(0.25), near(0.5)
rewards = torch.tensor([1.0, -0.5, 0.25, 2.0, 0.0, -1.25], dtype=f64)
new = [x.clone().requires_grad_() for x in new]

def grads(loss):
    return [g.tolist() for g in torch.autograd.grad(loss, new)]

# ---- advantages, from their definitions ----
kl = torch.stack([(o - r).sum() for o, r in zip(old, reference)])
def leave_one_out(r):
    return torch.stack([r[i] - sum(r[j] for j in range(i // K * K, i // K * K + K) if j != i) / (K - 1) for i in range(len(r))])
def group_relative(r, divide):
    out = []
    for i in range(len(r)):
        group = [float(r[j]) for j in range(i // K * K, i // K * K + K)]
        mean = sum(group) / K
        deviation = (sum((x - mean) ** 2 for x in group) / (K - 1)) ** 0.5
        out.append((r[i] - mean) / (deviation + 1e-4 if divide else 1))
    return torch.stack(out)

out = {"seed": SEED, "beta": BETA, "clip": CLIP, "dpoBeta": DPO_BETA, "groupSize": K, "rewards": rewards.tolist(), "kl": kl.tolist()}
out["new"], out["old"], out["reference"] = ([x.tolist() for x in rows] for rows in (new, old, reference))

# ---- RLOO ----
rloo_advantages = leave_one_out(rewards - BETA * kl)
def rloo(advantages):
    total = 0
    for i in range(len(new)):
        ratio = (new[i].sum() - old[i].sum()).exp()
        clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
        total = total - torch.min(ratio * advantages[i], clipped * advantages[i])
    return total / len(new)
loss = rloo(rloo_advantages)
out["rloo"] = {"advantages": rloo_advantages.tolist(), "loss": loss.item(), "gradient": grads(loss)}

# ---- GRPO ----
def grpo(advantages, unbiased):
    total = 0
    for i in range(len(new)):
        mean = 0
        for t in range(lengths[i]):
            ratio = (new[i][t] - old[i][t]).exp()
            objective = torch.min(ratio * advantages[i], ratio.clamp(1 - CLIP, 1 + CLIP) * advantages[i])
            rho = (reference[i][t] - new[i][t]).exp()
            k3 = rho - rho.log() - 1
            mean = mean + (objective - BETA * (ratio * k3 if unbiased else k3)) / lengths[i]
        total = total - mean
    return total / len(new)
out["grpo"] = []
for divide in (True, False):
    for unbiased in (False, True):
        advantages = group_relative(rewards, divide)
        loss = grpo(advantages, unbiased)
        out["grpo"].append({"scale": "deviation" if divide else "none", "klGradient": "unbiased" if unbiased else "k3",
                            "advantages": advantages.tolist(), "loss": loss.item(), "gradient": grads(loss)})

# ---- DPO: response i + 3 is rejected for response i ----
def dpo():
    total = 0
    for i in range(3):
        w, l = i, i + 3
        margin = DPO_BETA * (new[w].sum() - reference[w].sum()) - DPO_BETA * (new[l].sum() - reference[l].sum())
        total = total + torch.log(1 + torch.exp(-margin))
    return total / 3
loss = dpo()
out["dpo"] = {"loss": loss.item(), "gradient": grads(loss)}

# ---- TRL ----
import trl
from trl.trainer.rloo_trainer import RLOOTrainer
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.dpo_trainer import DPOTrainer
from collections import defaultdict
width = max(lengths)
pad = lambda rows: torch.stack([torch.cat([x, torch.zeros(width - len(x), dtype=f64)]) for x in rows])
mask = pad([torch.ones(n, dtype=f64) for n in lengths])
ids = torch.ones(len(lengths), width, dtype=torch.long)
accelerator = SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x, reduce=lambda x, reduction: x, num_processes=1, device="cpu")
inputs = {"prompt_ids": ids[:, :1], "prompt_mask": ids[:, :1], "completion_ids": ids, "completion_mask": mask,
          "old_logps": torch.stack([x.sum() for x in old]), "old_per_token_logps": pad(old), "ref_per_token_logps": pad(reference)}
def stub(**more):
    return SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (pad(new), torch.zeros_like(mask), None),
        epsilon_low=CLIP, epsilon_high=CLIP, beta=BETA, aux_loss_enabled=False, accelerator=accelerator,
        model=SimpleNamespace(training=False), _metrics={"eval": defaultdict(list)}, **more)
def agree(name, theirs, ours):
    assert abs(theirs.item() - ours["loss"]) < 1e-12, (name, theirs.item(), ours["loss"])
    for a, b in zip(grads(theirs), ours["gradient"]):
        assert max(abs(x - y) for x, y in zip(a, b)) < 1e-12, name
agree("rloo", RLOOTrainer._compute_loss(stub(), None, {**inputs, "advantages": rloo_advantages}), out["rloo"])
for case in out["grpo"]:
    args = SimpleNamespace(use_bias_correction_kl=case["klGradient"] == "unbiased", delta=None)
    self = stub(top_entropy_quantile=1.0, off_policy_mask_threshold=None, importance_sampling_level="token", loss_type="grpo", use_vllm=False,
                vllm_importance_sampling_correction=False, _entropy_bonus_enabled=False, use_adaptive_entropy=False, args=args)
    agree("grpo", GRPOTrainer._compute_loss(self, None, {**inputs, "advantages": torch.tensor(case["advantages"], dtype=f64)}), case)

# DPO takes logits: two columns; the first has the token's log-probability.
class Model:
    training = False
    def __init__(self, rows): self.rows = rows
    def __call__(self, **_):
        p = pad(self.rows)
        logits = torch.stack([p, torch.log1p(-p.exp().clamp(max=1 - 1e-15))], -1)
        return SimpleNamespace(logits=torch.cat([logits, logits[:, :1]], 1))
def trl_dpo():
    self = SimpleNamespace(
        model=Model(new), ref_model=Model(reference), accelerator=accelerator, aux_loss_enabled=False, ld_alpha=None, precompute_ref_logps=False,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None), f_divergence_type="reverse_kl", loss_types=["sigmoid"], loss_weights=[1.0], beta=DPO_BETA,
        use_weighting=False, _total_train_tokens=0, _metrics={"eval": defaultdict(list)}, label_smoothing=0.0)
    token = torch.zeros(len(lengths), width + 1, dtype=torch.long)
    seen = torch.cat([torch.zeros(len(lengths), 1, dtype=f64), mask], 1)
    import trl.trainer.dpo_trainer as module
    module.disable_gradient_checkpointing = lambda *a, **k: __import__("contextlib").nullcontext()
    module.is_peft_model = lambda model: False
    return DPOTrainer._compute_loss(self, self.model, {"input_ids": token, "attention_mask": token, "completion_mask": seen}, False)
agree("dpo", trl_dpo(), out["dpo"])

folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden", "baselines")
os.makedirs(folder, exist_ok=True)
with open(os.path.join(folder, "losses.json"), "w") as file:
    file.write(json.dumps(out) + "\n")
clipped = sum(bool(((x.sum() - o.sum()).exp() - 1).abs() > CLIP) for x, o in zip(new, old))
print("TRL", trl.__version__, "PyTorch", torch.__version__, "agree to 1e-12;", clipped, "of 6 responses beyond the clip; losses", out["rloo"]["loss"], [c["loss"] for c in out["grpo"]], out["dpo"]["loss"])
