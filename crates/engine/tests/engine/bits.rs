//! A token's logits are the same bits whatever surrounds their computation.

use crate::support::{
    Memory, Random, bits, engine, engine_on, gemma2, llama, mistral, mixtral, qwen2, qwen2_moe, random_tokens, run, whole, wide,
};
use coffer_checkpoint::DType;
use coffer_engine::{Engine, Layerwise, LoadOptions, Observer, Span, Want, observe::Products};
use coffer_kernels::Isa;
use coffer_model::ModelConfig;
use proptest::prelude::*;
use std::sync::Arc;

#[test]
fn every_isa_and_thread_count() {
    for dtype in [DType::F32, DType::BF16].into_iter().chain(DType::QUANTIZED) {
        let config = wide();
        let weights = Memory::random(&config, dtype, 3);
        let tokens = random_tokens(&config, 70, 4);
        let want = whole(&engine_on(&config, &weights, Isa::Scalar, 1), &tokens);
        assert!(want.iter().all(|&x| f32::from_bits(x).is_finite()), "{dtype}");
        for isa in Isa::available() {
            for threads in [1, 2, 3, 4, 7] {
                let got = whole(&engine_on(&config, &weights, isa, threads), &tokens);
                assert!(got == want, "{dtype} on {} with {threads} threads", isa.name());
            }
        }
    }
}

#[test]
fn a_prompt_cut_anywhere() {
    for (config, dtype) in [
        (llama(), DType::F32),
        (mistral(), DType::BF16),
        (wide(), DType::Q4_K),
        (mixtral(), DType::BF16),
        (gemma2(), DType::BF16),
        (qwen2_moe(), DType::Q4_0),
    ] {
        let engine = engine(&config, &Memory::random(&config, dtype, 5));
        let tokens = random_tokens(&config, 64, 6);
        let want = whole(&engine, &tokens);
        for cut in 1..tokens.len() {
            let mut cache = engine.cache(tokens.len()).unwrap();
            let mut got = run(&engine, &mut cache, &tokens[..cut]);
            got.extend(run(&engine, &mut cache, &tokens[cut..]));
            assert!(got == want, "cut at {cut}");
        }
    }
}

#[test]
fn a_prompt_longer_than_a_pass() {
    let config = ModelConfig { layers: 1, ..llama() };
    let engine = engine(&config, &Memory::random(&config, DType::F32, 7));
    let tokens = random_tokens(&config, 1100, 8);
    let want = whole(&engine, &tokens);
    let mut cache = engine.cache(1200).unwrap();
    let mut got = Vec::new();
    for piece in tokens.chunks(300) {
        got.extend(run(&engine, &mut cache, piece));
    }
    assert!(got == want);
    let mut cache = engine.cache(1200).unwrap();
    let last = engine.forward(&mut [Span { cache: &mut cache, tokens: &tokens, want: Want::Last }]).unwrap();
    assert!(bits(&last) == want[1099 * config.vocab..]);
}

#[test]
fn layer_after_layer() {
    struct Inputs(Vec<(Products, Vec<u32>)>);
    impl Observer for Inputs {
        fn input(&mut self, products: Products, x: &[f32], _: usize) {
            self.0.push((products, bits(x)));
        }
    }
    for (config, dtype) in [
        (llama(), DType::Q4_0),
        (mistral(), DType::BF16),
        (qwen2(), DType::F32),
        (mixtral(), DType::BF16),
        (gemma2(), DType::BF16),
        (qwen2_moe(), DType::BF16),
    ] {
        let weights = Memory::random(&config, dtype, 5);
        let whole_engine = engine(&config, &weights);
        let windows = vec![random_tokens(&config, 600, 6), random_tokens(&config, 1, 7), random_tokens(&config, 45, 8)];
        let options = LoadOptions { isa: Isa::detect().unwrap(), threads: 2, context: None, kv_format: whole_engine.kv_format() };
        let mut text = Layerwise::start(&config, Arc::new(weights), options, windows.clone()).unwrap();
        let mut seen = Inputs(Vec::new());
        assert!(text.advance(&mut seen).unwrap());
        assert_eq!(text.done(), 1);
        let text = text.finish(&mut seen).unwrap();
        let mut expected = Inputs(Vec::new());
        for (i, tokens) in windows.iter().enumerate() {
            let mut got = Vec::new();
            text.logits(i, 0..tokens.len(), &mut |row| got.extend(bits(row))).unwrap();
            assert!(got == whole(&whole_engine, tokens), "window {i}");
            let mut cache = whole_engine.cache(tokens.len()).unwrap();
            let spans = &mut [Span { cache: &mut cache, tokens, want: Want::Nothing }];
            whole_engine.forward_observed(spans, &mut expected, &mut |_| ()).unwrap();
        }
        // The same inputs; whole windows come one after the other here, and layers there.
        seen.0.sort();
        expected.0.sort();
        assert!(seen.0 == expected.0);
    }
}

