//! Tiny random models in memory, and a slow plain forward pass in f64.

use coffer_checkpoint::{DType, ReadError, TensorId, TensorIndex, TensorInfo, TensorSource, blocks};
use coffer_engine::{Engine, KvCache, LoadOptions, Span, Want};
use coffer_kernels::{Isa, KvFormat};
use coffer_model::{Activation, Architecture, Experts, LayerGraph, ModelConfig, NodeKind, RopeConfig, config::RopeScaling};
use std::ops::Range;

/// Tensors in memory.
pub(crate) struct Memory {
    index: TensorIndex,
    bytes: Vec<Vec<u8>>,
}

impl TensorSource for Memory {
    fn index(&self) -> &TensorIndex {
        &self.index
    }
    fn read_rows(&self, t: TensorId, rows: Range<u64>, out: &mut [u8]) -> Result<(), ReadError> {
        let row = self.index.get(t).row_bytes().unwrap() as usize;
        out.copy_from_slice(&self.bytes[t.0][rows.start as usize * row..rows.end as usize * row]);
        Ok(())
    }
}

impl Memory {
    pub(crate) fn new(tensors: Vec<(TensorInfo, Vec<u8>)>) -> Self {
        let (infos, bytes) = tensors.into_iter().unzip();
        Self { index: TensorIndex::new(infos).unwrap(), bytes }
    }
    /// Random weights for `config`: matrices of `dtype`, norms near one and biases in f32.
    pub(crate) fn random(config: &ModelConfig, dtype: DType, seed: u64) -> Self {
        let mut random = Random(seed);
        let mut tensors = Vec::new();
        for node in LayerGraph::of(config).nodes() {
            let cols = *node.shape.last().unwrap() as usize;
            let count = node.shape.iter().product::<u64>() as usize;
            let norm = node.kind == NodeKind::Norm;
            let (dtype, bytes) = match norm {
                true => (DType::F32, floats((0..count).map(|_| 1.0 + 0.2 * random.signed()))),
                false => (dtype, random.matrix(dtype, count, 2.0 / (cols as f32).sqrt())),
            };
            tensors.push((TensorInfo { name: node.weight.clone(), dtype, shape: node.shape.clone() }, bytes));
            if let Some(bias) = &node.bias {
                let bytes = floats((0..node.shape[0]).map(|_| 0.5 * random.signed()));
                tensors.push((TensorInfo { name: bias.clone(), dtype: DType::F32, shape: vec![node.shape[0]] }, bytes));
            }
        }
        Self::new(tensors)
    }
    /// The tensors, to be changed and put together again.
    pub(crate) fn into_tensors(self) -> Vec<(TensorInfo, Vec<u8>)> {
        self.index.iter().map(|(_, info)| info.clone()).zip(self.bytes).collect()
    }
    fn values(&self, name: &str) -> Vec<f64> {
        let id = self.index.find(name).unwrap_or_else(|| panic!("{name}"));
        let info = self.index.get(id);
        let mut out = vec![0.0; info.elements().unwrap() as usize];
        blocks::decode(info.dtype, &self.bytes[id.0], &mut out).unwrap();
        out.into_iter().map(f64::from).collect()
    }
}

/// SplitMix64.
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }
    fn signed(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
    fn matrix(&mut self, dtype: DType, count: usize, scale: f32) -> Vec<u8> {
        match dtype {
            DType::F32 => floats((0..count).map(|_| scale * self.signed())),
            DType::BF16 => {
                (0..count).flat_map(|_| ((scale * self.signed()).to_bits() >> 16).to_le_bytes()[..2].to_vec()).collect()
            }
            _ => (0..count / dtype.block_len()).flat_map(|_| self.block(dtype)).collect(),
        }
    }
    /// Random codes under scales (f16) of about 1/1000.
    fn block(&mut self, dtype: DType) -> Vec<u8> {
        let mut block: Vec<u8> = (0..dtype.block_bytes()).map(|_| self.bits() as u8).collect();
        let scales: &[usize] = match dtype {
            DType::Q4_0 | DType::Q5_0 | DType::Q8_0 | DType::IQ4_NL | DType::IQ4_XS => &[0],
            DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K => &[0, 2],
            DType::Q2_K => &[80, 82],
            DType::Q3_K => &[108],
            DType::Q6_K => &[208],
            other => panic!("{other}"),
        };
        scales.iter().for_each(|&at| block[at + 1] = 0x10);
        block
    }
}

