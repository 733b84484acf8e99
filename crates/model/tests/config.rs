//! Configurations: what is read, what is refused, and the way through GGUF and back.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use coffer_checkpoint::{DType, TensorIndex, TensorInfo, gguf::Metadata, gguf::Value};
use coffer_model::{Architecture, ConfigError, Experts, ModelConfig, RopeScaling};
use serde_json::{Value as Json, json};

fn llama() -> Json {
    json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 100, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": [2, 3], "rope_theta": 500000.0})
}

fn with(changes: Json) -> Result<ModelConfig, ConfigError> {
    let mut config = llama();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    ModelConfig::from_hf(config.to_string().as_bytes(), None)
}

#[test]
fn old_and_new_names_say_the_same() {
    let old = with(json!({"rope_scaling": {"type": "linear", "factor": 4.0}})).unwrap();
    let new = with(json!({"rope_theta": null,
        "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500000.0}}));
    assert_eq!(old, new.unwrap());
    assert_eq!((old.head_dim, old.rope.theta), (16, 500_000.0));
    assert_eq!(with(json!({"eos_token_id": 2})).unwrap().eos, [2]);
    let generation = br#"{"eos_token_id": [7, 8, 9]}"#;
    assert_eq!(ModelConfig::from_hf(llama().to_string().as_bytes(), Some(generation)).unwrap().eos, [7, 8, 9]);
}

#[test]
fn windows_follow_each_family() {
    let family = |class: &str, more: Json| {
        let mut changes = json!({"architectures": [class], "model_type": null});
        changes.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        with(changes)
    };
    let mistral = family("MistralForCausalLM", json!({"sliding_window": 32})).unwrap();
    assert_eq!((mistral.architecture, mistral.sliding_window), (Architecture::Mistral, Some(32)));
    assert_eq!(family("MistralForCausalLM", json!({"sliding_window": null})).unwrap().sliding_window, None);
    let qwen = |more| family("Qwen2ForCausalLM", more);
    assert!(qwen(json!({})).unwrap().architecture.family().qkv_bias);
    assert_eq!(qwen(json!({"sliding_window": 32, "use_sliding_window": false})).unwrap().sliding_window, None);
    assert!(qwen(json!({"sliding_window": 32, "use_sliding_window": true, "max_window_layers": 1})).is_err());
    assert!(qwen(json!({"layer_types": ["full_attention", "sliding_attention"]})).is_err());
}

#[test]
fn what_is_not_computed_is_refused_by_name() {
    for (changes, named) in [
        (json!({"architectures": ["GemmaForCausalLM"]}), "GemmaForCausalLM"),
        (json!({"architectures": ["Gemma2ForCausalLM"], "hidden_act": "silu"}), "gelu_pytorch_tanh"),
        (
            json!({"architectures": ["Gemma3ForCausalLM"], "hidden_act": "gelu_pytorch_tanh", "sliding_window": 8,
            "layer_types": ["full_attention", "sliding_attention"]}),
            "layer_types",
        ),
        (json!({"hidden_act": "gelu"}), "gelu"),
        (json!({"attention_bias": true}), "attention_bias"),
        (json!({"mlp_bias": true}), "mlp_bias"),
        (json!({"quantization_config": {"quant_method": "gptq"}}), "gptq"),
        (json!({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}), "yarn"),
        (json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor"),
    ] {
        let error = with(changes).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
}

#[test]
fn experts_are_read_and_bounded() {
    let qwen = |more: Json| {
        let mut changes = json!({"architectures": ["Qwen3MoeForCausalLM"], "moe_intermediate_size": 24, "num_experts": 8,
            "num_experts_per_tok": 2});
        changes.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        with(changes)
    };
    let config = qwen(json!({"norm_topk_prob": true})).unwrap();
    assert_eq!((config.ffn, config.experts), (24, Some(Experts { count: 8, chosen: 2, normalized: true, shared: None })));
    for (changes, named) in [
        (json!({"num_experts": 0}), "num_experts"),
        (json!({"num_experts_per_tok": 9}), "num_experts_per_tok"),
        (json!({"num_experts": 4096, "num_hidden_layers": 4096}), "4096 layers"),
        (json!({"decoder_sparse_step": 2}), "decoder_sparse_step"),
        (json!({"mlp_only_layers": [0]}), "mlp_only_layers"),
        (json!({"num_experts": null}), "num_local_experts"),
    ] {
        let error = qwen(changes).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
}

#[test]
fn sizes_are_bounded_and_cross_checked() {
    for (changes, named) in [
        (json!({"hidden_size": 0}), "hidden_size"),
        (json!({"hidden_size": -64}), "hidden_size"),
        (json!({"hidden_size": 65}), "num_attention_heads"),
        (json!({"hidden_size": 1u64 << 40, "head_dim": 16}), "hidden_size"),
        (json!({"num_hidden_layers": u64::MAX}), "num_hidden_layers"),
        (json!({"num_attention_heads": 0}), "num_attention_heads"),
        (json!({"num_key_value_heads": 3}), "num_key_value_heads"),
        (json!({"num_key_value_heads": 0}), "num_key_value_heads"),
        (json!({"head_dim": 15}), "head_dim"),
        (json!({"vocab_size": 2}), "eos_token_id"),
        (json!({"vocab_size": "many"}), "vocab_size"),
        (json!({"intermediate_size": null}), "intermediate_size"),
        (json!({"rms_norm_eps": 0.0}), "rms_norm_eps"),
        (json!({"rope_theta": -1.0}), "rope_theta"),
        (json!({"rope_scaling": 3}), "rope_scaling"),
        (json!({"eos_token_id": [-1]}), "eos_token_id"),
    ] {
        let error = with(changes.clone()).unwrap_err().to_string();
        assert!(error.contains(named), "{changes}: {error}");
    }
    for bytes in [&b""[..], b"[]", b"{", b"\xff"] {
        assert!(ModelConfig::from_hf(bytes, None).is_err());
    }
}

fn tensors(tied: bool) -> TensorIndex {
    let names = if tied { &["token_embd.weight"][..] } else { &["token_embd.weight", "output.weight"] };
    let info = |name: &&str| TensorInfo { name: (*name).into(), dtype: DType::F32, shape: vec![100, 64] };
    TensorIndex::new(names.iter().map(info).collect()).unwrap()
}

#[test]
fn gguf_and_json_carry_everything() {
    for changes in [
        json!({}),
        json!({"rope_scaling": {"rope_type": "linear", "factor": 2.5}, "tie_word_embeddings": true}),
        json!({"architectures": ["MistralForCausalLM"], "sliding_window": 64, "head_dim": 32}),
        json!({"architectures": ["Qwen2ForCausalLM"], "eos_token_id": 5}),
        json!({"architectures": ["Qwen3ForCausalLM"], "head_dim": 32}),
        json!({"architectures": ["Phi3ForCausalLM"], "sliding_window": 64}),
        json!({"architectures": ["Gemma2ForCausalLM"], "sliding_window": 64, "hidden_activation": "gelu_pytorch_tanh", "head_dim": 256,
            "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "query_pre_attn_scalar": 224}),
        json!({"architectures": ["Gemma3ForCausalLM"], "sliding_window": 64, "hidden_activation": "gelu_pytorch_tanh", "head_dim": 32,
            "rope_local_base_freq": 20000.0, "sliding_window_pattern": 2}),
        json!({"architectures": ["MixtralForCausalLM"], "num_local_experts": 8, "num_experts_per_tok": 2}),
        json!({"architectures": ["Qwen2MoeForCausalLM"], "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 40}),
        json!({"architectures": ["Qwen3MoeForCausalLM"], "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 24}),
        json!({"rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192}}),
    ] {
        let config = with(changes).unwrap();
        let mut metadata = Metadata::default();
        config.to_gguf(&mut metadata);
        let divisors = config.rope.scaling.llama3_divisors(config.rope.theta, config.head_dim);
        let tensors = tensors(config.tie_embeddings);
        assert_eq!(ModelConfig::from_gguf(&metadata, &tensors, divisors.as_deref()).unwrap(), config);
        assert_eq!(ModelConfig::from_hf(config.to_hf("bfloat16").as_bytes(), None).unwrap(), config);
    }
}

#[test]
fn llama3_divisors_are_those_of_llama_cpp() {
    // convert_hf_to_gguf.py's formula for Llama 3.2 (head 64, theta 500000, factor 32), worked in 64 bits.
    let scaling = RopeScaling::Llama3 { factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192 };
    let divisors = scaling.llama3_divisors(500_000.0, 64).unwrap();
    assert_eq!(divisors.len(), 32);
    assert!(divisors[..14].iter().all(|&d| d == 1.0) && divisors[18..].iter().all(|&d| d == 32.0));
    assert!(divisors.windows(2).all(|w| w[0] <= w[1]));
}

#[test]
fn malformed_metadata_is_refused_by_name() {
    let error = |key: &str, value: Value, divisors: Option<&[f32]>| {
        let mut metadata = Metadata::default();
        with(json!({})).unwrap().to_gguf(&mut metadata);
        metadata.set(key, value);
        ModelConfig::from_gguf(&metadata, &tensors(false), divisors).unwrap_err().to_string()
    };
    assert!(error("general.architecture", Value::String("gemma".into()), None).contains("gemma"));
    assert!(error("llama.block_count", Value::U32(0), None).contains("num_hidden_layers"));
    assert!(error("llama.attention.head_count", Value::U32(0), None).contains("heads"));
    assert!(error("llama.block_count", Value::String("two".into()), None).contains("block_count"));
    assert!(error("llama.expert_count", Value::U32(8), None).contains("expert_used_count"));
    assert!(error("llama.rope.scaling.type", Value::String("yarn".into()), None).contains("yarn"));
    assert!(error("llama.rope.dimension_count", Value::U32(8), None).contains("dimension_count"));
    assert!(error("llama.vocab_size", Value::U32(100), Some(&[1.0, 2.0])).contains("rope_freqs"));
    assert!(ModelConfig::from_gguf(&Metadata::default(), &tensors(false), None).is_err());
}
