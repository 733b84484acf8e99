"""chat_template.py TEMPLATE CONVERSATIONS: each conversation as transformers renders it, as a JSON list."""
import json
import sys

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

template_path, cases_path = sys.argv[1:]
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(models.BPE(vocab={"<|im_start|>": 0, "<|im_end|>": 1}, merges=[])),
    bos_token="<|im_start|>",
    eos_token="<|im_end|>",
)
tokenizer.chat_template = open(template_path, encoding="utf-8").read()
cases = json.load(open(cases_path, encoding="utf-8"))
print(json.dumps([tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in cases]))
