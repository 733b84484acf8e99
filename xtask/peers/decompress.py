"""Whether transformers and compressed-tensors read what Coffer wrote: decompress.py COMPRESSED PLAIN.

PLAIN holds the same weights in F32, as Coffer decodes them. Prints how many weights compressed-tensors decompresses to the same
numbers, and how far the models' predictions are apart."""

import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

compressed, plain = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(compressed, dtype=torch.bfloat16)
reference = AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32)
ids = torch.arange(5, 260).unsqueeze(0)
with torch.no_grad():
    here, there = model(ids).logits.float().log_softmax(-1), reference(ids).logits.log_softmax(-1)
divergence = (there.exp() * (there - here)).sum(-1).mean().item()

expected, same = load_file(f"{plain}/model.safetensors"), 0
for name, module in model.named_modules():
    if hasattr(module, "weight_scale"):
        # The first run has decompressed it. They multiply in bf16, Coffer in f32.
        difference = module.weight.float() - expected[f"{name}.weight"].to(torch.bfloat16).float()
        if difference.abs().max().item() != 0:
            sys.exit(f"{name} differs by {difference.abs().max().item()}")
        same += 1
print(same, divergence)