fn floats(values: impl Iterator<Item = f32>) -> Vec<u8> {
    values.flat_map(f32::to_le_bytes).collect()
}

/// A small Llama with grouped heads.
pub(crate) fn llama() -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Llama,
        hidden: 64,
        layers: 3,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        ffn: 96,
        experts: None,
        vocab: 160,
        context: 1200,
        norm_eps: 1e-5,
        rope: RopeConfig { theta: 10_000.0, scaling: RopeScaling::None },
        tie_embeddings: false,
        sliding_window: None,
        full_attention_every: None,
        window_theta: None,
        query_scalar: 16,
        score_bound: None,
        logit_bound: None,
        bos: None,
        eos: vec![0],
    }
}

/// Wide enough for blocks of 256.
pub(crate) fn wide() -> ModelConfig {
    ModelConfig { hidden: 256, heads: 8, kv_heads: 4, head_dim: 32, query_scalar: 32, ffn: 512, layers: 1, ..llama() }
}

/// A small Qwen 2: biases, tied embeddings.
pub(crate) fn qwen2() -> ModelConfig {
    ModelConfig { architecture: Architecture::Qwen2, tie_embeddings: true, layers: 2, ..llama() }
}

/// A small Qwen 3: each head of Q and K is normalized.
pub(crate) fn qwen3() -> ModelConfig {
    ModelConfig { architecture: Architecture::Qwen3, layers: 2, ..llama() }
}

/// A small Phi 3.
pub(crate) fn phi3() -> ModelConfig {
    ModelConfig { architecture: Architecture::Phi3, kv_heads: 4, layers: 2, ..llama() }
}

/// A small Gemma 2: bounded scores and logits, a window in every other layer.
pub(crate) fn gemma2() -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Gemma2,
        layers: 4,
        sliding_window: Some(7),
        full_attention_every: Some(2),
        query_scalar: 24,
        score_bound: Some(5.0),
        logit_bound: Some(3.0),
        tie_embeddings: true,
        ..llama()
    }
}

/// A small Gemma 3: normalized heads, other frequencies in layers with a window.
pub(crate) fn gemma3() -> ModelConfig {
    let rope = RopeConfig { theta: 1e6, scaling: RopeScaling::Linear { factor: 8.0 } };
    let (full_attention_every, window_theta) = (Some(3), Some(10_000.0));
    let config = ModelConfig { architecture: Architecture::Gemma3, rope, full_attention_every, window_theta, ..gemma2() };
    ModelConfig { score_bound: None, logit_bound: None, ..config }
}

/// A small Qwen 3 with experts.
pub(crate) fn qwen3_moe() -> ModelConfig {
    let experts = Experts { count: 10, chosen: 4, normalized: true, shared: None };
    ModelConfig { architecture: Architecture::Qwen3Moe, experts: Some(experts), ffn: 32, layers: 2, ..llama() }
}

/// A small mixture of experts, with one that is shared.
pub(crate) fn qwen2_moe() -> ModelConfig {
    let experts = Experts { count: 6, chosen: 2, normalized: false, shared: Some(160) };
    ModelConfig { architecture: Architecture::Qwen2Moe, experts: Some(experts), ffn: 32, layers: 2, ..llama() }
}

/// A small Mixtral.
pub(crate) fn mixtral() -> ModelConfig {
    let experts = Experts { count: 8, chosen: 3, normalized: true, shared: None };
    ModelConfig { architecture: Architecture::Mixtral, experts: Some(experts), layers: 2, ..llama() }
}

/// A small Mistral with a window of five.
pub(crate) fn mistral() -> ModelConfig {
    ModelConfig { architecture: Architecture::Mistral, sliding_window: Some(5), kv_heads: 1, layers: 2, ..llama() }
}

pub(crate) fn random_tokens(config: &ModelConfig, n: usize, seed: u64) -> Vec<u32> {
    let mut random = Random(seed);
    (0..n).map(|_| random.below(config.vocab) as u32).collect()
}

pub(crate) fn engine_on(config: &ModelConfig, weights: &Memory, isa: Isa, threads: usize) -> Engine {
    load(config, weights, LoadOptions { isa, threads, ..OPTIONS })
}

