"""token_ids.py TOKENIZER TEXT IDS: fail unless the little-endian u32 ids are those of the tokenizers package."""
import sys

import numpy as np
from tokenizers import Tokenizer

tokenizer_path, text_path, ids_path = sys.argv[1:]
with open(text_path, encoding="utf-8", newline="") as file:
    theirs = np.array(Tokenizer.from_file(tokenizer_path).encode(file.read(), add_special_tokens=False).ids)
ours = np.fromfile(ids_path, "<u4")
if len(ours) != len(theirs) or (ours != theirs).any():
    same = min(len(ours), len(theirs))
    at = next((i for i in range(same) if ours[i] != theirs[i]), same)
    sys.exit(f"{text_path}: {len(ours)} ids, tokenizers {len(theirs)}; first difference at {at}: {ours[at:at+5]} / {theirs[at:at+5]}")
