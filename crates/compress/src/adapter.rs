//! LoRA adapters (Hu et al., arXiv:2106.09685) in PEFT's layout, applied on the fly: `W + s·B·A`.

use crate::rows;
use coffer_checkpoint::{
    DType, ReadError, TensorId, TensorIndex, TensorInfo, TensorSource,
    safetensors::{SafetensorsError, SafetensorsFile},
};
use coffer_store::{FileSet, StoreError};
use serde_json::{Map, Value};
use std::{collections::BTreeMap, ops::Range, path::Path, sync::Arc};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// An `adapter_config.json` is a few kilobytes.
const CONFIG_LIMIT: u64 = 1 << 20;

/// Low-rank changes of some weights.
#[derive(Debug)]
pub struct Adapter {
    name: String,
    scaling: f32,
    /// By canonical name of the weight.
    changes: BTreeMap<String, Change>,
}

/// `A` is `[rank, inputs]`, `B` is `[outputs, rank]`.
#[derive(Debug)]
struct Change {
    a: Vec<f32>,
    b: Vec<f32>,
    rank: usize,
}

impl Adapter {
    /// Reads `adapter_config.json` and `adapter_model.safetensors` from `files`, found at `path`.
    ///
    /// # Errors
    /// Returns [`AdapterError`] if a file is missing or damaged, or if the adapter is of a kind that a sum of matrices
    /// cannot express: DoRA, modules saved in full, ranks that differ between layers, transposed weights.
    pub fn open(path: &Path, files: &FileSet) -> Result<Self, AdapterError> {
        let name = path.display().to_string();
        let missing = |file| AdapterError::Missing { adapter: path.display().to_string(), file };
        let config = files.read(CONFIG, CONFIG_LIMIT)?.ok_or_else(|| missing(CONFIG))?;
        if !files.has(WEIGHTS) {
            return Err(missing(WEIGHTS));
        }
        let weights = SafetensorsFile::open(&format!("{name}/{WEIGHTS}"), files.file(WEIGHTS)?)?;
        Self::from_parts(&name, &config, &weights)
    }

    /// As [`Adapter::open`], from a configuration and tensors at hand; `name` is used in errors.
    ///
    /// # Errors
    /// As [`Adapter::open`].
    pub fn from_parts(name: &str, config: &[u8], weights: &dyn TensorSource) -> Result<Self, AdapterError> {
        let refused =
            |field: &str, reason: String| AdapterError::Config { adapter: name.to_owned(), field: field.to_owned(), reason };
        let config: Map<String, Value> = serde_json::from_slice(config).map_err(|e| refused("JSON", e.to_string()))?;
        let (rank, scaling) = read_config(&config).map_err(|(field, reason)| refused(field, reason))?;
        let mut adapter = Self { name: name.to_owned(), scaling, changes: BTreeMap::new() };
        for (_, tensor) in weights.index().iter() {
            let (target, is_a) = target(&tensor.name).map_err(|reason| adapter.refuse(&tensor.name, reason))?;
            if is_a {
                let change = adapter.read_change(weights, tensor, rank)?;
                adapter.changes.insert(target, change);
            } else if weights.index().find(&tensor.name.replace(".lora_B.", ".lora_A.")).is_none() {
                return Err(adapter.refuse(&tensor.name, "it has no lora_A beside it".to_owned()));
            }
        }
        if adapter.changes.is_empty() {
            return Err(adapter.refuse(WEIGHTS, "there are no LoRA tensors in it".to_owned()));
        }
        Ok(adapter)
    }

    /// Reads the pair to which `a` belongs.
    fn read_change(&self, weights: &dyn TensorSource, a: &TensorInfo, rank: u64) -> Result<Change, AdapterError> {
        let name = a.name.replace(".lora_A.", ".lora_B.");
        let id = weights.index().find(&name).ok_or_else(|| self.refuse(&a.name, format!("there is no {name} beside it")))?;
        let b = weights.index().get(id);
        let (&[rows, _], &[_, cols]) = (&*a.shape, &*b.shape) else {
            return Err(self.refuse(&a.name, format!("shapes {:?} and {:?} are no matrices", a.shape, b.shape)));
        };
        if rows != rank || cols != rank {
            let reason = format!("shapes {:?} and {:?} do not have the rank {rank} of {CONFIG}", a.shape, b.shape);
            return Err(self.refuse(&a.name, reason));
        }
        let read = |t: &TensorInfo| {
            let (id, _) = rows::find(weights, &t.name).map_err(|e| self.refuse(&t.name, e.to_string()))?;
            rows::read(weights, id, 0..t.rows()).map_err(|e| self.refuse(&t.name, e.to_string()))
        };
        let (a_values, b_values) = (read(a)?, read(b)?);
        if a_values.iter().chain(&b_values).any(|v| !v.is_finite()) {
            return Err(self.refuse(&a.name, "it or its lora_B holds NaN or infinity".to_owned()));
        }
        let rank = usize::try_from(rank).map_err(|_| self.refuse(&a.name, format!("rank {rank} is too large")))?;
        Ok(Change { a: a_values, b: b_values, rank })
    }