pub(crate) fn engine(config: &ModelConfig, weights: &Memory) -> Engine {
    engine_on(config, weights, Isa::detect().unwrap(), 2)
}

/// An engine whose caches are of another format.
pub(crate) fn engine_keeping(config: &ModelConfig, weights: &Memory, isa: Isa, kv_format: KvFormat) -> Engine {
    load(config, weights, LoadOptions { isa, threads: 2, kv_format, ..OPTIONS })
}

const OPTIONS: LoadOptions = LoadOptions { isa: Isa::Scalar, threads: 1, context: None, kv_format: KvFormat::F16 };

fn load(config: &ModelConfig, weights: &Memory, options: LoadOptions) -> Engine {
    Engine::load(config, weights, options, &mut |_, _| ()).unwrap()
}

/// Bits of the logits of all `tokens`, appended to `cache`.
pub(crate) fn run(engine: &Engine, cache: &mut KvCache, tokens: &[u32]) -> Vec<u32> {
    bits(&engine.forward(&mut [Span { cache, tokens, want: Want::All }]).unwrap())
}

/// Bits of the logits of a whole text.
pub(crate) fn whole(engine: &Engine, tokens: &[u32]) -> Vec<u32> {
    run(engine, &mut engine.cache(tokens.len()).unwrap(), tokens)
}

pub(crate) fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|x| x.to_bits()).collect()
}

/// Logits `[tokens, vocab]`, computed plainly in f64.
pub(crate) fn reference(config: &ModelConfig, weights: &Memory, tokens: &[u32]) -> Vec<f64> {
    let embedding = weights.values("model.embed_tokens.weight");
    let hidden = config.hidden;
    let family = config.architecture.family();
    let scale = if family.scaled_embedding { (hidden as f64).sqrt() } else { 1.0 };
    let row = |&t: &u32| embedding[t as usize * hidden..][..hidden].iter().map(|x| x * scale).collect();
    let mut xs: Vec<Vec<f64>> = tokens.iter().map(row).collect();
    for layer in 0..config.layers {
        reference_layer(config, weights, layer, &mut xs);
    }
    let head = if config.tie_embeddings { embedding } else { weights.values("lm_head.weight") };
    let norm = weights.values("model.norm.weight");
    let logits = xs.iter().flat_map(|x| times(&head, &rms_norm(x, &norm, config.norm_eps.into())));
    logits.map(|logit| bounded(logit, config.logit_bound)).collect()
}

fn bounded(x: f64, bound: Option<f32>) -> f64 {
    bound.map_or(x, |bound| f64::from(bound) * (x / f64::from(bound)).tanh())
}

