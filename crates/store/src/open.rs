//! Opening a model.

use crate::{
    FileSet, Origin, StoreError,
    canonical::{Canonical, View, narrow},
};
use coffer_checkpoint::{
    DType, SafetensorsFile, TensorInfo, TensorSource,
    compressed::Joined,
    gguf::{GgufFile, Metadata},
    sharded::ShardedSafetensors,
};
use coffer_evidence::PartDigest;
use coffer_model::{
    ChatTemplate, LayerGraph, ModelConfig, Tokenizer,
    names::{self, Place},
};
use coffer_seal::Identity;
use std::{collections::HashSet, path::Path, sync::Arc};

/// Our own GGUF key: the type that 1-D tensors had before they were widened to F32, which llama.cpp wants.
pub(crate) const VECTOR_DTYPE: &str = "coffer.vector_dtype";
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// How a model is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// A directory with `config.json` and safetensors.
    HuggingFace,
    /// One GGUF file.
    Gguf,
}

/// An opened model in canonical form.
pub struct Model {
    /// Shape of the model.
    pub config: ModelConfig,
    /// Tokenizer; models without one can still be inspected, merged and measured on token ids.
    pub tokenizer: Option<Tokenizer>,
    /// Chat template, if the model has one.
    pub template: Option<ChatTemplate>,
    /// Weights: canonical names, canonical row order, whatever the container.
    pub weights: Arc<dyn TensorSource>,
    /// How it is stored.
    pub container: Container,
    /// Whether it came out of a bundle.
    pub sealed: bool,
    /// Bytes of all weights as stored.
    pub weight_bytes: u64,
    /// Tensors of the container that the layer graph has no use for, by the container's own names.
    pub unused: Vec<String>,
    /// What came along, for writing the model again.
    pub origin: Origin,
    /// As [`FileSet::stamp`] says.
    pub stamp: Option<PartDigest>,
}

/// Opens a Hugging Face directory, a GGUF file, or a bundle that holds one. Checks that every tensor of the layer
/// graph is there with the shape that the configuration demands.
///
/// # Errors
/// Returns [`StoreError`] that names the file, the field or the tensor.
pub fn open(path: &Path, identities: &[Identity]) -> Result<Model, StoreError> {
    open_files(path, FileSet::open(path, identities)?)
}

/// Opens the model that `files`, found at `path`, are.
///
/// # Errors
/// As [`open`].
pub fn open_files(path: &Path, files: FileSet) -> Result<Model, StoreError> {
    let opener = Opener { path: path.display().to_string(), files };
    if opener.files.has("config.json") {
        return opener.hugging_face(stem(path));
    }
    let ggufs: Vec<String> = opener.files.list().iter().map(|(name, _)| name.clone()).filter(|n| opener.is_gguf(n)).collect();
    match ggufs.as_slice() {
        [one] => opener.gguf(stem(path), one),
        [] => Err(opener.no_model("neither config.json nor a GGUF file is there".into())),
        many => Err(opener.no_model(format!("{} GGUF files are there: name one", many.len()))),
    }
}

