//! The layer graph: what methods of compression and the engine walk over.

use crate::ModelConfig;

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
        let _ = config;
        todo!()
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
