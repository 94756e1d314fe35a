"""Reference speed on several GPUs: full fine-tuning of a random Llama with PyTorch FSDP2 (float32 masters, bf16 compute, float32 reduction).
Usage: torchrun --nproc-per-node N bench/peers/fsdp2.py SIZE BATCH_PER_GPU LENGTH [checkpointing] [compile] [steps=6]. Needs torch with CUDA and transformers."""
import sys, time, torch, torch.distributed as dist
from torch.distributed.fsdp import fully_shard, MixedPrecisionPolicy
from transformers import LlamaConfig, LlamaForCausalLM
size, B, T, ac = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), "checkpointing" in sys.argv[4:]
compiled = "compile" in sys.argv[4:]
k = next((int(word[6:]) for word in sys.argv[4:] if word.startswith("steps=")), 6)
dist.init_process_group("nccl"); rank = dist.get_rank(); world = dist.get_world_size(); torch.cuda.set_device(rank % torch.cuda.device_count())
shape = {"110m": (768, 2048, 12, 12, 12), "1.1b": (2048, 5632, 22, 32, 4), "7b": (4096, 11008, 32, 32, 32)}[size]
config = LlamaConfig(vocab_size=32000, max_position_embeddings=4096, hidden_size=shape[0], intermediate_size=shape[1], num_hidden_layers=shape[2], num_attention_heads=shape[3], num_key_value_heads=shape[4])
config._attn_implementation = "sdpa"; config.use_cache = False
with torch.device("meta"): model = LlamaForCausalLM(config)
if compiled:
    for layer in model.model.layers: layer.compile()
policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
for layer in model.model.layers: fully_shard(layer, mp_policy=policy)
fully_shard(model, mp_policy=policy)
model.to_empty(device="cuda")
for p in model.parameters(): torch.nn.init.normal_(p, 0, .02)
for m in model.modules():
    if hasattr(m, "inv_freq"):
        d = config.hidden_size // config.num_attention_heads
        m.inv_freq = 1.0 / (10000 ** (torch.arange(0, d, 2, device="cuda").float() / d))
if ac: model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=dict(use_reentrant=False))
model.train(); N = sum(p.numel() for p in model.parameters()); opt = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
ids = torch.randint(0, 32000, (B, T), device="cuda")
def step():
    loss = model(input_ids=ids, labels=ids).loss; loss.backward(); torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0); opt.step(); opt.zero_grad(set_to_none=True)
for _ in range(min(3, k)): step()
torch.cuda.synchronize(); dist.barrier(); torch.cuda.reset_peak_memory_stats(); t = time.time()
for _ in range(k): step()
torch.cuda.synchronize(); dist.barrier(); s = (time.time() - t) / k
fl = (6 * N * T + 12 * shape[2] * shape[0] * T * T / 2) * B
if rank == 0: print(f"FSDP2 {size} world {world} B{B}/GPU T{T} checkpointing={ac} compile={compiled}: {world * B * T / s:,.0f} tok/s, {s * 1e3:.0f} ms, MFU {fl / s / 989e12:.3f} a GPU, peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB a GPU", flush=True)
dist.destroy_process_group()
