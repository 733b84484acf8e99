//! Reads the tensors of a layer graph and packs them.

use crate::EngineError;
use coffer_checkpoint::{TensorId, TensorInfo, TensorSource, blocks};
use coffer_kernels::{Matrix, MatrixBuilder};
use coffer_model::{LayerGraph, ModelConfig, Node};
use std::collections::HashMap;

/// Rows are read in pieces of about this many bytes.
const PIECE: u64 = 4 << 20;

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
    /// Reads and packs everything; beside the weights themselves one piece is held in memory.
    pub(crate) fn load(
        config: &ModelConfig,
        source: &dyn TensorSource,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, EngineError> {
        let graph = LayerGraph::of(config);
        let mut loader = Loader::new(&graph, source, progress)?;
        let embedding = loader.linear("model.embed_tokens.weight")?.weight;
        let layers = (0..config.layers).map(|i| loader.layer(i)).collect::<Result<_, _>>()?;
        let norm = loader.norm("model.norm.weight")?;
        let head = if config.tie_embeddings { None } else { Some(loader.linear("lm_head.weight")?.weight) };
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

struct Loader<'a> {
    nodes: HashMap<&'a str, &'a Node>,
    source: &'a dyn TensorSource,
    progress: &'a mut dyn FnMut(u64, u64),
    done: u64,
    total: u64,
    piece: Vec<u8>,
}

impl<'a> Loader<'a> {
    /// Checks all names and shapes before the first byte is read.
    fn new(
        graph: &'a LayerGraph,
        source: &'a dyn TensorSource,
        progress: &'a mut dyn FnMut(u64, u64),
    ) -> Result<Self, EngineError> {
        let mut total = 0u64;
        for node in graph.nodes() {
            let weight = find(source, &node.weight, &node.shape)?;
            let bias = node.bias.as_ref().map(|bias| find(source, bias, &node.shape[..1])).transpose()?;
            for (_, info) in [Some(weight), bias].into_iter().flatten() {
                total = total.saturating_add(info.bytes().unwrap_or(0));
            }
        }
        let nodes = graph.nodes().iter().map(|n| (n.weight.as_str(), n)).collect();
        Ok(Self { nodes, source, progress, done: 0, total, piece: Vec::new() })
    }

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
        let node = self.node(name)?;
        let weight = self.matrix(node)?;
        let bias = node.bias.as_ref().map(|bias| self.vector(bias, &node.shape[..1])).transpose()?;
        Ok(Linear { weight, bias })
    }

    fn norm(&mut self, name: &str) -> Result<Vec<f32>, EngineError> {
        let node = self.node(name)?;
        self.vector(name, &node.shape)
    }

    fn node(&self, name: &str) -> Result<&'a Node, EngineError> {
        self.nodes.get(name).copied().ok_or_else(|| EngineError::Missing { tensor: name.to_owned() })
    }

    fn matrix(&mut self, node: &Node) -> Result<Matrix, EngineError> {
        let (id, info) = find(self.source, &node.weight, &node.shape)?;
        let refused = |source| EngineError::Matrix { tensor: node.weight.clone(), source };
        let (rows, cols) = (info.rows(), info.cols());
        let mut builder = MatrixBuilder::new(info.dtype, rows as usize, cols as usize).map_err(refused)?;
        let step = (PIECE / info.row_bytes().unwrap_or(PIECE).max(1)).max(1);
        let mut at = 0;
        while at < rows {
            let end = rows.min(at + step);
            self.read(id, info, at..end)?;
            builder.push_rows(&self.piece).map_err(refused)?;
            at = end;
        }
        builder.finish().map_err(refused)
    }

    /// A norm or a bias in f32, whatever its type.
    fn vector(&mut self, name: &str, shape: &[u64]) -> Result<Vec<f32>, EngineError> {
        let (id, info) = find(self.source, name, shape)?;
        self.read(id, info, 0..1)?;
        let mut out = vec![0.0; info.cols() as usize];
        let refused = |source| EngineError::Decode { tensor: name.to_owned(), source };
        blocks::decode(info.dtype, &self.piece, &mut out).map_err(refused)?;
        Ok(out)
    }

    /// Fills the piece with `rows`.
    fn read(&mut self, id: TensorId, info: &TensorInfo, rows: std::ops::Range<u64>) -> Result<(), EngineError> {
        let bytes = info.row_bytes().unwrap_or(0).saturating_mul(rows.end - rows.start) as usize;
        if let Some(more) = bytes.checked_sub(self.piece.len()) {
            self.piece.try_reserve_exact(more).map_err(|_| EngineError::Memory { what: "a row of weights", bytes })?;
        }
        self.piece.resize(bytes, 0);
        let failed = |source| EngineError::Read { tensor: info.name.clone(), source };
        self.source.read_rows(id, rows, &mut self.piece).map_err(failed)?;
        self.done = self.done.saturating_add(bytes as u64);
        (self.progress)(self.done, self.total);
        Ok(())
    }
}

fn find<'a>(source: &'a dyn TensorSource, name: &str, want: &[u64]) -> Result<(TensorId, &'a TensorInfo), EngineError> {
    let id = source.index().find(name).ok_or_else(|| EngineError::Missing { tensor: name.to_owned() })?;
    let info = source.index().get(id);
    if info.shape != want {
        return Err(EngineError::Shape { tensor: name.to_owned(), want: want.to_vec(), got: info.shape.clone() });
    }
    Ok((id, info))
}
