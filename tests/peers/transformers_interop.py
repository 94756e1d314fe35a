"""Checkpoints to and from transformers, both ways.

    transformers_interop.py check FOLDER IDS.json LOGPROBS.json   # a folder written by Caravan: transformers must give the same log-probabilities
    transformers_interop.py save FOLDER IDS.json OUT.json         # writes a folder (a random Llama, sharded, bfloat16), and its log-probabilities
    transformers_interop.py reward FOLDER                         # a reward model written by Caravan must load as LlamaForSequenceClassification
    transformers_interop.py tokenizer FOLDER LINES.json IDS.json  # a tokenizer.json written by Caravan: tokenizers must give the same ids (not for text with
                                                                  # "<s>" or "</s>", which tokenizers treats as control tokens and Caravan does not)
"""
import json, sys, torch
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

def logprobs(model, sequences):
    out = []
    for ids in sequences:
        x = torch.tensor([ids])
        with torch.no_grad(): lp = model(x).logits.float().log_softmax(-1)
        out.append(lp[0, :-1].gather(-1, x[0, 1:, None]).squeeze(-1).tolist())
    return out

what, folder = sys.argv[1], sys.argv[2]
if what == "check":
    ids, ours = json.load(open(sys.argv[3])), json.load(open(sys.argv[4]))
    model, info = LlamaForCausalLM.from_pretrained(folder, torch_dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    theirs = logprobs(model.eval(), ids)
    worst = max(abs(a - b) for r, s in zip(ours, theirs) for a, b in zip(r, s))
    print(f"largest difference of log-probabilities: {worst:.2e}"); assert worst < 1e-4
elif what == "reward":
    model, info = LlamaForSequenceClassification.from_pretrained(folder, torch_dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    print("reward model loads; parameters", sum(p.numel() for p in model.parameters()))
elif what == "save":
    torch.manual_seed(3)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=1024, hidden_size=64, intermediate_size=176, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128, rope_theta=10000.0, bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=False)).eval()
    with torch.no_grad():
        for p in model.parameters(): p.mul_(3).copy_(p.bfloat16().float())
    json.dump(logprobs(model, json.load(open(sys.argv[3]))), open(sys.argv[4], "w"))
    model.bfloat16().save_pretrained(folder, max_shard_size="200KB")
elif what == "tokenizer":
    from tokenizers import Tokenizer
    lines, ours = json.load(open(sys.argv[3])), json.load(open(sys.argv[4]))
    tokenizer = Tokenizer.from_file(folder + "/tokenizer.json")
    theirs = [tokenizer.encode(line, add_special_tokens=False).ids for line in lines]
    bad = [i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b]
    print(f"{len(lines) - len(bad)} of {len(lines)} lines tokenised alike"); assert not bad, [(lines[i], ours[i], theirs[i]) for i in bad[:3]]
