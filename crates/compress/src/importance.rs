//! How much each column of a matrix counts: the mean square of the activations that meet it. Known as importance matrix;
//! files are llama.cpp's (`tools/imatrix/README.md`, the GGUF form).

use crate::{Calibration, CompressError, Progress, moments::Moments, rows};
use coffer_checkpoint::{
    DType, ReadAt, TensorInfo, TensorSource,
    gguf::{Array, GgufFile, GgufWriter, Metadata, Value},
};
use coffer_engine::{LoadOptions, Observer, observe::Products};
use coffer_model::{
    LayerGraph, ModelConfig,
    names::{self, Place},
};
use coffer_store::Model;
use std::{
    collections::{BTreeMap, HashMap},
    io::Write,
    sync::Arc,
};

/// Mean squares of the inputs of a model's matrices, by canonical name of the weight.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Importance {
    /// Names of the texts.
    pub texts: Vec<String>,
    /// Windows that were run, and tokens of each.
    pub windows: u32,
    /// Tokens of a window.
    pub window: u32,
    inputs: BTreeMap<String, Arc<Input>>,
}

/// What was seen of one input.
#[derive(Clone, Debug, PartialEq)]
struct Input {
    /// Sum of squares for each column.
    squares: Vec<f32>,
    /// Tokens.
    count: f32,
}

impl Importance {
    /// Runs `calibration` through `model`, layer by layer, as `options` say, and adds up, for each token in order, in `f64`. `progress` is
    /// called with layers done and layers in all.
    ///
    /// # Errors
    /// The engine cannot run the text.
    pub fn of(
        model: &Model,
        options: LoadOptions,
        calibration: &Calibration,
        progress: &mut Progress<'_>,
    ) -> Result<Self, CompressError> {
        let mut seen = Squares::default();
        let total = model.config.layers as u64;
        progress(0, total);
        let mut texts = calibration.start(&model.config, Arc::clone(&model.weights), options)?;
        while texts.advance(&mut seen)? {
            progress(texts.done() as u64, total);
        }
        let mut inputs = BTreeMap::new();
        for (products, (squares, count)) in seen.0 {
            let input = Arc::new(Input { squares: squares.iter().map(|&s| s as f32).collect(), count: count as f32 });
            inputs.extend(products.weights().into_iter().map(|name| (name, Arc::clone(&input))));
        }
        let (windows, window) = (calibration.windows().len() as u32, calibration.window as u32);
        Ok(Self { texts: vec![calibration.name.clone()], windows, window, inputs })
    }

    /// Notes what was seen of the input of `weight`, each column divided by its factor if there are `factors`.
    pub(crate) fn learn(&mut self, weight: &str, moments: &Moments, factors: Option<&[f32]>) {
        let squares = moments.squares();
        let squares = match factors {
            None => squares.collect(),
            Some(factors) => squares.zip(factors).map(|(square, s)| square / (s * s)).collect(),
        };
        self.inputs.insert(weight.to_owned(), Arc::new(Input { squares, count: moments.tokens() as f32 }));
    }

    /// Mean square of each of `cols` columns of `weight`; `None` if it was never used or is not known.
    ///
    /// # Errors
    /// [`CompressError::ForeignImportance`] if it has another number of columns.
    pub fn columns(&self, weight: &str, cols: u64) -> Result<Option<Vec<f32>>, CompressError> {
        let Some(input) = self.inputs.get(weight).filter(|i| i.count > 0.0) else { return Ok(None) };
        if input.squares.len() as u64 != cols {
            let reason = format!("{weight} has {} columns there and {cols} here", input.squares.len());
            return Err(CompressError::ForeignImportance { reason });
        }
        Ok(Some(input.squares.iter().map(|s| s / input.count).collect()))
    }

    /// Names of the weights that are known.
    pub fn weights(&self) -> impl Iterator<Item = &str> {
        self.inputs.keys().map(String::as_str)
    }

