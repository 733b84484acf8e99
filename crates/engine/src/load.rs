//! The weights of a model, where the forward pass finds them.

use crate::{
    EngineError,
    pack::{self, Packed},
};
use coffer_checkpoint::TensorSource;
use coffer_kernels::Matrix;
use coffer_model::{LayerGraph, ModelConfig};
use std::collections::HashMap;

/// All weights of a model, packed.
pub(crate) struct Weights {
    /// `[vocab, hidden]`.
    pub(crate) embedding: Matrix,
    pub(crate) layers: Vec<Layer>,
    /// `[hidden]`.
    pub(crate) norm: Vec<f32>,
    /// `[vocab, hidden]`; `None`: the embedding serves as head.
    pub(crate) head: Option<Matrix>,
}

/// One transformer block.
pub(crate) struct Layer {
    /// `[hidden]`.
    pub(crate) attention_norm: Vec<f32>,
    /// `[heads * head_dim, hidden]`.
    pub(crate) q: Linear,
    /// `[kv_heads * head_dim, hidden]`.
    pub(crate) k: Linear,
    /// `[kv_heads * head_dim, hidden]`.
    pub(crate) v: Linear,
    /// `[hidden, heads * head_dim]`.
    pub(crate) o: Linear,
    /// `[hidden]`.
    pub(crate) ffn_norm: Vec<f32>,
    /// `[ffn, hidden]`.
    pub(crate) gate: Linear,
    /// `[ffn, hidden]`.
    pub(crate) up: Linear,
    /// `[hidden, ffn]`.
    pub(crate) down: Linear,
}

/// `y = W x (+ b)`.
pub(crate) struct Linear {
    pub(crate) weight: Matrix,
    pub(crate) bias: Option<Vec<f32>>,
}

impl Weights {
    /// Reads and packs everything, by `threads`; beside the weights themselves each holds one piece in memory.
    pub(crate) fn load(
        config: &ModelConfig,
        source: &dyn TensorSource,
        threads: usize,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, EngineError> {
        let mut loaded = Loaded(pack::nodes(&LayerGraph::of(config), source, threads, progress)?);
        let embedding = loaded.linear("model.embed_tokens.weight")?.weight;
        let layers = (0..config.layers).map(|i| loaded.layer(i)).collect::<Result<_, _>>()?;
        let norm = loaded.norm("model.norm.weight")?;
        let head = if config.tie_embeddings { None } else { Some(loaded.linear("lm_head.weight")?.weight) };
        Ok(Self { embedding, layers, norm, head })
    }

    /// The output head.
    pub(crate) fn head(&self) -> &Matrix {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self) -> usize {
        let layers = self.layers.iter().map(Layer::bytes).sum::<usize>();
        self.embedding.bytes() + layers + size_of_val(&*self.norm) + self.head.as_ref().map_or(0, Matrix::bytes)
    }
}

impl Layer {
    fn bytes(&self) -> usize {
        let Self { attention_norm, q, k, v, o, ffn_norm, gate, up, down } = self;
        let linear = |l: &Linear| l.weight.bytes() + l.bias.as_deref().map_or(0, size_of_val);
        size_of_val(&**attention_norm) + size_of_val(&**ffn_norm) + [q, k, v, o, gate, up, down].map(linear).iter().sum::<usize>()
    }
}

/// What was read of a model's nodes, by the name of their weight.
struct Loaded(HashMap<String, Packed>);

impl Loaded {
    fn layer(&mut self, i: usize) -> Result<Layer, EngineError> {
        let name = |part: &str| format!("model.layers.{i}.{part}.weight");
        Ok(Layer {
            attention_norm: self.norm(&name("input_layernorm"))?,
            q: self.linear(&name("self_attn.q_proj"))?,
            k: self.linear(&name("self_attn.k_proj"))?,
            v: self.linear(&name("self_attn.v_proj"))?,
            o: self.linear(&name("self_attn.o_proj"))?,
            ffn_norm: self.norm(&name("post_attention_layernorm"))?,
            gate: self.linear(&name("mlp.gate_proj"))?,
            up: self.linear(&name("mlp.up_proj"))?,
            down: self.linear(&name("mlp.down_proj"))?,
        })
    }

    fn linear(&mut self, name: &str) -> Result<Linear, EngineError> {
        match self.0.remove(name) {
            Some(Packed::Linear(linear)) => Ok(linear),
            _ => Err(EngineError::Missing { tensor: name.to_owned() }),
        }
    }

    fn norm(&mut self, name: &str) -> Result<Vec<f32>, EngineError> {
        match self.0.remove(name) {
            Some(Packed::Norm(norm)) => Ok(norm),
            _ => Err(EngineError::Missing { tensor: name.to_owned() }),
        }
    }
}
