//! What can be seen of a forward pass from outside.

/// Watches a forward pass; changes nothing.
pub trait Observer {
    /// The residual stream `[tokens, hidden]` after `layers` layers, 0 (the embedding) to all of them. The tokens are those of
    /// all spans in order; where they are too many for one pass, the later ones follow with a pass of their own.
    fn residual(&mut self, layers: usize, x: &[f32]) {
        let _ = (layers, x);
    }
    /// The input `[tokens, columns]` that `products` share.
    fn input(&mut self, products: Products, x: &[f32], tokens: usize) {
        let _ = (products, x, tokens);
    }
}

/// Watches nothing.
pub struct Nobody;
impl Observer for Nobody {}

/// Matrix products of one layer that share their input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Products {
    /// Layer.
    pub layer: usize,
    /// Which of its products.
    pub part: Part,
}

/// Products of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// Queries, keys and values.
    Attention,
    /// What attention found, on its way back into the stream.
    Output,
    /// Gate and up.
    GateUp(FeedForward),
    /// Down.
    Down(FeedForward),
}

/// Feed-forward blocks of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FeedForward {
    /// The only one.
    Dense,
    /// That of an expert, which sees the tokens that chose it.
    Expert(usize),
    /// That of the expert that all tokens go through.
    Shared,
}

impl Products {
    /// Canonical names of the weights.
    pub fn weights(self) -> Vec<String> {
        let (block, modules): (_, &[&str]) = match self.part {
            Part::Attention => ("self_attn".to_owned(), &["q_proj", "k_proj", "v_proj"]),
            Part::Output => ("self_attn".to_owned(), &["o_proj"]),
            Part::GateUp(block) => (block.name(), &["gate_proj", "up_proj"]),
            Part::Down(block) => (block.name(), &["down_proj"]),
        };
        modules.iter().map(|module| format!("model.layers.{}.{block}.{module}.weight", self.layer)).collect()
    }
}

impl FeedForward {
    fn name(self) -> String {
        match self {
            Self::Dense => "mlp".to_owned(),
            Self::Expert(expert) => format!("mlp.experts.{expert}"),
            Self::Shared => "mlp.shared_expert".to_owned(),
        }
    }
}

/// An observer of one layer.
pub(crate) struct Watch<'a> {
    pub(crate) observer: &'a mut dyn Observer,
    pub(crate) layer: usize,
    /// Which layer of the caches is its own.
    pub(crate) cached: usize,
}

impl Watch<'_> {
    pub(crate) fn input(&mut self, part: Part, x: &[f32], tokens: usize) {
        self.observer.input(Products { layer: self.layer, part }, x, tokens);
    }
}
