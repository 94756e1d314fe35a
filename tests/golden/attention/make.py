"""Attention weights of the golden models from transformers' eager attention: the maximum over layers and heads, and those of one head."""
import json, sys
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM

golden = Path(__file__).parent.parent
torch.manual_seed(11)
out = {}
for name in ["llama-gqa", "families/llama3-rope", "families/mistral-window", "families/qwen2-bias", "families/qwen3-qknorm"]:
    model = AutoModelForCausalLM.from_pretrained(golden / name / "model", attn_implementation="eager", dtype=torch.float32).eval()
    length = min(40, model.config.max_position_embeddings)
    ids = torch.randint(3, model.config.vocab_size, (1, length))
    with torch.no_grad():
        weights = torch.stack(model(ids, output_attentions=True).attentions)[:, 0]  # (layers, heads, T, T)
    rounded = lambda x: [round(float(value), 7) for value in x.flatten()]
    out[name] = {"ids": ids[0].tolist(), "greatest": rounded(weights.amax((0, 1))), "layer1head1": rounded(weights[1, 1])}
json.dump(out, open(Path(__file__).parent / "expected.json", "w"))
print({name: len(one["ids"]) for name, one in out.items()}, torch.__version__)
