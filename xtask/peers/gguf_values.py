"""gguf_values.py GGUF DIRECTORY: every tensor of the GGUF file, decoded by gguf-py, equals the one of the float32 directory to the bit.

Rows of Q and K are put back into Hugging Face's order here, independently of Coffer. Prints the number of tensors."""
import json
import sys

import numpy as np
from gguf import GGUFReader, dequantize
from safetensors.numpy import load_file

gguf_path, directory = sys.argv[1:]
config = json.load(open(f"{directory}/config.json"))
theirs = load_file(f"{directory}/model.safetensors")
heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
parts = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}
top = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}
count = 0
for tensor in GGUFReader(gguf_path).tensors:
    shape = tuple(int(n) for n in reversed(tensor.shape))
    values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(shape)
    if tensor.name in top:
        name = top[tensor.name]
    else:
        _, layer, part, _ = tensor.name.split(".")
        name = f"model.layers.{layer}.{parts[part]}.weight"
        if part in heads:
            n = heads[part]
            values = values.reshape(n, shape[0] // n // 2, 2, shape[1]).swapaxes(1, 2).reshape(shape)
    mine = theirs[name].astype(np.float32)
    if mine.shape != values.shape or (mine.view(np.uint32) != values.view(np.uint32)).any():
        sys.exit(f"{tensor.name}: values differ from {name}")
    count += 1
print(count)
