//! The weights of a model, where the forward pass finds them.

use crate::{
    EngineError,
    pack::{self, Packed},
};
use coffer_checkpoint::TensorSource;
use coffer_kernels::Matrix;
use coffer_model::{Experts, LayerGraph, ModelConfig, Node};
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
    /// `[head_dim]` each, where the heads of Q and K are normalized.
    pub(crate) qk_norm: Option<[Vec<f32>; 2]>,
    /// `[hidden, heads * head_dim]`.
    pub(crate) o: Linear,
    /// `[hidden]` each: norms of what attention and the feed-forward layer add, where they have some.
    pub(crate) post_norms: Option<[Vec<f32>; 2]>,
    /// `[hidden]`.
    pub(crate) ffn_norm: Vec<f32>,
    pub(crate) feed_forward: FeedForward,
}

/// The second half of a block.
pub(crate) enum FeedForward {
    /// One for all tokens.
    Dense(Gated),
    /// The router chooses a few for each token.
    Experts {
        /// `[experts, hidden]`.
        router: Linear,
        experts: Vec<Gated>,
        /// One more for all tokens, and what weighs it, `[1, hidden]`.
        shared: Option<(Gated, Linear)>,
    },
}

/// A gated feed-forward layer.
pub(crate) struct Gated {
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
        let graph = LayerGraph::of(config);
        let mut loaded = Loaded(pack::nodes(graph.nodes().iter().collect(), source, threads, progress)?);
        let embedding = loaded.linear(EMBEDDING)?.weight;
        let layers = (0..config.layers).map(|i| loaded.layer(config, i)).collect::<Result<_, _>>()?;
        let norm = loaded.norm(NORM)?;
        let head = if config.tie_embeddings { None } else { Some(loaded.linear(HEAD)?.weight) };
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

const EMBEDDING: &str = "model.embed_tokens.weight";
const NORM: &str = "model.norm.weight";
const HEAD: &str = "lm_head.weight";

/// Reads and packs the embedding, `[vocab, hidden]`, alone.
pub(crate) fn embedding(config: &ModelConfig, source: &dyn TensorSource, threads: usize) -> Result<Matrix, EngineError> {
    Ok(Loaded::some(config, source, threads, &|node| node.weight == EMBEDDING)?.linear(EMBEDDING)?.weight)
}

/// Reads and packs the last norm, `[hidden]`, and the head, `[vocab, hidden]`, alone.
pub(crate) fn head(config: &ModelConfig, source: &dyn TensorSource, threads: usize) -> Result<(Vec<f32>, Matrix), EngineError> {
    let head = if config.tie_embeddings { EMBEDDING } else { HEAD };
    let mut loaded = Loaded::some(config, source, threads, &|node| [NORM, head].contains(&&*node.weight))?;
    Ok((loaded.norm(NORM)?, loaded.linear(head)?.weight))
}

impl Layer {
    /// Reads and packs one layer.
    pub(crate) fn load(config: &ModelConfig, source: &dyn TensorSource, i: usize, threads: usize) -> Result<Self, EngineError> {
        Loaded::some(config, source, threads, &|node| node.block == Some(i))?.layer(config, i)
    }

