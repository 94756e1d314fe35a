"""The comparison for bench/train-gpu.ts: the same Llama with transformers (sdpa attention) and PyTorch's fused AdamW, without float32 masters.
Usage: torch_train_gpu.py dtype=bfloat16 size=134m batch=16 length=1024 micro=1 steps=10 [tf32=on] [compile=on] [checkpointing=on]"""
import json, sys, time, torch
from transformers import LlamaConfig, LlamaForCausalLM

given = dict(word.split("=") for word in sys.argv[1:])
number = lambda name, otherwise: int(given.get(name, otherwise))
dtype = getattr(torch, given.get("dtype", "bfloat16")); tf32 = given.get("tf32") == "on"
torch.backends.cuda.matmul.allow_tf32 = tf32
B, T, micro, steps, V = number("batch", 16), number("length", 1024), number("micro", 1), number("steps", 10), 32000
size = given.get("size", "134m")
dim, ffn, layers, heads, groups = {"110m": (768, 2048, 12, 12, 12), "134m": (768, 2048, 12, 12, 12), "1.1b": (2048, 5632, 22, 32, 4), "7b": (4096, 11008, 32, 32, 32)}[size]
config = LlamaConfig(vocab_size=V, hidden_size=dim, intermediate_size=ffn, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=groups, max_position_embeddings=4096, tie_word_embeddings=size == "110m")
config._attn_implementation = "sdpa"; config.use_cache = False
with torch.device("cuda"):
    torch.set_default_dtype(dtype); model = LlamaForCausalLM(config).train(); torch.set_default_dtype(torch.float32)
if given.get("checkpointing") == "on": model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=dict(use_reentrant=False))
run = torch.compile(model) if given.get("compile") == "on" else model
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.1, fused=True)
ids = ((torch.arange(B * T) * 7919) % V).view(B, T).cuda()
def step():
    for _ in range(micro): (run(input_ids=ids, labels=ids).loss / micro).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0); optimizer.step(); optimizer.zero_grad(set_to_none=True)
for _ in range(min(3, steps)): step()
torch.cuda.synchronize(); torch.cuda.reset_peak_memory_stats(); started = time.time()
for _ in range(steps): step()
torch.cuda.synchronize(); ms = (time.time() - started) / steps * 1e3
print(json.dumps(dict(who="transformers" + (", compiled" if given.get("compile") == "on" else ""), size=size, dtype=given.get("dtype", "bfloat16"), tf32=tf32, batch=B, length=T, micro=micro, compiled=given.get("compile") == "on", checkpointing=given.get("checkpointing") == "on",
    parameters=sum(p.numel() for p in model.parameters()), milliseconds=ms, tokensPerSecond=round(B * T * micro / ms * 1e3), peakGiB=torch.cuda.max_memory_allocated() / 2**30, torch=torch.__version__, gpu=torch.cuda.get_device_name(0))))