    fn refuse(&self, tensor: &str, reason: String) -> AdapterError {
        AdapterError::Tensor { adapter: self.name.clone(), tensor: tensor.to_owned(), reason }
    }
}

/// A model with an adapter applied: changed tensors come as `F32`, the others as they are stored.
pub struct Adapted {
    base: Arc<dyn TensorSource>,
    adapter: Adapter,
    index: TensorIndex,
}

impl Adapted {
    /// Lays `adapter` over `base`, whose names and row order are canonical.
    ///
    /// # Errors
    /// Returns [`AdapterError`] if the adapter changes a tensor that `base` lacks or whose shape differs.
    pub fn new(base: Arc<dyn TensorSource>, adapter: Adapter) -> Result<Self, AdapterError> {
        for (name, change) in &adapter.changes {
            let id =
                base.index().find(name).ok_or_else(|| adapter.refuse(name, "the base model has no such tensor".to_owned()))?;
            let rank = change.rank.max(1) as u64;
            let wanted = [change.b.len() as u64 / rank, change.a.len() as u64 / rank];
            let shape = &base.index().get(id).shape;
            if **shape != wanted {
                return Err(adapter.refuse(name, format!("the adapter changes {wanted:?}, the base model has {shape:?}")));
            }
        }
        let changed = |t: &TensorInfo| adapter.changes.contains_key(&t.name);
        let index = base.index().with_types(|t| if changed(t) { DType::F32 } else { t.dtype });
        Ok(Self { base, adapter, index })
    }
}

impl TensorSource for Adapted {
    fn index(&self) -> &TensorIndex {
        &self.index
    }

    fn read_rows(&self, t: TensorId, rows: Range<u64>, out: &mut [u8]) -> Result<(), ReadError> {
        let info = self.base.index().get(t);
        let Some(change) = self.adapter.changes.get(&info.name) else {
            return self.base.read_rows(t, rows, out);
        };
        let made = rows::read(&*self.base, t, rows.clone()).and_then(|mut values| {
            change.add(self.adapter.scaling, rows.start as usize, &mut values);
            rows::encode_rows(self.index.get(t), rows.start, &values, None)
        });
        rows::fill(info, made, out)
    }
}

impl Change {
    /// Adds `scaling · B · A` to the rows from `first` on. Products are summed in rank order, then scaled, then added.
    fn add(&self, scaling: f32, first: usize, rows: &mut [f32]) {
        let inputs = self.a.len() / self.rank;
        let mut delta = vec![0.0f32; inputs];
        for (row, b) in rows.chunks_exact_mut(inputs).zip(self.b.chunks_exact(self.rank).skip(first)) {
            delta.fill(0.0);
            for (b, a) in b.iter().zip(self.a.chunks_exact(inputs)) {
                delta.iter_mut().zip(a).for_each(|(d, a)| *d += b * a);
            }
            row.iter_mut().zip(&delta).for_each(|(w, d)| *w += d * scaling);
        }
    }
}

/// Fields that make an adapter more than `W + s·B·A` with one rank, unless they are empty, and what is then wrong.
const REFUSED: [(&str, &str); 12] = [
    ("use_dora", "DoRA is not supported"),
    ("fan_in_fan_out", "transposed weights are not supported"),
    ("modules_to_save", "modules saved in full are not supported"),
    ("rank_pattern", "ranks that differ between modules are not supported"),
    ("alpha_pattern", "alphas that differ between modules are not supported"),
    ("lora_bias", "biases in adapters are not supported"),
    ("layer_replication", "repeated layers are not supported"),
    ("trainable_token_indices", "trained tokens are not supported"),
    ("target_parameters", "adapted parameters outside modules are not supported"),
    ("use_qalora", "QALoRA is not supported"),
    ("alora_invocation_tokens", "activated LoRA is not supported"),
    ("arrow_config", "Arrow routing is not supported"),
];

