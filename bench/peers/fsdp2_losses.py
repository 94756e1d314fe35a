"""The losses of bench/losses.ts with PyTorch FSDP2: float32 masters, bfloat16 compute, float32 reduction; the same weights, tokens and optimiser.
Usage: torchrun --nproc-per-node N bench/peers/fsdp2_losses.py <model folder> steps=20 batch=2 length=4096 [dtype=float32]. Needs torch and transformers; without CUDA it uses Gloo."""
import sys, torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, MixedPrecisionPolicy
from transformers import LlamaForCausalLM
folder, given = sys.argv[1], dict(word.split("=") for word in sys.argv[2:])
steps, batch, length = (int(given.get(name, usual)) for name, usual in (("steps", 20), ("batch", 2), ("length", 4096)))
device = "cuda" if torch.cuda.is_available() else "cpu"
dist.init_process_group("nccl" if device == "cuda" else "gloo"); rank, world = dist.get_rank(), dist.get_world_size()
if device == "cuda": torch.cuda.set_device(rank % torch.cuda.device_count())
model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").to(device)
model.config.use_cache = False; model.train()
if device == "cuda": model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=dict(use_reentrant=False))
compute = torch.float32 if given.get("dtype") == "float32" else torch.bfloat16
shard = dict(mesh=init_device_mesh(device, (world,)), mp_policy=MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32))
for layer in model.model.layers: fully_shard(layer, **shard)
fully_shard(model, **shard)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.1)
token = lambda row, t: 3 + (row * 31 + t * 7) % 251
for step in range(steps):
    rows = [(step * world + rank) * batch + i for i in range(batch)]
    tokens = torch.tensor([[token(row, t) for t in range(length + 1)] for row in rows], device=device)
    logits = model(input_ids=tokens[:, :-1]).logits.float()
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward(); torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0); optimizer.step(); optimizer.zero_grad(set_to_none=True)
    total = loss.detach().clone(); dist.all_reduce(total)
    if rank == 0: print(f"step {step + 1} loss {total.item() / world:.5f}", flush=True)
dist.destroy_process_group()
