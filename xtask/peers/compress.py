"""Quantizes a model with llmcompressor: compress.py MODEL METHOD TEXT TOKENS OUT, where METHOD is rtn or gptq.

The text is cut into windows of 512 tokens, as many as TOKENS hold."""

import sys

import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from transformers import AutoModelForCausalLM, AutoTokenizer

source, method, text, tokens, out = sys.argv[1:]
WINDOW = 512

model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
tokenizer = AutoTokenizer.from_pretrained(source)
common = {"targets": "Linear", "scheme": "W4A16", "ignore": ["lm_head"]}
if method == "rtn":
    oneshot(model=model, recipe=[QuantizationModifier(**common)])
else:
    with open(text, encoding="utf-8") as file:
        ids = tokenizer(file.read())["input_ids"][: int(tokens)]
    windows = [ids[i : i + WINDOW] for i in range(0, len(ids) - WINDOW + 1, WINDOW)]
    data = Dataset.from_dict({"input_ids": windows, "attention_mask": [[1] * WINDOW for _ in windows]})
    recipe = [GPTQModifier(**common)]
    oneshot(model=model, dataset=data, recipe=recipe, max_seq_length=WINDOW, num_calibration_samples=len(windows))
model.save_pretrained(out, save_compressed=True)
tokenizer.save_pretrained(out)