/// Rank and scaling; the error is a field and what is wrong with it.
fn read_config(config: &Map<String, Value>) -> Result<(u64, f32), (&'static str, String)> {
    let kind = config.get("peft_type").and_then(Value::as_str).unwrap_or("missing");
    if kind != "LORA" {
        return Err(("peft_type", format!("it is {kind}; only LORA is supported")));
    }
    for (field, reason) in REFUSED {
        if config.get(field).is_some_and(|v| !is_empty(v)) {
            return Err((field, format!("{reason}; merge the adapter with PEFT and use the result")));
        }
    }
    if config.get("bias").is_some_and(|b| b != "none") {
        return Err(("bias", "biases in adapters are not supported; merge the adapter with PEFT and use the result".to_owned()));
    }
    let rank = config.get("r").and_then(Value::as_u64).filter(|r| (1..=65_536).contains(r));
    let rank = rank.ok_or(("r", "it must be a whole number from 1 to 65536".to_owned()))?;
    let alpha = config.get("lora_alpha").and_then(Value::as_f64).filter(|a| a.is_finite());
    let alpha = alpha.ok_or(("lora_alpha", "it must be a number".to_owned()))?;
    let stabilized = config.get("use_rslora").is_some_and(|v| !is_empty(v));
    let divisor = if stabilized { (rank as f64).sqrt() } else { rank as f64 };
    Ok((rank, (alpha / divisor) as f32))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        _ => false,
    }
}

/// The weight that an adapter tensor changes, and whether it is the `A` of the pair.
fn target(name: &str) -> Result<(String, bool), String> {
    let module = name.strip_prefix("base_model.model.").ok_or("its name does not begin with base_model.model.")?;
    for (part, is_a) in [("lora_A", true), ("lora_B", false)] {
        for end in ["weight", "default.weight"] {
            if let Some(module) = module.strip_suffix(&format!(".{part}.{end}")) {
                return Ok((format!("{module}.weight"), is_a));
            }
        }
    }
    Err("only lora_A.weight and lora_B.weight of linear layers are supported".to_owned())
}

