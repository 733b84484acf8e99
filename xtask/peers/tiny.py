"""tiny.py TOKENIZER OUT FAMILY…: a tiny random model of each family, made by transformers, in OUT/FAMILY/model with TOKENIZER's files."""
import pathlib
import shutil
import sys

import torch
from transformers import AutoConfig, AutoModelForCausalLM

SHAPE = dict(vocab_size=4096, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
             intermediate_size=96, max_position_embeddings=1024, tie_word_embeddings=False, initializer_range=0.1,
             bos_token_id=0, eos_token_id=0, pad_token_id=0, attn_implementation="eager")
EXPERTS = dict(num_experts=8, num_experts_per_tok=3, moe_intermediate_size=32)
FAMILIES = {
    "llama": dict(model_type="llama"),
    "mistral": dict(model_type="mistral", sliding_window=64),
    "qwen2": dict(model_type="qwen2", head_dim=16),
    "qwen3": dict(model_type="qwen3"),
    "phi3": dict(model_type="phi3", head_dim=16),
    "phi3-window": dict(model_type="phi3", head_dim=16, sliding_window=64),
    "mixtral": dict(model_type="mixtral", head_dim=16, num_local_experts=8, num_experts_per_tok=2),
    "qwen2_moe": dict(model_type="qwen2_moe", head_dim=16, shared_expert_intermediate_size=64, **EXPERTS),
    "gemma2": dict(model_type="gemma2", head_dim=16, sliding_window=64, query_pre_attn_scalar=16, final_logit_softcapping=4.0,
                   attn_logit_softcapping=5.0, num_hidden_layers=4, tie_word_embeddings=True),
    "gemma3": dict(model_type="gemma3_text", head_dim=16, sliding_window=64, query_pre_attn_scalar=16, num_hidden_layers=7,
                   tie_word_embeddings=True, rope_parameters=dict(
                       full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1e6),
                       sliding_attention=dict(rope_type="default", rope_theta=1e4))),
    "qwen3_moe": dict(model_type="qwen3_moe", norm_topk_prob=True, **EXPERTS),
}


def make(family, tokenizer, folder):
    torch.manual_seed(1)
    fields = {**SHAPE, **FAMILIES[family]}
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1:
                weight.add_(0.2 * torch.randn_like(weight))
    model.to(torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, folder)


tokenizer, out, *families = sys.argv[1:]
for family in families:
    make(family, pathlib.Path(tokenizer), pathlib.Path(out) / family / "model")
