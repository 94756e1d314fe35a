"""PPO's losses and gradients with LoRA, with PEFT and transformers, in float64 except where transformers computes in float32 (norms, rotation, softmax).

    ppo_lora_reference.py       # from the project's root; rewrites tests/golden/ppo-lora

The policy is tests/golden/llama-gqa/model with the adapter of tests/golden/lora-all-linear. The value model is a PEFT adapter of the task SEQ_CLS, with its
head, on the same base; it is saved in PEFT's format. Losses of some responses: the clipped policy loss of log-probabilities at a temperature, and half
the maximum of the clipped and the unclipped squared error of the values, each averaged over tokens. Sequences are processed one at a time, without padding.
"""
import json, os, shutil, torch, transformers, peft
from safetensors.torch import load_file, save_file

TEMPERATURE, CLIP, VALUE_CLIP, SEED = 0.7, 0.2, 0.1, 11
golden = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden")
base, out = os.path.join(golden, "llama-gqa", "model"), os.path.join(golden, "ppo-lora")
torch.set_num_threads(1)
torch.manual_seed(SEED)
shutil.rmtree(out, ignore_errors=True)

policy = transformers.LlamaForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
policy = peft.PeftModel.from_pretrained(policy, os.path.join(golden, "lora-all-linear", "adapter"), is_trainable=True).double().eval()
start = transformers.LlamaForSequenceClassification.from_pretrained(base, dtype=torch.float32, attn_implementation="eager", num_labels=1)
lora = peft.LoraConfig(task_type="SEQ_CLS", r=3, lora_alpha=6, use_rslora=True, lora_dropout=0.0, target_modules=["q_proj", "v_proj", "up_proj", "down_proj"])
value = peft.get_peft_model(start, lora)
for name, tensor in value.named_parameters():
    if tensor.requires_grad: torch.nn.init.normal_(tensor, std=0.3)
value.save_pretrained(os.path.join(out, "value"))
value = value.double().eval()

vocabulary = policy.config.vocab_size
responses = []
for prompt, length in ((4, 3), (1, 6), (7, 1), (3, 5)):
    draw = lambda n: (torch.rand(n, dtype=torch.float64) * 2 - 1).tolist()
    responses.append({
        "prompt": torch.randint(3, vocabulary, (prompt,)).tolist(), "response": torch.randint(3, vocabulary, (length,)).tolist(),
        "advantages": draw(length), "returns": draw(length), "drift": [0.4 * x for x in draw(length)], "valueDrift": [0.3 * x for x in draw(length)],
    })

def states(r): return torch.tensor([r["prompt"] + r["response"]]), len(r["prompt"]) - 1, len(r["response"])
def log_probabilities(r):
    ids, first, n = states(r)
    logits = policy(input_ids=ids).logits[0, first : first + n] / TEMPERATURE
    return logits.log_softmax(-1).gather(-1, torch.tensor(r["response"])[:, None]).squeeze(-1)
def values(r):
    ids, first, n = states(r)
    model = value.base_model.model
    return model.score(model.model(input_ids=ids).last_hidden_state[0, first : first + n]).squeeze(-1)

tokens = sum(len(r["response"]) for r in responses)
policy_loss, value_loss, clipped = 0, 0, 0
for r in responses:
    now, v = log_probabilities(r), values(r)
    old, before = now.detach() + torch.tensor(r.pop("drift")), v.detach() + torch.tensor(r.pop("valueDrift"))
    advantages, returns = torch.tensor(r["advantages"]).double(), torch.tensor(r["returns"]).double()
    ratio = (now - old).exp()
    policy_loss = policy_loss - torch.min(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages).sum() / tokens
    clipped += int(((ratio - 1).abs() > CLIP).sum())
    near = before + (v - before).clamp(-VALUE_CLIP, VALUE_CLIP)
    value_loss = value_loss + 0.5 * torch.max((v - returns) ** 2, (near - returns) ** 2).sum() / tokens
    r["logProbabilities"], r["values"], r["now"], r["valuesNow"] = old.tolist(), before.tolist(), now.tolist(), v.tolist()
assert 0 < clipped < tokens
policy_loss.backward(); value_loss.backward()
named = lambda model: {name.replace(".default.", ".").replace(".modules_to_save.default", "").replace("modules_to_save.", ""): p.grad for name, p in model.named_parameters() if p.requires_grad}
gradients = {**{f"policy.{n}": g for n, g in named(policy).items()}, **{f"value.{n}": g for n, g in named(value).items()}}
assert all(g is not None for g in gradients.values())
save_file({n: g.contiguous() for n, g in gradients.items()}, os.path.join(out, "gradients.safetensors"))
tool = f"PEFT {peft.__version__}, transformers {transformers.__version__}, PyTorch {torch.__version__}, CPU float64, one thread"
with open(os.path.join(out, "expected.json"), "w") as file:
    json.dump({"tool": tool, "command": "python3 tests/peers/ppo_lora_reference.py", "seed": SEED, "temperature": TEMPERATURE, "clip": CLIP, "valueClip": VALUE_CLIP, "policyLoss": policy_loss.item(), "valueLoss": value_loss.item(), "responses": responses}, file, indent=1)
    file.write("\n")
for name in ("README.md",):
    path = os.path.join(out, "value", name)
    if os.path.exists(path): os.remove(path)
config = os.path.join(out, "value", "adapter_config.json")
told = json.load(open(config)); told["base_model_name_or_path"] = None
json.dump(told, open(config, "w"), indent=2)
print(sorted(gradients)[:3], sorted(load_file(os.path.join(out, "value", "adapter_model.safetensors")))[-2:], policy_loss.item(), value_loss.item(), clipped, tokens)
