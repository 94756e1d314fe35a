"""LoRA with PEFT and transformers.

    lora_reference.py                                        # from the project's root; rewrites tests/golden/lora-all-linear/sft20.json
    lora_reference.py check BASE ADAPTER IDS.json LOGPROBS.json   # an adapter written by Caravan: PEFT must give the same log-probabilities

The first command: twenty steps of fine-tuning from tests/golden/llama-gqa/model with the adapter in the same folder, on the first batches of
tests/golden/stages-train50 (packed rows: each token attends only to its own segment). Only the adapter is trained.
"""
import json, math, os, sys, torch, transformers, peft
import torch.nn.functional as F

STEPS, PEAK, WARMUP = 20, 5e-3, 3
golden = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden")
torch.set_num_threads(1)


def load(base, adapter, trainable):
    model = transformers.LlamaForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    return peft.PeftModel.from_pretrained(model, adapter, is_trainable=trainable)


def check(base, adapter, ids, ours):
    model = load(base, adapter, False).eval()
    worst = 0
    for sequence, row in zip(json.load(open(ids)), json.load(open(ours)), strict=True):
        x = torch.tensor([sequence])
        with torch.no_grad(): lp = model(input_ids=x).logits.log_softmax(-1)
        theirs = lp[0, :-1].gather(-1, x[0, 1:, None]).squeeze(-1).tolist()
        worst = max([worst, *(abs(a - b) for a, b in zip(row, theirs, strict=True))])
    print(f"largest difference of log-probabilities: {worst:.2e}")
    assert worst < 1e-4


def loss_of(model, rows):
    tokens, segments, on = (torch.tensor([row[field] for row in rows]) for field in ("tokens", "segments", "lossMask"))
    length = tokens.shape[1]
    seen = torch.ones(length, length, dtype=torch.bool).tril() & (segments[:, :, None] == segments[:, None, :])
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None]  # (B, 1, T, T)
    positions = torch.tensor([[i - row["segments"].index(s) for i, s in enumerate(row["segments"])] for row in rows])
    logits = model(input_ids=tokens, attention_mask=mask, position_ids=positions).logits
    targets = tokens[:, 1:].masked_fill(on[:, 1:] == 0, -100)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten(), ignore_index=-100)


def train():
    sft = json.load(open(os.path.join(golden, "stages-train50", "train50.json")))["sft"]
    model = load(os.path.join(golden, "llama-gqa", "model"), os.path.join(golden, "lora-all-linear", "adapter"), True).train()
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert len(trained) == 28 and all("lora_" in name for name in trained)
    optimizer = torch.optim.AdamW(trained.values(), lr=PEAK, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.1)
    losses, norms = [], []
    for step in range(STEPS):
        rate = PEAK * (step + 1) / WARMUP if step < WARMUP else PEAK * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP))))
        for group in optimizer.param_groups: group["lr"] = rate
        optimizer.zero_grad()
        loss = loss_of(model, sft["rows"][step * sft["rowsABatch"] : (step + 1) * sft["rowsABatch"]])
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)))
        optimizer.step()
        losses.append(float(loss))
    tool = f"PEFT {peft.__version__}, transformers {transformers.__version__}, PyTorch {torch.__version__}, CPU float32, one thread"
    merged = model.merge_and_unload()
    sums = {name: float(value.double().square().sum()) for name, value in merged.named_parameters() if "proj" in name}
    with open(os.path.join(golden, "lora-all-linear", "sft20.json"), "w") as file:
        json.dump({"tool": tool, "command": "python3 tests/peers/lora_reference.py", "peak": PEAK, "warmup": WARMUP, "losses": losses, "gradientNorms": norms, "mergedSumsOfSquares": sums}, file, indent=1)
        file.write("\n")
    print(losses[0], losses[-1], max(norms), min(norms))


check(*sys.argv[2:]) if sys.argv[1:2] == ["check"] else train()
