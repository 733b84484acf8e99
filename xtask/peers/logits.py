"""logits.py IDS (MODEL OUT)…: logits of transformers in float32 for little-endian u32 ids, as raw little-endian f32."""
import sys

import numpy as np
import torch
from transformers import AutoModelForCausalLM

ids_path, *pairs = sys.argv[1:]
ids = torch.from_numpy(np.fromfile(ids_path, "<u4").astype(np.int64))[None]
for model_path, out_path in zip(pairs[::2], pairs[1::2]):
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32, local_files_only=True).eval()
    with torch.no_grad():
        logits = model(ids).logits[0]
    logits.numpy().astype("<f4").tofile(out_path)
