//! Reads the tensors of a layer graph and packs them, several at a time.

use crate::{EngineError, load::Linear};
use coffer_checkpoint::{DType, TensorId, TensorInfo, TensorSource, blocks};
use coffer_kernels::{Matrix, MatrixBuilder};
use coffer_model::{Node, NodeKind};
use std::{
    collections::HashMap,
    ops::Range,
    panic::resume_unwind,
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

/// Rows are read in pieces of about this many bytes, so that they are packed out of the cache.
const PIECE: u64 = 4 << 20;

/// A node's weights.
pub(crate) enum Packed {
    /// In f32, whatever their type.
    Norm(Vec<f32>),
    /// A product or a table of rows.
    Linear(Linear),
}

/// `nodes` of a graph, by the name of their weight. All names and shapes are checked before the first byte is read; of several
/// tensors that cannot be read the first is named. `progress` is called with bytes done and bytes in all.
///
/// What belongs to no block comes first: the embedding and the head are the largest, and no thread should be left with one at the end.
/// The others follow in the order in which files have them, so that neighbours in a sealed stream share segments.
pub(crate) fn nodes(
    mut nodes: Vec<&Node>,
    source: &dyn TensorSource,
    threads: usize,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<HashMap<String, Packed>, EngineError> {
    nodes.sort_by_key(|node| node.block.is_some());
    let total = nodes.iter().try_fold(0u64, |sum, node| Ok(sum.saturating_add(bytes_of(source, node)?)))?;
    let next = AtomicUsize::new(0);
    let work = |tell: mpsc::Sender<u64>| {
        let mut packer = Packer { source, tell, piece: Vec::new() };
        let mut packed = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(node) = nodes.get(at) else { return packed };
            let result = packer.node(node);
            if result.is_err() {
                next.store(nodes.len(), Ordering::Relaxed);
            }
            packed.push((at, result));
        }
    };
    let mut packed = thread::scope(|scope| {
        let (tell, told) = mpsc::channel();
        let start = |tell: mpsc::Sender<u64>| scope.spawn(|| work(tell));
        let workers: Vec<_> = (0..threads.clamp(1, nodes.len().max(1))).map(|_| start(tell.clone())).collect();
        drop(tell);
        let mut done = 0u64;
        for bytes in told {
            done = done.saturating_add(bytes);
            progress(done, total);
        }
        let joined = workers.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)));
        joined.flatten().collect::<Vec<_>>()
    });
    // Nodes are taken in order, so that of several errors the first is among them, whoever was faster.
    packed.sort_by_key(|(at, _)| *at);
    packed.into_iter().map(|(at, result)| Ok((nodes[at].weight.clone(), result?))).collect()
}

/// One thread's means.
struct Packer<'a> {
    source: &'a dyn TensorSource,
    /// Told how many bytes were read.
    tell: mpsc::Sender<u64>,
    piece: Vec<u8>,
}

impl Packer<'_> {
    fn node(&mut self, node: &Node) -> Result<Packed, EngineError> {
        if node.kind == NodeKind::Norm {
            return self.vector(&node.weight, &node.shape).map(Packed::Norm);
        }
        let weight = self.matrix(node)?;
        let bias = node.bias.as_ref().map(|bias| self.vector(bias, &node.shape[..1])).transpose()?;
        Ok(Packed::Linear(Linear { weight, bias }))
    }

    fn matrix(&mut self, node: &Node) -> Result<Matrix, EngineError> {
        let (id, info) = find(self.source, &node.weight, &node.shape)?;
        let refused = |source| EngineError::Matrix { tensor: node.weight.clone(), source };
        let (rows, cols) = (info.rows(), info.cols());
        // No kernel multiplies by what compressed-tensors stores.
        let decoded = info.dtype.is_compressed();
        let dtype = if decoded { DType::F32 } else { info.dtype };
        let mut builder = MatrixBuilder::new(dtype, rows as usize, cols as usize).map_err(refused)?;
        let step = (PIECE / info.row_bytes().unwrap_or(PIECE).max(1)).max(1);
        let mut at = 0;
        while at < rows {
            let end = rows.min(at + step);
            self.read(id, info, at..end)?;
            if decoded {
                self.piece = self.values(info, (end - at) * cols)?.iter().flat_map(|v| v.to_le_bytes()).collect();
            }
            builder.push_rows(&self.piece).map_err(refused)?;
            at = end;
        }
        builder.finish().map_err(refused)
    }

    /// A norm or a bias in f32, whatever its type.
    fn vector(&mut self, name: &str, shape: &[u64]) -> Result<Vec<f32>, EngineError> {
        let (id, info) = find(self.source, name, shape)?;
        self.read(id, info, 0..1)?;
        self.values(info, info.cols())
    }

    /// What the piece holds, `count` numbers.
    fn values(&self, info: &TensorInfo, count: u64) -> Result<Vec<f32>, EngineError> {
        let mut out = vec![0.0; count as usize];
        let refused = |source| EngineError::Decode { tensor: info.name.clone(), source };
        blocks::decode(info.dtype, &self.piece, &mut out).map_err(refused)?;
        Ok(out)
    }

    /// Fills the piece with `rows`.
    fn read(&mut self, id: TensorId, info: &TensorInfo, rows: Range<u64>) -> Result<(), EngineError> {
        let bytes = info.row_bytes().unwrap_or(0).saturating_mul(rows.end - rows.start) as usize;
        if let Some(more) = bytes.checked_sub(self.piece.len()) {
            self.piece.try_reserve_exact(more).map_err(|_| EngineError::Memory { what: "a row of weights", bytes })?;
        }
        self.piece.resize(bytes, 0);
        let failed = |source| EngineError::Read { tensor: info.name.clone(), source };
        self.source.read_rows(id, rows, &mut self.piece).map_err(failed)?;
        // Whoever listens is there until all threads have ended.
        let _ = self.tell.send(bytes as u64);
        Ok(())
    }
}

/// Bytes of a node's tensors, which must be there and have the shapes that it demands.
fn bytes_of(source: &dyn TensorSource, node: &Node) -> Result<u64, EngineError> {
    let weight = find(source, &node.weight, &node.shape)?;
    let bias = node.bias.as_ref().map(|bias| find(source, bias, &node.shape[..1])).transpose()?;
    let bytes = |(_, info): (TensorId, &TensorInfo)| info.bytes().unwrap_or(0);
    Ok(bytes(weight).saturating_add(bias.map_or(0, bytes)))
}

fn find<'a>(source: &'a dyn TensorSource, name: &str, want: &[u64]) -> Result<(TensorId, &'a TensorInfo), EngineError> {
    let id = source.index().find(name).ok_or_else(|| EngineError::Missing { tensor: name.to_owned() })?;
    let info = source.index().get(id);
    if info.shape != want {
        return Err(EngineError::Shape { tensor: name.to_owned(), want: want.to_vec(), got: info.shape.clone() });
    }
    Ok((id, info))
}