#[test]
fn truncate_and_run_again() {
    let config = qwen2();
    let engine = engine(&config, &Memory::random(&config, DType::F32, 9));
    let (first, second) = (random_tokens(&config, 90, 10), random_tokens(&config, 60, 11));
    let mut cache = engine.cache(200).unwrap();
    run(&engine, &mut cache, &first);
    cache.truncate(33);
    assert_eq!(cache.len(), 33);
    let got = run(&engine, &mut cache, &second);
    let joined = [&first[..33], &second].concat();
    assert!(got == whole(&engine, &joined)[33 * config.vocab..]);
    cache.truncate(1000);
    assert_eq!(cache.len(), 93);
}

#[test]
fn wanted_tokens_alone_are_returned() {
    let config = llama();
    let engine = engine(&config, &Memory::random(&config, DType::F32, 12));
    let tokens = random_tokens(&config, 30, 13);
    let want = whole(&engine, &tokens);
    let (mut a, mut b, mut c) = (engine.cache(30).unwrap(), engine.cache(30).unwrap(), engine.cache(30).unwrap());
    let mut spans = [
        Span { cache: &mut a, tokens: &tokens, want: Want::Last },
        Span { cache: &mut b, tokens: &tokens, want: Want::Nothing },
        Span { cache: &mut c, tokens: &tokens[..2], want: Want::All },
    ];
    let got = bits(&engine.forward(&mut spans).unwrap());
    let vocab = config.vocab;
    assert!(got == [&want[29 * vocab..], &want[..2 * vocab]].concat());
    assert_eq!((a.len(), b.len(), c.len()), (30, 30, 2));
    assert!(engine.forward(&mut []).unwrap().is_empty());
}

/// Runs several texts together, cut at random, some waiting while others run.
fn together(engine: &Engine, texts: &[Vec<u32>], random: &mut Random) -> Vec<Vec<u32>> {
    let mut caches: Vec<_> = texts.iter().map(|t| engine.cache(t.len()).unwrap()).collect();
    let mut out = vec![Vec::new(); texts.len()];
    while caches.iter().zip(texts).any(|(c, t)| c.len() < t.len()) {
        let (mut spans, mut owners) = (Vec::new(), Vec::new());
        for (i, (cache, text)) in caches.iter_mut().zip(texts).enumerate() {
            let take = random.below(20).min(text.len() - cache.len());
            if take > 0 {
                owners.push((i, take));
                let at = cache.len();
                spans.push(Span { cache, tokens: &text[at..at + take], want: Want::All });
            }
        }
        let logits = bits(&engine.forward(&mut spans).unwrap());
        let mut rows = logits.chunks_exact(engine.config().vocab);
        for (owner, take) in owners {
            rows.by_ref().take(take).for_each(|row| out[owner].extend(row));
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn others_in_the_batch(seed: u64, lens in prop::collection::vec(1..80usize, 1..=8)) {
        let config = llama();
        let engine = engine(&config, &Memory::random(&config, DType::BF16, 14));
        let texts: Vec<_> = lens.iter().zip(seed/2..).map(|(&n, s)| random_tokens(&config, n, s)).collect();
        let got = together(&engine, &texts, &mut Random(seed));
        for (text, got) in texts.iter().zip(got) {
            prop_assert!(got == whole(&engine, text));
        }
    }
}