fn stem(path: &Path) -> String {
    path.file_stem().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

struct Opener {
    path: String,
    files: FileSet,
}

impl Opener {
    /// By its first bytes, for files that people renamed, and by its name.
    fn is_gguf(&self, name: &str) -> bool {
        let mut magic = [0; 4];
        let begins = |file: Arc<dyn coffer_checkpoint::ReadAt>| file.read_exact_at(0, &mut magic).is_ok() && &magic == b"GGUF";
        name.to_ascii_lowercase().ends_with(".gguf") || self.files.file(name).is_ok_and(begins)
    }

    fn no_model(&self, reason: String) -> StoreError {
        StoreError::NoModel { path: self.path.clone(), reason }
    }

    fn tensor(&self, tensor: &str, reason: String) -> StoreError {
        StoreError::Tensor { path: self.path.clone(), tensor: tensor.to_owned(), reason }
    }

    fn hugging_face(self, name: String) -> Result<Model, StoreError> {
        let origin = Origin::from_files(name, &self.files)?;
        let bytes = |file| origin.file(file).map(str::as_bytes);
        let config = ModelConfig::from_hf(bytes("config.json").unwrap_or_default(), bytes("generation_config.json"))
            .map_err(|source| StoreError::Config { path: self.path.clone(), source })?;
        let tokenizer = bytes("tokenizer.json")
            .map(|json| Tokenizer::from_json(json, bytes("tokenizer_config.json")))
            .transpose()
            .map_err(|source| StoreError::Tokenizer { path: self.path.clone(), source })?;
        let template = origin.file("chat_template.jinja").or(tokenizer.as_ref().and_then(Tokenizer::chat_template));
        let template = self.template(template, tokenizer.as_ref())?;
        let source: Arc<dyn TensorSource> = if self.files.has(SINGLE) {
            Arc::new(SafetensorsFile::open(&format!("{}/{SINGLE}", self.path), self.files.file(SINGLE)?)?)
        } else if self.files.has(INDEX) {
            let refused =
                |e: StoreError| coffer_checkpoint::ReadError::Refused { name: self.path.clone(), reason: e.to_string() };
            let open = |shard: &str| self.files.file(shard).map_err(refused);
            Arc::new(ShardedSafetensors::open(&format!("{}/{INDEX}", self.path), &*self.files.file(INDEX)?, open)?)
        } else {
            return Err(self.no_model(format!("config.json is there, but neither {SINGLE} nor {INDEX}")));
        };
        let source: Arc<dyn TensorSource> = Arc::new(Joined::new(source).map_err(|e| self.tensor(&e.tensor, e.reason))?);
        let view = |canonical: &str, shape: &[u64]| {
            let place = names::in_hugging_face(canonical, shape, &config);
            Some((
                View {
                    id: source.index().find(&place.name)?,
                    first: place.first,
                    shape: shape.to_vec(),
                    heads: None,
                    less_one: config.is_less_one(shape),
                    narrowed: None,
                },
                place,
            ))
        };
        let (weights, unused) = self.canonical(&config, source.clone(), view)?;
        Ok(self.model(config, tokenizer, template, weights, Container::HuggingFace, unused, origin))
    }

    fn gguf(self, name: String, file: &str) -> Result<Model, StoreError> {
        let gguf = GgufFile::open(&self.path, self.files.file(file)?)?;
        let metadata = gguf.metadata().clone();
        let source: Arc<dyn TensorSource> = Arc::new(gguf);
        let divisors = self.rope_divisors(&*source)?;
        let config = ModelConfig::from_gguf(&metadata, source.index(), divisors.as_deref())
            .map_err(|source| StoreError::Config { path: self.path.clone(), source })?;
        let tokenizer = metadata
            .get("tokenizer.ggml.model")
            .map(|_| Tokenizer::from_gguf(&metadata))
            .transpose()
            .map_err(|source| StoreError::Tokenizer { path: self.path.clone(), source })?;
        let template = self.template(metadata.string("tokenizer.chat_template"), tokenizer.as_ref())?;
        let narrowed = narrowed_vectors(&metadata, &*source)?;
        let view = |canonical: &str, shape: &[u64]| {
            let place = names::in_gguf(canonical, shape, &config)?;
            let id = source.index().find(&place.name)?;
            let heads = names::permuted_heads(canonical, &config);
            let narrowed = narrowed.filter(|_| place.shape.len() == 1);
            Some((View { id, first: place.first, shape: shape.to_vec(), heads, less_one: false, narrowed }, place))
        };
        let (weights, unused) = self.canonical(&config, source.clone(), view)?;
        let origin = Origin::from_metadata(name, &metadata);
        Ok(self.model(config, tokenizer, template, weights, Container::Gguf, unused, origin))
    }

    fn template(&self, source: Option<&str>, tokenizer: Option<&Tokenizer>) -> Result<Option<ChatTemplate>, StoreError> {
        let named = |key| tokenizer.and_then(|t| t.named(key)).unwrap_or_default();
        source
            .map(|source| ChatTemplate::new(source, named("bos_token"), named("eos_token")))
            .transpose()
            .map_err(|source| StoreError::Template { path: self.path.clone(), source })
    }

    /// llama.cpp keeps Llama 3's frequency scaling in a tensor.
    fn rope_divisors(&self, source: &dyn TensorSource) -> Result<Option<Vec<f32>>, StoreError> {
        let name = "rope_freqs.weight";
        let Some(id) = source.index().find(name) else { return Ok(None) };
        let info = source.index().get(id);
        if info.dtype != DType::F32 || info.shape.len() != 1 || info.cols() > 4096 {
            return Err(self.tensor(name, format!("{} {:?}; at most 4096 F32 are possible", info.dtype, info.shape)));
        }
        let mut bytes = vec![0; info.cols() as usize * 4];
        source.read_rows(id, 0..1, &mut bytes)?;
        Ok(Some(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()))
    }

    /// Every tensor of the graph, and the names of those that are left over.
    fn canonical(
        &self,
        config: &ModelConfig,
        source: Arc<dyn TensorSource>,
        view: impl Fn(&str, &[u64]) -> Option<(View, Place)>,
    ) -> Result<(Canonical, Vec<String>), StoreError> {
        let graph = LayerGraph::of(config);
        let biases = |n: &coffer_model::Node| n.bias.clone().map(|bias| (bias, n.shape.iter().take(1).copied().collect()));
        let wanted = graph.nodes().iter().flat_map(|n| [Some((n.weight.clone(), n.shape.clone())), biases(n)]).flatten();
        let mut tensors = Vec::new();
        for (name, shape) in wanted {
            let found = view(&name, &shape);
            let missing = || self.tensor(&name, format!("missing; the configuration demands {shape:?}"));
            let (view, place) = found.ok_or_else(missing)?;
            self.check(&name, &place.shape, source.index().get(view.id))?;
            tensors.push((name, view));
        }
        let used: HashSet<_> = tensors.iter().map(|(_, view)| view.id).collect();
        let left = source.index().iter().filter(|(id, _)| !used.contains(id)).map(|(_, info)| info.name.clone());
        let unused: Vec<String> = left.filter(|name| !is_known_leftover(name)).collect();
        // What adds to a layer or scales it cannot be left out; a table or a second head can.
        if let Some(name) = unused.iter().find(|name| name.ends_with(".bias") || name.ends_with("norm.weight")) {
            return Err(
                self.tensor(name, "this architecture has no such part; without it the model would compute something else".into())
            );
        }
        let canonical = Canonical::new(source, tensors).map_err(|name| self.tensor(&name, "occurs twice".into()))?;
        Ok((canonical, unused))
    }

    fn check(&self, name: &str, shape: &[u64], info: &TensorInfo) -> Result<(), StoreError> {
        if info.shape != shape {
            return Err(self.tensor(name, format!("has the shape {:?}; the configuration demands {shape:?}", info.shape)));
        }
        let real = matches!(info.dtype, DType::F32 | DType::F16 | DType::BF16) || info.dtype.is_quantized();
        match real && info.bytes().is_some() {
            true => Ok(()),
            false => Err(self.tensor(name, format!("is {}; weights must be F32, F16, BF16 or a block type", info.dtype))),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of a model, put together in one place")]
    fn model(
        self,
        config: ModelConfig,
        tokenizer: Option<Tokenizer>,
        template: Option<ChatTemplate>,
        weights: Canonical,
        container: Container,
        unused: Vec<String>,
        origin: Origin,
    ) -> Model {
        let weight_bytes = weights.index().iter().filter_map(|(_, info)| info.stored_bytes()).sum();
        let (sealed, stamp) = (self.files.is_sealed(), self.files.stamp());
        Model { config, tokenizer, template, weights: Arc::new(weights), container, sealed, weight_bytes, unused, origin, stamp }
    }
}

/// Tables that old exporters stored and that everybody computes instead; a head that repeats the embedding.
fn is_known_leftover(name: &str) -> bool {
    name.ends_with(".rotary_emb.inv_freq") || matches!(name, "rope_freqs.weight" | "lm_head.weight")
}

/// The narrower type that all F32 vectors were widened from, if the file says so and it is still true.
fn narrowed_vectors(metadata: &Metadata, source: &dyn TensorSource) -> Result<Option<DType>, StoreError> {
    let dtype = match metadata.string(VECTOR_DTYPE) {
        Some("BF16") => DType::BF16,
        Some("F16") => DType::F16,
        _ => return Ok(None),
    };
    let vectors = source.index().iter().filter(|(_, info)| info.shape.len() == 1 && info.name != "rope_freqs.weight");
    for (id, info) in vectors {
        let Some(len) = info.bytes().filter(|_| info.dtype == DType::F32) else { return Ok(None) };
        let mut bytes = vec![0; len as usize];
        source.read_rows(id, 0..1, &mut bytes)?;
        if narrow(dtype, &bytes).is_none() {
            return Ok(None);
        }
    }
    Ok(Some(dtype))
}
