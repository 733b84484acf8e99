//! A model as it would be after quantization, without a file.

use super::{Inputs, Quantize, QuantizeParams, Scheme};
use crate::{Method, rows};
use coffer_checkpoint::{ReadError, TensorId, TensorIndex, TensorSource};
use coffer_store::Model;
use std::{collections::BTreeMap, ops::Range};

/// The weights that [`quantize`](super::quantize) would write, each made when it is read. A quantized source is rounded again.
pub struct Rounded {
    method: Quantize,
    index: TensorIndex,
}

impl Rounded {
    /// Rounds `model` to `scheme`.
    pub fn new(model: &Model, scheme: Scheme) -> Self {
        Self::with(
            model,
            &QuantizeParams { scheme, types: BTreeMap::new(), requantize: true, inputs: Inputs::Unknown, threads: 1 },
        )
    }

    /// Rounds `model` as [`quantize`](super::quantize) would with `params`.
    pub fn with(model: &Model, params: &QuantizeParams) -> Self {
        let method = Quantize::of(model, params);
        Self { index: method.outputs(), method }
    }

    /// Name and version of the method that makes them.
    pub fn method(&self) -> &'static str {
        self.method.entry().id
    }
}

impl TensorSource for Rounded {
    fn index(&self) -> &TensorIndex {
        &self.index
    }

    fn read_rows(&self, t: TensorId, rows: Range<u64>, out: &mut [u8]) -> Result<(), ReadError> {
        let info = self.index.get(t);
        rows::fill(info, rows::task_by_rows(info.clone(), 1).and_then(|task| self.method.run(&task, rows)), out)
    }
}