    /// Reads a file that we or llama-imatrix wrote for a model of this shape.
    ///
    /// # Errors
    /// The file is no importance matrix, or one of another model.
    pub fn read(name: &str, file: Arc<dyn ReadAt>, config: &ModelConfig) -> Result<Self, CompressError> {
        let foreign = |reason: String| CompressError::ForeignImportance { reason: format!("{name}: {reason}") };
        let gguf = GgufFile::open(name, file).map_err(coffer_store::StoreError::from)?;
        if gguf.metadata().string("general.type") != Some("imatrix") {
            return Err(foreign("it is no importance matrix in GGUF; llama-imatrix writes one".to_owned()));
        }
        let number = |key: &str| match gguf.metadata().get(key) {
            Some(Value::U32(n)) => *n,
            _ => 0,
        };
        let texts = match gguf.metadata().get("imatrix.datasets") {
            Some(Value::Array(Array::String(names))) => names.clone(),
            _ => Vec::new(),
        };
        let mut stacks = HashMap::new();
        let mut inputs = BTreeMap::new();
        for node in LayerGraph::of(config).prunable() {
            let Some(place) = names::in_gguf(&node.weight, &node.shape, config) else { continue };
            if !stacks.contains_key(&place.name) {
                stacks.insert(place.name.clone(), stack(&gguf, &place.name, &foreign)?);
            }
            let Some(Some(inputs_there)) = stacks.get(&place.name) else { continue };
            let (matrix, _) = matrix_of(&place);
            let input = inputs_there.get(matrix).ok_or_else(|| foreign(format!("{} has too few experts", place.name)))?;
            if node.shape.last() != Some(&(input.squares.len() as u64)) {
                return Err(foreign(format!("{} is of another shape; was it made for another model?", place.name)));
            }
            inputs.insert(node.weight.clone(), Arc::clone(input));
        }
        if inputs.is_empty() {
            return Err(foreign("it knows no tensor of this model".to_owned()));
        }
        Ok(Self { texts, windows: number("imatrix.chunk_count"), window: number("imatrix.chunk_size"), inputs })
    }

