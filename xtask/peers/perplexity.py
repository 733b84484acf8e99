"""perplexity.py MODEL TEXT TOKENS: perplexity of transformers in float32 over windows of 512 tokens that do not overlap."""
import math
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

path, text_path, limit = sys.argv[1:]
ids = AutoTokenizer.from_pretrained(path, local_files_only=True)(open(text_path, encoding="utf-8").read(), add_special_tokens=False)["input_ids"]
ids = torch.tensor(ids[: int(limit)])
model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, local_files_only=True).eval()
total, count = 0.0, 0
with torch.no_grad():
    for window in ids.split(512):
        if len(window) < 2:
            continue
        logprobs = model(window[None]).logits[0, :-1].double().log_softmax(-1)
        total -= logprobs.gather(1, window[1:, None]).sum().item()
        count += len(window) - 1
print(math.exp(total / count))
