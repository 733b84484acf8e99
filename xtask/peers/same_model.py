"""same_model.py A B: two Hugging Face directories hold the same weights (to the bit), tokenizer, template and shape."""
import json
import sys

from transformers import AutoConfig, AutoTokenizer
import torch
from safetensors.torch import load_file

a, b = sys.argv[1:]
x, y = load_file(f"{a}/model.safetensors"), load_file(f"{b}/model.safetensors")
if x.keys() != y.keys():
    sys.exit(f"tensors differ: {sorted(x.keys() ^ y.keys())}")
for name in x:
    if x[name].dtype != y[name].dtype or x[name].shape != y[name].shape or not torch.equal(x[name].view(torch.uint8), y[name].view(torch.uint8)):
        sys.exit(f"{name} differs")
ta, tb = AutoTokenizer.from_pretrained(a, local_files_only=True), AutoTokenizer.from_pretrained(b, local_files_only=True)
text = "It was a bright cold morning; \"Ha!\" cried the inspector — 1,234 times.\n\n\té 日本 👩‍👧 <|im_start|>x<|endoftext|>"
if ta.get_vocab() != tb.get_vocab() or ta(text)["input_ids"] != tb(text)["input_ids"]:
    sys.exit("tokenizers differ")
if ta.chat_template != tb.chat_template or (ta.bos_token, ta.eos_token) != (tb.bos_token, tb.eos_token):
    sys.exit("templates or special tokens differ")
ignored = {"_name_or_path", "transformers_version", "initializer_range", "attention_dropout", "pad_token_id", "architectures"}
ca, cb = (AutoConfig.from_pretrained(p, local_files_only=True).to_dict() for p in (a, b))
different = {k: (ca.get(k), cb.get(k)) for k in ca.keys() | cb.keys() if k not in ignored and ca.get(k) != cb.get(k)}
if different:
    sys.exit(f"configurations differ: {json.dumps(different, default=str)}")
print(f"{len(x)} tensors equal to the bit, {len(ta.get_vocab())} tokens, template and configuration equal")
