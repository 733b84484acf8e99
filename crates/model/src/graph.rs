//! The layer graph: what methods of compression and the engine walk over.

use crate::{Experts, ModelConfig};

/// What a node computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeKind {
    /// `y = W x (+ b)`, W `[out, in]`.
    Linear,
    /// A two-dimensional convolution, W `[O, I, h, w]`.
    Conv2d {
        /// Step of the window.
        stride: [u32; 2],
        /// Zeros added on each side.
        pad: [u32; 2],
        /// Distance between taps.
        dilation: [u32; 2],
        /// Channel groups.
        groups: u32,
    },
    /// A product that weighs experts: small, and a small error sends a token elsewhere.
    Router,
    /// A normalization with one weight per channel.
    Norm,
    /// A table of rows.
    Embedding,
}

/// A group of channels that must shrink together; nodes that share an axis share its channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Axis(pub u32);

/// One weighted operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Canonical (Hugging Face) name of the weight, e.g. `model.layers.0.mlp.up_proj.weight`.
    pub weight: String,
    /// Canonical name of the bias.
    pub bias: Option<String>,
    /// Transformer block, `None` outside the blocks.
    pub block: Option<usize>,
    /// Operation.
    pub kind: NodeKind,
    /// Expected shape of the weight, outermost first.
    pub shape: Vec<u64>,
    /// Axis of the output channels.
    pub output: Axis,
    /// Axis of the input channels.
    pub input: Axis,
}

/// All weighted operations of a model in the order in which they run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerGraph {
    nodes: Vec<Node>,
}

impl LayerGraph {
    /// The graph of a language model.
    pub fn of(config: &ModelConfig) -> Self {
        let mut builder = Builder { nodes: Vec::new(), axes: 2 };
        let (hidden, vocab) = (Channels(Axis(0), config.hidden as u64), Channels(Axis(1), config.vocab as u64));
        builder.push("model.embed_tokens", None, NodeKind::Embedding, vocab, hidden);
        (0..config.layers).for_each(|block| builder.block(config, block, hidden));
        builder.norm("model.norm", None, hidden);
        if !config.tie_embeddings {
            builder.push("lm_head", None, NodeKind::Linear, vocab, hidden);
        }
        Self { nodes: builder.nodes }
    }
    /// The nodes in order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }
    /// Linear and convolution nodes inside the transformer blocks: what pruning and quantization act on.
    pub fn prunable(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|n| n.block.is_some() && matches!(n.kind, NodeKind::Linear | NodeKind::Conv2d { .. }))
    }
}

/// An axis and how many channels it has.
#[derive(Clone, Copy)]
struct Channels(Axis, u64);

/// The products of a gated feed-forward layer.
const GATED: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];

struct Builder {
    nodes: Vec<Node>,
    axes: u32,
}

impl Builder {
    /// One pre-norm block: attention, then a gated feed-forward layer, each added to the residual stream.
    fn block(&mut self, config: &ModelConfig, block: usize, hidden: Channels) {
        self.attention(config, block, hidden);
        self.feed_forward(config, block, hidden);
    }

    fn attention(&mut self, config: &ModelConfig, block: usize, hidden: Channels) {
        let family = config.architecture.family();
        let name = |module: &str| format!("model.layers.{block}.{module}");
        let (heads, kv_heads) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let (keys, values) = (self.axis(kv_heads), self.axis(kv_heads));
        // Query i meets key i, and mixed value i is a sum of values i, unless several query heads share one.
        let (queries, mixed) = if heads == kv_heads { (keys, values) } else { (self.axis(heads), self.axis(heads)) };
        self.norm(&name("input_layernorm"), Some(block), hidden);
        for (module, output) in [("q_proj", queries), ("k_proj", keys), ("v_proj", values)] {
            let name = name(&format!("self_attn.{module}"));
            self.push(&name, Some(block), NodeKind::Linear, output, hidden);
            if let Some(node) = self.nodes.last_mut().filter(|_| family.qkv_bias) {
                node.bias = Some(format!("{name}.bias"));
            }
        }
        if family.qk_norm {
            let head = self.axis(config.head_dim);
            self.norm(&name("self_attn.q_norm"), Some(block), head);
            self.norm(&name("self_attn.k_norm"), Some(block), head);
        }
        self.push(&name("self_attn.o_proj"), Some(block), NodeKind::Linear, hidden, mixed);
        if family.post_norms {
            self.norm(&name("post_attention_layernorm"), Some(block), hidden);
        }
    }