    /// Writes the file that llama-quantize reads too.
    ///
    /// # Errors
    /// `out` fails.
    pub fn write(&self, out: impl Write, config: &ModelConfig) -> Result<(), CompressError> {
        let mut stacks: BTreeMap<String, Vec<Option<&Input>>> = BTreeMap::new();
        for node in LayerGraph::of(config).prunable() {
            let Some(input) = self.inputs.get(&node.weight) else { continue };
            let Some(place) = names::in_gguf(&node.weight, &node.shape, config) else { continue };
            let (matrix, matrices) = matrix_of(&place);
            stacks.entry(place.name).or_insert_with(|| vec![None; matrices])[matrix] = Some(input);
        }
        let mut tensors = Vec::new();
        let mut bytes = Vec::new();
        for (name, inputs) in &stacks {
            let cols = inputs.iter().flatten().map(|i| i.squares.len()).max().unwrap_or(0);
            let info = |part: &str, cols: usize| TensorInfo {
                name: format!("{name}.{part}"),
                dtype: DType::F32,
                shape: vec![inputs.len() as u64, cols as u64],
            };
            let nothing = vec![0.0; cols];
            let squares = inputs.iter().flat_map(|i| i.map_or(&nothing, |i| &i.squares));
            tensors.push(info("in_sum2", cols));
            bytes.push(squares.flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
            tensors.push(info("counts", 1));
            bytes.push(inputs.iter().flat_map(|i| i.map_or(0.0, |i| i.count).to_le_bytes()).collect());
        }
        let mut metadata = Metadata::default();
        metadata.set("general.type", Value::String("imatrix".into()));
        metadata.set("imatrix.datasets", Value::Array(Array::String(self.texts.clone())));
        metadata.set("imatrix.chunk_count", Value::U32(self.windows));
        metadata.set("imatrix.chunk_size", Value::U32(self.window));
        let store = coffer_store::StoreError::from;
        let mut writer = GgufWriter::new(out, &metadata, &tensors).map_err(store)?;
        bytes.iter().try_for_each(|bytes| writer.write(bytes)).map_err(store)?;
        writer.finish().map_err(store)?;
        Ok(())
    }
}

/// Which matrix of a tensor of GGUF a weight is, and of how many: one of three dimensions holds one for each expert.
fn matrix_of(place: &Place) -> (usize, usize) {
    match place.shape[..] {
        [experts, rows, _] => ((place.first / rows.max(1)) as usize, experts as usize),
        _ => (0, 1),
    }
}

/// The inputs of all matrices in the tensor `name` of the model; `None` if the file does not know it.
fn stack(
    gguf: &GgufFile,
    name: &str,
    foreign: &dyn Fn(String) -> CompressError,
) -> Result<Option<Vec<Arc<Input>>>, CompressError> {
    let values = |part: &str| {
        let Some(id) = gguf.index().find(&format!("{name}.{part}")) else { return Ok(None) };
        let info = gguf.index().get(id);
        if info.dtype != DType::F32 || info.cols() == 0 {
            return Err(foreign(format!("{} is not what llama-imatrix writes", info.name)));
        }
        let values = rows::read(gguf, id, 0..info.rows())?;
        if values.iter().any(|v| !v.is_finite() || *v < 0.0) {
            return Err(foreign(format!("{} holds numbers that are no sums of squares", info.name)));
        }
        Ok(Some((info.cols() as usize, values)))
    };
    let (Some((cols, squares)), Some((_, counts))) = (values("in_sum2")?, values("counts")?) else { return Ok(None) };
    if squares.len() / cols != counts.len() {
        return Err(foreign(format!("{name} has {} sums and {} counts", squares.len() / cols, counts.len())));
    }
    let inputs = squares.chunks_exact(cols).zip(counts);
    Ok(Some(inputs.map(|(squares, count)| Arc::new(Input { squares: squares.to_vec(), count })).collect()))
}

/// Sums of squares and numbers of tokens.
#[derive(Default)]
struct Squares(BTreeMap<Products, (Vec<f64>, u64)>);

impl Observer for Squares {
    fn input(&mut self, products: Products, x: &[f32], tokens: usize) {
        let cols = x.len() / tokens.max(1);
        let (sums, count) = self.0.entry(products).or_insert_with(|| (vec![0.0; cols], 0));
        *count += tokens as u64;
        for row in x.chunks_exact(cols.max(1)) {
            for (sum, &v) in sums.iter_mut().zip(row) {
                *sum += f64::from(v) * f64::from(v);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coffer_checkpoint::MemoryAt;

    fn config() -> ModelConfig {
        let json = r#"{"model_type":"qwen3_moe","hidden_size":64,"num_hidden_layers":2,"num_attention_heads":4,
            "num_key_value_heads":2,"head_dim":16,"intermediate_size":96,"vocab_size":100,"max_position_embeddings":128,
            "num_experts":3,"num_experts_per_tok":2,"moe_intermediate_size":32,"norm_topk_prob":true}"#;
        ModelConfig::from_hf(json.as_bytes(), None).unwrap()
    }

    /// Every input different; one expert was never chosen.
    fn importance(config: &ModelConfig) -> Importance {
        let mut inputs = BTreeMap::new();
        for (i, node) in LayerGraph::of(config).prunable().enumerate() {
            if node.weight.contains("layers.1.mlp.experts.1.") {
                continue;
            }
            let cols = *node.shape.last().unwrap() as usize;
            let squares = (0..cols).map(|c| (100 * i + c) as f32).collect();
            inputs.insert(node.weight.clone(), Arc::new(Input { squares, count: 10.0 + i as f32 }));
        }
        Importance { texts: vec!["a.txt".into()], windows: 3, window: 512, inputs }
    }

    fn file(importance: &Importance, config: &ModelConfig) -> Vec<u8> {
        let mut bytes = Vec::new();
        importance.write(&mut bytes, config).unwrap();
        bytes
    }

    #[test]
    fn what_is_written_is_read_and_unchosen_experts_stay_unknown() {
        let config = config();
        let written = importance(&config);
        let read = Importance::read("i.gguf", Arc::new(MemoryAt::new("i", file(&written, &config))), &config).unwrap();
        assert_eq!((&read.texts, read.windows, read.window), (&written.texts, 3, 512));
        for (name, input) in &written.inputs {
            let want: Vec<f32> = input.squares.iter().map(|s| s / input.count).collect();
            assert_eq!(read.columns(name, input.squares.len() as u64).unwrap().unwrap(), want, "{name}");
        }
        let unchosen = "model.layers.1.mlp.experts.1.down_proj.weight";
        assert_eq!(read.columns(unchosen, 32).unwrap(), None);
        assert!(read.columns("model.layers.0.self_attn.q_proj.weight", 65).is_err());
    }

    #[test]
    fn files_of_other_models_and_other_files_are_refused() {
        let config = config();
        let bytes = file(&importance(&config), &config);
        let wider = ModelConfig { hidden: 128, ..config.clone() };
        let read = |bytes: &[u8], config: &ModelConfig| {
            Importance::read("i.gguf", Arc::new(MemoryAt::new("i", bytes.to_vec())), config).unwrap_err().to_string()
        };
        let other = read(&bytes, &wider);
        assert!(other.contains("another model"), "{other}");
        let mut metadata = Metadata::default();
        metadata.set("general.type", Value::String("model".into()));
        let mut model = Vec::new();
        GgufWriter::new(&mut model, &metadata, &[]).unwrap().finish().unwrap();
        let model = read(&model, &config);
        assert!(model.contains("no importance matrix"), "{model}");
        let nan = [f32::NAN.to_le_bytes(), 1.0f32.to_le_bytes()].concat();
        let mut broken = bytes;
        let at = broken.len() - 64;
        broken[at..at + 8].copy_from_slice(&nan);
        let broken = read(&broken, &config);
        assert!(broken.contains("no sums of squares"), "{broken}");
    }
}