/// Why an adapter was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// The files could not be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The tensors could not be read.
    #[error(transparent)]
    Safetensors(#[from] SafetensorsError),
    /// A file is not there.
    #[error("{adapter}: there is no {file}; is this a LoRA adapter in PEFT's layout?")]
    Missing {
        /// Adapter.
        adapter: String,
        /// File.
        file: &'static str,
    },
    /// The configuration asks for something else than plain LoRA.
    #[error("{adapter}: adapter_config.json: {field}: {reason}")]
    Config {
        /// Adapter.
        adapter: String,
        /// Field.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor does not fit.
    #[error("{adapter}: {tensor}: {reason}")]
    Tensor {
        /// Adapter.
        adapter: String,
        /// Tensor.
        tensor: String,
        /// What is wrong with it.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{MemorySource, f32_tensor, floats, noise};

    const NAME: &str = "base_model.model.model.layers.0.mlp.up_proj.lora_";
    const WEIGHT: &str = "model.layers.0.mlp.up_proj.weight";

    fn parts(config: &str, tensors: Vec<(TensorInfo, Vec<u8>)>) -> Result<Adapter, AdapterError> {
        Adapter::from_parts("x", config.as_bytes(), &MemorySource::new(tensors))
    }

    /// Rank 2 over 4 inputs and 3 outputs.
    fn pair() -> Vec<(TensorInfo, Vec<u8>)> {
        let a = f32_tensor(&format!("{NAME}A.weight"), &[2, 4], &noise(8, 1));
        let b = f32_tensor(&format!("{NAME}B.weight"), &[3, 2], &noise(6, 2));
        vec![a, b]
    }

    fn base() -> Arc<dyn TensorSource> {
        let norm = f32_tensor("model.norm.weight", &[4], &[1.0; 4]);
        Arc::new(MemorySource::new(vec![f32_tensor(WEIGHT, &[3, 4], &noise(12, 3)), norm]))
    }

    const PLAIN: &str = r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 4}"#;

    #[test]
    fn rows_are_the_sum_of_base_and_scaled_product() {
        for (config, scaling) in [
            (PLAIN, 2.0),
            (
                r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_rslora": true, "bias": "none", "use_dora": false}"#,
                8f64.sqrt(),
            ),
        ] {
            let adapted = Adapted::new(base(), parts(config, pair()).unwrap()).unwrap();
            let (w, a, b) = (noise(12, 3), noise(8, 1), noise(6, 2));
            let mut out = vec![0; 2 * 16];
            adapted.read_rows(TensorId(0), 1..3, &mut out).unwrap();
            for (i, got) in floats(&out).into_iter().enumerate() {
                let (row, col) = (1 + i / 4, i % 4);
                let product: f64 = (0..2).map(|k| f64::from(b[row * 2 + k]) * f64::from(a[k * 4 + col])).sum();
                let expected = f64::from(w[row * 4 + col]) + scaling * product;
                assert!((f64::from(got) - expected).abs() < 1e-6, "{got} {expected}");
            }
            let mut norm = vec![0; 16];
            adapted.read_rows(TensorId(1), 0..1, &mut norm).unwrap();
            assert_eq!(floats(&norm), [1.0; 4]);
        }
    }

    #[test]
    fn the_names_of_older_adapters_are_read() {
        let rename = |(info, bytes): (TensorInfo, Vec<u8>)| {
            (TensorInfo { name: info.name.replace(".weight", ".default.weight"), ..info }, bytes)
        };
        let adapter = parts(PLAIN, pair().into_iter().map(rename).collect()).unwrap();
        assert!(adapter.changes.contains_key(WEIGHT));
    }

    #[test]
    fn configurations_that_mean_more_are_refused_by_field() {
        for (config, why) in [
            ("{", "JSON"),
            ("[]", "JSON"),
            (r#"{"r": 2}"#, "peft_type: it is missing"),
            (r#"{"peft_type": "LOHA"}"#, "it is LOHA"),
            (r#"{"peft_type": "LORA", "lora_alpha": 4}"#, "r: it must"),
            (r#"{"peft_type": "LORA", "r": 0, "lora_alpha": 4}"#, "r: it must"),
            (r#"{"peft_type": "LORA", "r": -1, "lora_alpha": 4}"#, "r: it must"),
            (r#"{"peft_type": "LORA", "r": 2}"#, "lora_alpha"),
            (r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_dora": true}"#, "DoRA"),
            (r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "fan_in_fan_out": true}"#, "transposed"),
            (r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "modules_to_save": ["lm_head"]}"#, "modules_to_save"),
            (r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "rank_pattern": {"q": 1}}"#, "rank_pattern"),
            (r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "all"}"#, "bias"),
        ] {
            let error = parts(config, pair()).unwrap_err().to_string();
            assert!(error.contains(why), "{config}: {error}");
        }
    }

    #[test]
    fn tensors_that_do_not_fit_are_refused_by_name() {
        let (a, b) = (|| pair().remove(0), || pair().remove(1));
        let named = |name: &str| f32_tensor(name, &[2, 4], &noise(8, 1));
        let vector = (TensorInfo { shape: vec![8], ..a().0 }, a().1);
        let narrow = (TensorInfo { shape: vec![4, 2], ..a().0 }, a().1);
        let nan = f32_tensor(&a().0.name, &[2, 4], &[f32::NAN; 8]);
        for (tensors, why) in [
            (vec![], "no LoRA tensors"),
            (vec![a()], "there is no"),
            (vec![b()], "no lora_A"),
            (vec![vector, b()], "no matrices"),
            (vec![narrow, b()], "the rank 2"),
            (vec![nan, b()], "NaN"),
            (vec![named("model.layers.0.mlp.up_proj.lora_A.weight")], "does not begin"),
            (vec![named("base_model.model.model.embed_tokens.lora_embedding_A")], "only lora_A.weight"),
        ] {
            let error = parts(PLAIN, tensors).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_base_of_another_shape_is_refused() {
        for (tensor, why) in [
            (f32_tensor("other", &[3, 4], &noise(12, 3)), "no such tensor"),
            (f32_tensor(WEIGHT, &[4, 3], &noise(12, 3)), "[3, 4]"),
        ] {
            let base = Arc::new(MemorySource::new(vec![tensor]));
            let error = Adapted::new(base, parts(PLAIN, pair()).unwrap()).err().unwrap().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