    fn feed_forward(&mut self, config: &ModelConfig, block: usize, hidden: Channels) {
        let name = |module: &str| format!("model.layers.{block}.{module}");
        self.norm(&name(config.architecture.family().ffn_norm()), Some(block), hidden);
        match &config.experts {
            None => {
                let ffn = self.axis(config.ffn);
                GATED.into_iter().for_each(|part| self.gated(&name("mlp"), part, block, ffn, hidden));
            }
            Some(experts) => self.experts(config, experts, block, hidden),
        }
        if config.architecture.family().post_norms {
            self.norm(&name("post_feedforward_layernorm"), Some(block), hidden);
        }
    }

    fn experts(&mut self, config: &ModelConfig, experts: &Experts, block: usize, hidden: Channels) {
        let name = |module: &str| format!("model.layers.{block}.{module}");
        let routes = self.axis(experts.count);
        self.push(&name("mlp.gate"), Some(block), NodeKind::Router, routes, hidden);
        let axes: Vec<_> = (0..experts.count).map(|_| self.axis(config.ffn)).collect();
        for part in GATED {
            for (expert, ffn) in axes.iter().enumerate() {
                self.gated(&name(&format!("mlp.experts.{expert}")), part, block, *ffn, hidden);
            }
        }
        if let Some(shared) = experts.shared {
            let (ffn, one) = (self.axis(shared), self.axis(1));
            GATED.into_iter().for_each(|part| self.gated(&name("mlp.shared_expert"), part, block, ffn, hidden));
            self.push(&name("mlp.shared_expert_gate"), Some(block), NodeKind::Router, one, hidden);
        }
    }

    /// One product of a gated feed-forward layer.
    fn gated(&mut self, layer: &str, part: &str, block: usize, ffn: Channels, hidden: Channels) {
        let (output, input) = if part == "down_proj" { (hidden, ffn) } else { (ffn, hidden) };
        self.push(&format!("{layer}.{part}"), Some(block), NodeKind::Linear, output, input);
    }

    fn axis(&mut self, channels: usize) -> Channels {
        self.axes += 1;
        Channels(Axis(self.axes - 1), channels as u64)
    }

    fn push(&mut self, name: &str, block: Option<usize>, kind: NodeKind, output: Channels, input: Channels) {
        let weight = format!("{name}.weight");
        self.nodes.push(Node {
            weight,
            bias: None,
            block,
            kind,
            shape: vec![output.1, input.1],
            output: output.0,
            input: input.0,
        });
    }

    fn norm(&mut self, name: &str, block: Option<usize>, channels: Channels) {
        self.push(name, block, NodeKind::Norm, channels, channels);
        if let Some(node) = self.nodes.last_mut() {
            node.shape.truncate(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(json: &str) -> LayerGraph {
        LayerGraph::of(&ModelConfig::from_hf(json.as_bytes(), None).unwrap())
    }

    const QWEN: &str = r#"{"model_type":"qwen2","hidden_size":64,"num_hidden_layers":2,"num_attention_heads":4,
        "num_key_value_heads":2,"intermediate_size":96,"vocab_size":100,"max_position_embeddings":128,"tie_word_embeddings":true}"#;

    #[test]
    fn qwen2_has_biases_and_ties_its_head() {
        let graph = graph(QWEN);
        assert_eq!(graph.nodes().len(), 2 * 9 + 2);
        assert_eq!(graph.prunable().count(), 2 * 7);
        let node = |name: &str| graph.nodes().iter().find(|n| n.weight == name).unwrap().clone();
        let keys = node("model.layers.1.self_attn.k_proj.weight");
        assert_eq!(keys.bias.as_deref(), Some("model.layers.1.self_attn.k_proj.bias"));
        assert_eq!(keys.shape, [32, 64]);
        let (up, down) = (node("model.layers.0.mlp.up_proj.weight"), node("model.layers.0.mlp.down_proj.weight"));
        assert_eq!((up.output, up.input), (down.input, down.output));
        assert_ne!(up.output, node("model.layers.1.mlp.up_proj.weight").output);
    }
}
