"""same_merge.py MODELS MERGED: the mean of scribe-8m with each of its adapters, merged by PEFT in float32, equals MERGED to the rounding of bf16."""
import sys

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

models, merged = sys.argv[1:]


def with_adapter(name):
    base = AutoModelForCausalLM.from_pretrained(f"{models}/scribe-8m", dtype=torch.float32, local_files_only=True)
    return PeftModel.from_pretrained(base, f"{models}/{name}").merge_and_unload().state_dict()


a, b = with_adapter("scribe-8m-detective-lora"), with_adapter("scribe-8m-verse-lora")
ours = load_file(f"{merged}/model.safetensors")
worst, apart, total = 0.0, 0, 0
for name, tensor in ours.items():
    exact = (a[name] + b[name]) / 2
    error = (tensor.float() - exact).abs()
    # bf16 keeps 8 bits: half a unit in the last place, and as much again for another order of float32 sums.
    allowed = exact.abs() * 2.0**-8 + 1e-6
    if (error > allowed).any():
        sys.exit(f"{name}: off by {error.max().item()}")
    worst = max(worst, error.max().item())
    apart += (tensor != exact.to(torch.bfloat16)).sum().item()
    total += tensor.numel()
print(f"{len(ours)} tensors, largest difference {worst:.1e}; {apart} of {total} values round the other way")
