//! Decode and prefill on the shape of SmolLM2-135M with synthetic weights, for speed only.

use coffer_checkpoint::{DType, ReadError, TensorId, TensorIndex, TensorInfo, TensorSource};
use coffer_engine::{Engine, LoadOptions, Span, Want};
use coffer_kernels::Isa;
use coffer_model::{Architecture, LayerGraph, ModelConfig, NodeKind, RopeConfig, config::RopeScaling};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::ops::Range;

/// Weights that need no file: blocks of scattered codes under a small scale.
struct Synthetic(TensorIndex);

impl TensorSource for Synthetic {
    fn index(&self) -> &TensorIndex {
        &self.0
    }
    fn read_rows(&self, t: TensorId, _: Range<u64>, out: &mut [u8]) -> Result<(), ReadError> {
        for block in out.chunks_exact_mut(self.0.get(t).dtype.block_bytes()) {
            match block.len() {
                4 => block.copy_from_slice(&1f32.to_le_bytes()),
                2 => block.copy_from_slice(&[0x12, 0x3C]),
                _ => block.iter_mut().enumerate().for_each(|(i, byte)| *byte = if i == 1 { 0x14 } else { (i * 37) as u8 }),
            }
        }
        Ok(())
    }
}

fn smollm2() -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Llama,
        hidden: 576,
        layers: 30,
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        ffn: 1536,
        experts: None,
        vocab: 49152,
        context: 8192,
        norm_eps: 1e-5,
        rope: RopeConfig { theta: 100_000.0, scaling: RopeScaling::None },
        tie_embeddings: true,
        sliding_window: None,
        full_attention_every: None,
        window_theta: None,
        query_scalar: 64,
        score_bound: None,
        logit_bound: None,
        bos: None,
        eos: Vec::new(),
    }
}

fn engine(dtype: DType) -> Option<Engine> {
    let config = smollm2();
    let dtype_of = |kind| if kind == NodeKind::Norm { DType::F32 } else { dtype };
    let graph = LayerGraph::of(&config);
    let tensors =
        graph.nodes().iter().map(|n| TensorInfo { name: n.weight.clone(), dtype: dtype_of(n.kind), shape: n.shape.clone() });
    let source = Synthetic(TensorIndex::new(tensors.collect()).ok()?);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let options =
        LoadOptions { isa: Isa::detect().ok()?, threads, context: None, kv_format: coffer_kernels::KvFormat::default() };
    Engine::load(&config, &source, options, &mut |_, _| ()).ok()
}

fn passes(c: &mut Criterion) {
    for dtype in [DType::Q4_0, DType::Q8_0, DType::BF16] {
        let Some(engine) = engine(dtype) else { return };
        let tokens: Vec<u32> = (0..512).collect();
        for (job, past, new) in [("decode", 128, 1), ("decode", 4096, 1), ("prefill", 0, 512), ("prefill", 4096, 512)] {
            let Ok(mut cache) = engine.cache(past + new) else { return };
            let mut group = c.benchmark_group(format!("{dtype} {job}"));
            group.sample_size(10).throughput(Throughput::Elements(new as u64));
            for part in (0..past).step_by(tokens.len()) {
                let tokens = &tokens[..tokens.len().min(past - part)];
                let _ = engine.forward(&mut [Span { cache: &mut cache, tokens, want: Want::Nothing }]);
            }
            group.bench_function(format!("{new} after {past}"), |b| {
                b.iter(|| {
                    cache.truncate(past);
                    engine.forward(&mut [Span { cache: &mut cache, tokens: &tokens[..new], want: Want::Last }])
                });
            });
        }
    }
}

criterion_group!(benches, passes);
criterion_main!(benches);
