//! The forward pass against a slow plain one in f64.

use crate::support::{
    Memory, engine_keeping, gemma2, gemma3, llama, mistral, mixtral, qwen2, qwen2_moe, qwen3, random_tokens, reference,
};
use coffer_checkpoint::DType;
use coffer_engine::{Span, Want};
use coffer_kernels::{Isa, KvFormat};
use coffer_model::{ModelConfig, RopeConfig, config::RopeScaling};

fn assert_agrees(config: &ModelConfig, dtype: DType) {
    let weights = Memory::random(config, dtype, 1);
    let tokens = random_tokens(config, 40, 2);
    let want = reference(config, &weights, &tokens);
    let scale = want.iter().fold(0.0f64, |m, w| m.max(w.abs()));
    // What a format rounds away may send a token to another expert.
    let formats = if config.experts.is_some() { 1 } else { 3 };
    for (format, bound) in [(KvFormat::F32, 2e-5), (KvFormat::F16, 2e-3), (KvFormat::Q8_0, 5e-2)].into_iter().take(formats) {
        let engine = engine_keeping(config, &weights, Isa::detect().unwrap(), format);
        let mut cache = engine.cache(tokens.len()).unwrap();
        let got = engine.forward(&mut [Span { cache: &mut cache, tokens: &tokens, want: Want::All }]).unwrap();
        assert_eq!(got.len(), want.len());
        let worst = got.iter().zip(&want).map(|(g, w)| (f64::from(*g) - w).abs()).fold(0.0, f64::max);
        assert!(worst < bound * scale, "{format}: off by {worst} where logits reach {scale}");
    }
}

#[test]
fn llama_with_grouped_heads() {
    assert_agrees(&llama(), DType::F32);
    assert_agrees(&llama(), DType::BF16);
}

#[test]
fn one_kv_head_each() {
    assert_agrees(&ModelConfig { kv_heads: 4, ..llama() }, DType::F32);
}

#[test]
fn heads_wider_than_the_stream() {
    assert_agrees(&ModelConfig { head_dim: 32, query_scalar: 32, ..llama() }, DType::F32);
}

#[test]
fn qwen2_with_biases_and_tied_embeddings() {
    assert_agrees(&qwen2(), DType::F32);
}

#[test]
fn qwen3_with_normalized_heads() {
    assert_agrees(&qwen3(), DType::F32);
}

#[test]
fn experts() {
    assert_agrees(&mixtral(), DType::F32);
    assert_agrees(&qwen2_moe(), DType::F32);
}

#[test]
fn gemma_with_bounds_and_norms_on_both_sides() {
    assert_agrees(&gemma2(), DType::F32);
    assert_agrees(&gemma3(), DType::F32);
}

#[test]
fn mistral_with_a_window() {
    assert_agrees(&mistral(), DType::F32);
}

#[test]
fn scaled_frequencies() {
    for scaling in [
        RopeScaling::Linear { factor: 4.0 },
        RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 32 },
    ] {
        assert_agrees(&ModelConfig { rope: RopeConfig { theta: 500_000.0, scaling }, ..llama() }, DType::F32);
    }
}