    fn bytes(&self) -> usize {
        let Self { attention_norm, q, k, v, qk_norm, o, post_norms, ffn_norm, feed_forward } = self;
        let norms = [attention_norm, ffn_norm].into_iter().chain(qk_norm.iter().chain(post_norms).flatten());
        norms.map(|n| size_of_val(&**n)).sum::<usize>()
            + [q, k, v, o].map(Linear::bytes).iter().sum::<usize>()
            + feed_forward.bytes()
    }
}

impl FeedForward {
    fn bytes(&self) -> usize {
        match self {
            Self::Dense(gated) => gated.bytes(),
            Self::Experts { router, experts, shared } => {
                let shared = shared.as_ref().map_or(0, |(gated, weight)| gated.bytes() + weight.bytes());
                router.bytes() + experts.iter().map(Gated::bytes).sum::<usize>() + shared
            }
        }
    }
}

impl Gated {
    fn bytes(&self) -> usize {
        [&self.gate, &self.up, &self.down].map(Linear::bytes).iter().sum()
    }
}

impl Linear {
    fn bytes(&self) -> usize {
        self.weight.bytes() + self.bias.as_deref().map_or(0, size_of_val)
    }
}

/// What was read of a model's nodes, by the name of their weight.
struct Loaded(HashMap<String, Packed>);

impl Loaded {
    /// Reads and packs some nodes.
    fn some(
        config: &ModelConfig,
        source: &dyn TensorSource,
        threads: usize,
        wanted: &dyn Fn(&Node) -> bool,
    ) -> Result<Self, EngineError> {
        let graph = LayerGraph::of(config);
        let nodes = graph.nodes().iter().filter(|node| wanted(node)).collect();
        Ok(Self(pack::nodes(nodes, source, threads, &mut |_, _| {})?))
    }

    fn layer(&mut self, config: &ModelConfig, i: usize) -> Result<Layer, EngineError> {
        let name = |part: &str| format!("model.layers.{i}.{part}.weight");
        let family = config.architecture.family();
        Ok(Layer {
            attention_norm: self.norm(&name("input_layernorm"))?,
            q: self.linear(&name("self_attn.q_proj"))?,
            k: self.linear(&name("self_attn.k_proj"))?,
            v: self.linear(&name("self_attn.v_proj"))?,
            qk_norm: self.norms(family.qk_norm, ["self_attn.q_norm", "self_attn.k_norm"].map(name))?,
            o: self.linear(&name("self_attn.o_proj"))?,
            post_norms: self.norms(family.post_norms, ["post_attention_layernorm", "post_feedforward_layernorm"].map(name))?,
            ffn_norm: self.norm(&name(family.ffn_norm()))?,
            feed_forward: self.feed_forward(config, &format!("model.layers.{i}.mlp"))?,
        })
    }

    fn feed_forward(&mut self, config: &ModelConfig, name: &str) -> Result<FeedForward, EngineError> {
        let Some(Experts { count, shared, .. }) = &config.experts else { return self.gated(name).map(FeedForward::Dense) };
        Ok(FeedForward::Experts {
            router: self.linear(&format!("{name}.gate.weight"))?,
            experts: (0..*count).map(|i| self.gated(&format!("{name}.experts.{i}"))).collect::<Result<_, _>>()?,
            shared: match shared {
                Some(_) => Some((
                    self.gated(&format!("{name}.shared_expert"))?,
                    self.linear(&format!("{name}.shared_expert_gate.weight"))?,
                )),
                None => None,
            },
        })
    }

    fn gated(&mut self, name: &str) -> Result<Gated, EngineError> {
        let mut linear = |part: &str| self.linear(&format!("{name}.{part}_proj.weight"));
        Ok(Gated { gate: linear("gate")?, up: linear("up")?, down: linear("down")? })
    }

    fn linear(&mut self, name: &str) -> Result<Linear, EngineError> {
        match self.0.remove(name) {
            Some(Packed::Linear(linear)) => Ok(linear),
            _ => Err(EngineError::Missing { tensor: name.to_owned() }),
        }
    }

    /// Two norms, if there are some.
    fn norms(&mut self, there: bool, [a, b]: [String; 2]) -> Result<Option<[Vec<f32>; 2]>, EngineError> {
        if there { Ok(Some([self.norm(&a)?, self.norm(&b)?])) } else { Ok(None) }
    }

    fn norm(&mut self, name: &str) -> Result<Vec<f32>, EngineError> {
        match self.0.remove(name) {
            Some(Packed::Norm(norm)) => Ok(norm),
            _ => Err(EngineError::Missing { tensor: name.to_owned() }),
        }
    }
}
