"""Peer of bench/train-gpu.ts: the same Llama by transformers (sdpa attention) with PyTorch's fused AdamW. Usage: torch_train_gpu.py float32|bfloat16 [tf32]"""
import json, sys, time, torch
from transformers import LlamaConfig, LlamaForCausalLM

dtype = getattr(torch, sys.argv[1]); tf32 = len(sys.argv) > 2 and sys.argv[2] == "tf32"
torch.backends.cuda.matmul.allow_tf32 = tf32
B, T, V = 16, 1024, 32000
config = LlamaConfig(vocab_size=V, hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12, num_key_value_heads=12, max_position_embeddings=4096)
config._attn_implementation = "sdpa"
with torch.device("cuda"):
    torch.set_default_dtype(dtype); model = LlamaForCausalLM(config).train(); torch.set_default_dtype(torch.float32)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.1, fused=True)
ids = ((torch.arange(B * T) * 7919) % V).view(B, T).cuda()
def step():
    model(input_ids=ids, labels=ids).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0); optimizer.step(); optimizer.zero_grad(set_to_none=True)
for _ in range(3): step()
torch.cuda.synchronize(); torch.cuda.reset_peak_memory_stats(); started = time.time()
for _ in range(10): step()
torch.cuda.synchronize(); ms = (time.time() - started) / 10 * 1e3
print(json.dumps(dict(who="transformers", dtype=sys.argv[1], tf32=tf32, parameters=sum(p.numel() for p in model.parameters()), milliseconds=ms, tokensPerSecond=round(B * T / ms * 1e3), peakGiB=torch.cuda.max_memory_allocated() / 2**30, torch=torch.__version__, gpu=torch.cuda.get_device_name(0))))
