# The comparison for bench/load.ts: the same file with safetensors, and the same folder with transformers. python bench/peers/load.py FOLDER [cpu|cuda]
import os, resource, subprocess, sys, time

def resident(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field + ":"))

def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime

def measured(step):
    with open("/proc/self/clear_refs", "w") as refs:
        refs.write("5")
    before, used, started = resident("VmRSS"), cpu(), time.time()
    kept = step()
    if device != "cpu":
        torch.cuda.synchronize()
    print(f"cpuSeconds {cpu() - used:.2f}, seconds {time.time() - started:.2f}, peakGiB {(resident('VmHWM') - before) / 2**30:.2f}")
    return kept

folder, device = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "cpu"
path = os.path.join(folder, "model.safetensors")
if len(sys.argv) <= 3:
    for step in ["safetensors bfloat16", "safetensors bfloat16 read", "safetensors float32", "transformers bfloat16", "transformers float32", "write"]:
        print(f"{step}, {device}:", subprocess.run([sys.executable, __file__, folder, device, step], stdout=subprocess.PIPE, check=True, text=True).stdout.strip())
    sys.exit()

import torch
from safetensors.torch import load_file, save_file
torch.set_num_threads(1)
torch.ones(1, device=device)
library, *dtype = sys.argv[3].split()
if library == "safetensors":
    to = getattr(torch, dtype[0])
    # Tensors of a mapped file are read when first used: "read" reads all of them once.
    read = len(dtype) > 1
    measured(lambda: {name: weight.to(to, copy=read) for name, weight in load_file(path, device=device).items()})
elif library == "transformers":
    from transformers import AutoModelForCausalLM
    measured(lambda: AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype[0])).to(device))
else:
    # Read every page first: load_file maps the file.
    weights = {name: weight.clone() for name, weight in load_file(path, device=device).items()}
    written = os.path.join(folder, "written.safetensors")
    measured(lambda: save_file(weights, written, metadata={"format": "pt"}))
    os.remove(written)
