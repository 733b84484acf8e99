//! Bad models and bad requests get one clear error and change nothing.

use crate::support::{Memory, engine, llama, qwen2, run, whole};
use coffer_checkpoint::{DType, TensorInfo};
use coffer_engine::{Engine, EngineError, LoadOptions, SamplingParams, Span, Want};
use coffer_kernels::Isa;

const OPTIONS: LoadOptions =
    LoadOptions { isa: Isa::Scalar, threads: 1, context: None, kv_format: coffer_kernels::KvFormat::F16 };

/// Loads a small Qwen 2 after `change` was done to its tensor `name`; `None` removes it.
fn load_changed(name: &str, change: impl Fn(&mut TensorInfo, &mut Vec<u8>) -> Option<()>) -> Result<Engine, EngineError> {
    let mut tensors = Memory::random(&qwen2(), DType::F32, 1).into_tensors();
    assert!(tensors.iter().any(|(info, _)| info.name == name));
    tensors.retain_mut(|(info, bytes)| info.name != name || change(info, bytes).is_some());
    Engine::load(&qwen2(), &Memory::new(tensors), OPTIONS, &mut |_, _| ())
}

fn message(result: Result<Engine, EngineError>) -> String {
    result.err().map(|e| e.to_string()).unwrap_or_default()
}

#[test]
fn a_missing_tensor_is_named() {
    for name in ["model.layers.1.self_attn.v_proj.weight", "model.layers.0.self_attn.k_proj.bias", "model.norm.weight"] {
        let got = message(load_changed(name, |_, _| None));
        assert!(got.starts_with(&format!("tensor `{name}` is missing")), "{got}");
    }
}

#[test]
fn a_wrong_shape_is_named_with_both_shapes() {
    let transposed = load_changed("model.layers.1.mlp.down_proj.weight", |info, _| {
        info.shape.reverse();
        Some(())
    });
    let want = "tensor `model.layers.1.mlp.down_proj.weight` has shape [96, 64] where the configuration demands [64, 96]";
    assert_eq!(message(transposed), want);
}

#[test]
fn integers_are_no_weights() {
    for name in ["model.layers.1.mlp.down_proj.weight", "model.norm.weight"] {
        let got = message(load_changed(name, |info, _| {
            info.dtype = DType::I32;
            Some(())
        }));
        assert!(got.starts_with(&format!("tensor `{name}`: ")) && got.contains("I32"), "{got}");
    }
}

#[test]
fn of_several_bad_tensors_the_first_is_named_whatever_the_threads() {
    let mut tensors = Memory::random(&qwen2(), DType::F32, 1).into_tensors();
    for (info, _) in tensors.iter_mut().filter(|(info, _)| info.name.contains("up_proj") || info.name.contains("down_proj")) {
        info.dtype = DType::I32;
    }
    let memory = Memory::new(tensors);
    for threads in [1, 2, 3, 8].repeat(8) {
        let got = message(Engine::load(&qwen2(), &memory, LoadOptions { threads, ..OPTIONS }, &mut |_, _| ()));
        assert!(got.starts_with("tensor `model.layers.0.mlp.up_proj.weight`"), "{got}");
    }
}

#[test]
fn blocks_that_do_not_fill_a_row_are_refused() {
    let got = message(load_changed("model.layers.1.mlp.down_proj.weight", |info, bytes| {
        info.dtype = DType::Q4_K;
        bytes.clear();
        Some(())
    }));
    assert!(got.contains("down_proj") && got.contains("96 columns"), "{got}");
}

#[test]
fn norms_may_hold_anything() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 0.0] {
        let changed = load_changed("model.layers.0.input_layernorm.weight", |_, bytes| {
            bytes.chunks_exact_mut(4).step_by(3).for_each(|b| b.copy_from_slice(&value.to_le_bytes()));
            Some(())
        });
        let engine = changed.unwrap();
        assert!(whole(&engine, &[1, 2, 3]) == whole(&engine, &[1, 2, 3]), "{value}");
        let params = SamplingParams { temperature: 0.8, top_p: 0.9, seed: 1 };
        assert_eq!(engine.generate(&[1, 2, 3], params).unwrap().take(5).filter_map(Result::ok).count(), 5);
    }
}

#[test]
fn refused_passes_change_nothing() {
    let engine = engine(&llama(), &Memory::random(&llama(), DType::F32, 1));
    let other = crate::support::engine(&qwen2(), &Memory::random(&qwen2(), DType::F32, 1));
    let (mut good, mut small, mut foreign) = (engine.cache(40).unwrap(), engine.cache(3).unwrap(), other.cache(9).unwrap());
    run(&engine, &mut good, &[5, 6]);
    run(&engine, &mut small, &[7, 8]);
    let mut refuse = |bad: &mut coffer_engine::KvCache, tokens: &[u32]| {
        let (good_len, bad_len) = (good.len(), bad.len());
        let mut spans =
            [Span { cache: &mut good, tokens: &[1, 2], want: Want::All }, Span { cache: bad, tokens, want: Want::Last }];
        let error = engine.forward(&mut spans).unwrap_err().to_string();
        assert_eq!((good.len(), bad.len()), (good_len, bad_len));
        error
    };
    assert_eq!(refuse(&mut small, &[1, 160]), "token 160 lies outside the vocabulary of 160");
    assert_eq!(refuse(&mut small, &[u32::MAX]), "token 4294967295 lies outside the vocabulary of 160");
    assert_eq!(refuse(&mut small, &[]), "there are no tokens to run");
    assert_eq!(refuse(&mut small, &[1, 2]), "4 tokens do not fit into a context of 3");
    assert_eq!(refuse(&mut foreign, &[1]), "the cache was made for a model of another shape");
    assert!(run(&engine, &mut good, &[9]) == whole(&engine, &[5, 6, 9])[2 * 160..]);
    assert!(run(&engine, &mut small, &[9]) == whole(&engine, &[7, 8, 9])[2 * 160..]);
}

#[test]
fn the_context_is_a_limit() {
    let options = LoadOptions { context: Some(10), ..OPTIONS };
    let engine = Engine::load(&llama(), &Memory::random(&llama(), DType::F32, 1), options, &mut |_, _| ()).unwrap();
    assert_eq!(engine.context(), 10);
    assert!(matches!(engine.cache(11), Err(EngineError::Context { wanted: 11, context: 10 })));
    let greedy = SamplingParams { temperature: 0.0, top_p: 1.0, seed: 0 };
    assert!(matches!(engine.generate(&[1; 11], greedy.clone()), Err(EngineError::Context { wanted: 11, context: 10 })));
    assert!(matches!(engine.generate(&[], greedy.clone()), Err(EngineError::NoTokens)));
    assert_eq!(engine.generate(&[1; 7], greedy).unwrap().count(), 4);
}

#[test]
fn progress_ends_at_the_total_and_tied_embeddings_are_held_once() {
    let mut seen = Vec::new();
    let weights = Memory::random(&qwen2(), DType::F32, 1);
    let engine = Engine::load(&qwen2(), &weights, OPTIONS, &mut |done, total| seen.push((done, total))).unwrap();
    let (done, total) = *seen.last().unwrap();
    assert_eq!(done, total);
    assert!(seen.is_sorted());
    assert!(engine.weight_bytes() < total as usize * 11 / 10, "{} of {total}", engine.weight_bytes());
}