fn reference_layer(config: &ModelConfig, weights: &Memory, layer: usize, xs: &mut [Vec<f64>]) {
    let get = |part: &str| weights.values(&format!("model.layers.{layer}.{part}"));
    let eps = f64::from(config.norm_eps);
    let dim = config.head_dim;
    let project = |part: &str, h: &[f64]| {
        let mut y = times(&get(&format!("self_attn.{part}.weight")), h);
        if config.architecture.family().qkv_bias {
            y.iter_mut().zip(get(&format!("self_attn.{part}.bias"))).for_each(|(y, b)| *y += b);
        }
        if let (true, "q_proj" | "k_proj") = (config.architecture.family().qk_norm, part) {
            let norm = get(&format!("self_attn.{}.weight", part.replace("proj", "norm")));
            y = y.chunks_exact(dim).flat_map(|head| rms_norm(head, &norm, eps)).collect();
        }
        y
    };
    let hs: Vec<Vec<f64>> = xs.iter().map(|x| rms_norm(x, &get("input_layernorm.weight"), eps)).collect();
    let rotated = |part: &str| -> Vec<Vec<f64>> {
        hs.iter().enumerate().map(|(p, h)| rotate(config, layer, project(part, h), p)).collect()
    };
    let (qs, ks) = (rotated("q_proj"), rotated("k_proj"));
    let vs: Vec<Vec<f64>> = hs.iter().map(|h| project("v_proj", h)).collect();
    for t in 0..xs.len() {
        let mut out = Vec::new();
        for head in 0..config.heads {
            let kv = head / (config.heads / config.kv_heads) * dim;
            let first = config.window(layer).map_or(0, |w| (t + 1).saturating_sub(w));
            let q = &qs[t][head * dim..][..dim];
            let score = |s: usize| bounded(dot(q, &ks[s][kv..][..dim]) / (config.query_scalar as f64).sqrt(), config.score_bound);
            let weights: Vec<f64> = (first..=t).map(|s| score(s).exp()).collect();
            let sum: f64 = weights.iter().sum();
            out.extend((0..dim).map(|i| weights.iter().zip(first..).map(|(w, s)| w * vs[s][kv + i]).sum::<f64>() / sum));
        }
        let family = config.architecture.family();
        let added = |name: &str, y: Vec<f64>| if family.post_norms { rms_norm(&y, &get(name), eps) } else { y };
        add(&mut xs[t], &added("post_attention_layernorm.weight", times(&get("self_attn.o_proj.weight"), &out)));
        let h = rms_norm(&xs[t], &get(&format!("{}.weight", family.ffn_norm())), eps);
        let gated = |layer: &str| {
            let (gate, up) =
                (times(&get(&format!("{layer}.gate_proj.weight")), &h), times(&get(&format!("{layer}.up_proj.weight")), &h));
            let activation = |g: f64| match family.activation {
                Activation::Silu => g / (1.0 + (-g).exp()),
                Activation::Gelu => 0.5 * g * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (g + 0.044_715 * g.powi(3))).tanh()),
            };
            let inner: Vec<f64> = gate.iter().zip(up).map(|(g, u)| activation(*g) * u).collect();
            times(&get(&format!("{layer}.down_proj.weight")), &inner)
        };
        let Some(experts) = &config.experts else {
            add(&mut xs[t], &added("post_feedforward_layernorm.weight", gated("mlp")));
            continue;
        };
        let routes: Vec<f64> = times(&get("mlp.gate.weight"), &h).iter().map(|z| z.exp()).collect();
        let mut order: Vec<usize> = (0..experts.count).collect();
        order.sort_by(|a, b| routes[*b].total_cmp(&routes[*a]));
        let weighed = if experts.normalized { &order[..experts.chosen] } else { &order };
        let total: f64 = weighed.iter().map(|&e| routes[e]).sum();
        for &expert in &order[..experts.chosen] {
            let out: Vec<f64> = gated(&format!("mlp.experts.{expert}")).iter().map(|x| x * routes[expert] / total).collect();
            add(&mut xs[t], &out);
        }
        if experts.shared.is_some() {
            let weight = 1.0 / (1.0 + (-times(&get("mlp.shared_expert_gate.weight"), &h)[0]).exp());
            add(&mut xs[t], &gated("mlp.shared_expert").iter().map(|x| x * weight).collect::<Vec<_>>());
        }
    }
}

fn rotate(config: &ModelConfig, layer: usize, mut x: Vec<f64>, position: usize) -> Vec<f64> {
    let half = config.head_dim / 2;
    let own = config.window_theta.filter(|_| config.window(layer).is_some());
    let rope = own.map_or(config.rope.clone(), |theta| RopeConfig { theta, scaling: RopeScaling::None });
    for head in x.chunks_exact_mut(config.head_dim) {
        for i in 0..half {
            let plain = rope.theta.powf(-(i as f64) / half as f64);
            let (sin, cos) = (position as f64 * scaled(&rope.scaling, plain)).sin_cos();
            (head[i], head[i + half]) = (head[i] * cos - head[i + half] * sin, head[i + half] * cos + head[i] * sin);
        }
    }
    x
}

/// Written from wavelengths, as the published code is.
fn scaled(scaling: &RopeScaling, frequency: f64) -> f64 {
    let wavelength = std::f64::consts::TAU / frequency;
    match *scaling {
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            let context = original_context as f64;
            if wavelength < context / high_freq_factor {
                frequency
            } else if wavelength > context / low_freq_factor {
                frequency / factor
            } else {
                let smooth = (context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        }
        _ => frequency,
    }
}

fn rms_norm(x: &[f64], weight: &[f64], eps: f64) -> Vec<f64> {
    let scale = 1.0 / (dot(x, x) / x.len() as f64 + eps).sqrt();
    x.iter().zip(weight).map(|(x, w)| x * scale * w).collect()
}

fn times(matrix: &[f64], x: &[f64]) -> Vec<f64> {
    matrix.chunks_exact(x.len()).map(|row| dot(row, x)).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}
