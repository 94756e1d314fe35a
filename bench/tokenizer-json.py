"""Tokenises with Hugging Face's library and one thread: python3 bench/tokenizer-json.py <folder> <text file>. The comparison for bench/tokenizer-json.ts."""
import os, sys, time

os.environ["RAYON_NUM_THREADS"] = "1"
from tokenizers import Tokenizer

folder, file = sys.argv[1:3]
lines = open(file, encoding="utf-8").read().split("\n")
size = sum(len(line.encode()) for line in lines)
start = time.process_time()
tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
loaded = time.process_time() - start
speeds = []
for _ in range(2):
    start = time.process_time()
    tokens = sum(len(tokenizer.encode(line, add_special_tokens=False).ids) for line in lines)
    speeds.append(size / 1e6 / (time.process_time() - start))
print(f"load {loaded:.2f} s; {tokens} tokens; {speeds[0]:.2f} MB/s first pass, {speeds[1]:.2f} MB/s second pass")
