//! Merging models by a mergekit recipe.

pub mod linear;
mod recipe;
mod setting;

pub use recipe::RecipeError;

use crate::{
    CompressError, Plan, Progress, Summary,
    adapter::{Adapted, Adapter},
    driver,
};
use coffer_checkpoint::{DType, TensorSource};
use coffer_model::{ModelConfig, Tokenizer};
use coffer_store::{Destination, FileSet, Model, Target};
use recipe::{Input, Recipe};
use std::{fs::File, io::Read, path::Path, sync::Arc};

/// A recipe is a page of text.
const RECIPE_LIMIT: u64 = 1 << 20;

/// Gives the files of the model or adapter at a path, for instance [`FileSet::open`] with the keys that it needs.
pub type Open<'a, E> = &'a dyn Fn(&Path) -> Result<FileSet, E>;

/// What [`merge`] would write.
///
/// # Errors
/// As [`merge`], as far as can be told without reading weights.
pub fn plan<E: From<CompressError>>(recipe: &Path, open: Open<'_, E>, threads: usize) -> Result<Plan, E> {
    let Job { method, bytes_in, .. } = Job::open(recipe, open)?;
    Ok(driver::plan(&method, bytes_in, threads)?)
}

/// Follows the recipe in the file `recipe` and writes the Hugging Face directory `out`, plain or sealed, with the configuration and
/// tokenizer of the recipe's base model, or else of its first.
///
/// # Errors
/// Returns [`CompressError`] if the recipe asks for something that is not supported, if the models do not fit each
/// other, if a weight is not finite, or if reading or writing fails; and whatever `open` returns.
pub fn merge<'a, E: From<CompressError>>(
    recipe: &Path,
    out: impl Into<Destination<'a>>,
    open: Open<'_, E>,
    threads: usize,
    progress: &mut Progress<'_>,
) -> Result<Summary, E> {
    let Job { method, like, bytes_in } = Job::open(recipe, open)?;
    let out = out.into();
    Ok(driver::execute(&method, &like, (out, Target::HuggingFace), bytes_in, threads, progress)?.place(out.path)?)
}

/// An opened recipe.
struct Job {
    method: linear::Linear,
    like: Model,
    bytes_in: u64,
}

impl Job {
    fn open<E: From<CompressError>>(file: &Path, open: Open<'_, E>) -> Result<Self, E> {
        let text = read_text(file).map_err(CompressError::from)?;
        let recipe = Recipe::parse(file, &text).map_err(CompressError::from)?;
        let model = |path: &Path| Ok::<_, E>(coffer_store::open_files(path, open(path)?).map_err(CompressError::from)?);
        let mut models = recipe.models.iter().map(|input| model(&input.path)).collect::<Result<Vec<_>, _>>()?;
        let bytes_in = models.iter().fold(0u64, |n, m| n.saturating_add(m.weight_bytes));
        let sources = recipe.models.iter().zip(&models).map(|(input, model)| Source::open(input, model, open));
        let sources = sources.collect::<Result<Vec<_>, _>>()?;
        for i in 0..models.len() {
            fits((&recipe.models[i], &models[i]), (&recipe.models[recipe.donor], &models[recipe.donor]))?;
        }
        let like = models.swap_remove(recipe.donor);
        let method = linear::Linear::new(file, &recipe, sources, like.config.layers).map_err(CompressError::from)?;
        Ok(Self { method, like, bytes_in })
    }
}

/// The weights of one input, its adapter applied.
struct Source {
    weights: Arc<dyn TensorSource>,
    stored: Arc<dyn TensorSource>,
    /// Whether norms are F32 whatever type is asked for.
    norms_in_f32: bool,
}

impl Source {
    fn open<E: From<CompressError>>(input: &Input, model: &Model, open: Open<'_, E>) -> Result<Self, E> {
        let stored = model.weights.clone();
        let weights: Arc<dyn TensorSource> = match &input.adapter {
            Some(path) => {
                let adapter = Adapter::open(path, &open(path)?).map_err(CompressError::from)?;
                Arc::new(Adapted::new(stored.clone(), adapter).map_err(CompressError::from)?)
            }
            None => stored.clone(),
        };
        Ok(Self { weights, stored, norms_in_f32: model.config.architecture.family().norms_less_one })
    }

    /// The type in which the model without its adapter stores a tensor.
    fn stored_dtype(&self, tensor: &str) -> DType {
        let index = self.stored.index();
        index.find(tensor).map_or(DType::F32, |id| index.get(id).dtype)
    }
}

fn read_text(file: &Path) -> Result<String, RecipeError> {
    let name = || file.display().to_string();
    let read = |source| RecipeError::Read { file: name(), source };
    let mut text = String::new();
    let length = File::open(file).and_then(|f| f.take(RECIPE_LIMIT + 1).read_to_string(&mut text)).map_err(read)?;
    if length as u64 > RECIPE_LIMIT {
        return Err(RecipeError::Syntax { file: name(), reason: format!("it is larger than {RECIPE_LIMIT} bytes") });
    }
    Ok(text)
}

/// Checks that `model` has the shape, the tensors and the vocabulary of `first`.
fn fits((input, model): (&Input, &Model), (first_input, first): (&Input, &Model)) -> Result<(), CompressError> {
    let differ = config_difference(&model.config, &first.config)
        .or_else(|| tensor_difference(&*model.weights, &*first.weights))
        .or_else(|| vocabulary_difference(model.tokenizer.as_ref()?, first.tokenizer.as_ref()?));
    differ.map_or(Ok(()), |reason| {
        Err(CompressError::Mismatch { model: input.written.clone(), first: first_input.written.clone(), reason })
    })
}

fn config_difference(a: &ModelConfig, b: &ModelConfig) -> Option<String> {
    if a.architecture != b.architecture {
        return Some(format!(
            "architecture {} instead of {}",
            a.architecture.family().model_type,
            b.architecture.family().model_type
        ));
    }
    let sizes = |c: &ModelConfig| [c.hidden, c.layers, c.heads, c.kv_heads, c.head_dim, c.ffn, c.vocab];
    let names = ["hidden size", "layers", "heads", "key-value heads", "head size", "feed-forward size", "vocabulary"];
    let differs = names.iter().zip(sizes(a)).zip(sizes(b)).find(|((_, a), b)| a != b);
    let experts = (a.experts != b.experts).then(|| format!("experts {:?} instead of {:?}", a.experts, b.experts));
    differs.map(|((name, a), b)| format!("{name} {a} instead of {b}")).or(experts)
}

fn tensor_difference(a: &dyn TensorSource, b: &dyn TensorSource) -> Option<String> {
    let lacks = |from: &dyn TensorSource, other: &dyn TensorSource| {
        from.index().iter().find(|(_, t)| other.index().find(&t.name).is_none()).map(|(_, t)| t.name.clone())
    };
    if let Some(name) = lacks(b, a) {
        return Some(format!("it has no tensor {name}"));
    }
    if let Some(name) = lacks(a, b) {
        return Some(format!("it has one tensor more, {name}"));
    }
    let shape = |name: &str| a.index().find(name).map(|id| &a.index().get(id).shape);
    let differs = b.index().iter().find(|(_, t)| shape(&t.name) != Some(&t.shape))?.1;
    Some(format!("tensor {} has shape {:?} instead of {:?}", differs.name, shape(&differs.name)?, differs.shape))
}

fn vocabulary_difference(a: &Tokenizer, b: &Tokenizer) -> Option<String> {
    if a.vocab_size() != b.vocab_size() {
        return Some(format!("{} tokens instead of {}", a.vocab_size(), b.vocab_size()));
    }
    let ids = 0..u32::try_from(a.vocab_size()).unwrap_or(u32::MAX);
    let id = ids.into_iter().find(|&id| a.token(id) != b.token(id))?;
    Some(format!("token {id} is {:?} instead of {:?}", a.token(id).unwrap_or_default(), b.token(id).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{MemorySource, f32_tensor};

    const CONFIG: &str = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "intermediate_size": 16, "vocab_size": 10,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 64, "hidden_act": "silu"}"#;

    #[test]
    fn models_of_another_shape_do_not_fit() {
        let config = |text: &str| ModelConfig::from_hf(text.as_bytes(), None).unwrap();
        let difference = |text: &str| config_difference(&config(text), &config(CONFIG));
        assert_eq!(difference(CONFIG), None);
        let wide = CONFIG.replace(r#""intermediate_size": 16"#, r#""intermediate_size": 24"#);
        assert_eq!(difference(&wide).unwrap(), "feed-forward size 24 instead of 16");
        let qwen = CONFIG.replace("LlamaForCausalLM", "Qwen2ForCausalLM").replace("\"llama\"", "\"qwen2\"");
        assert_eq!(difference(&qwen).unwrap(), "architecture qwen2 instead of llama");
    }

    #[test]
    fn models_with_other_tensors_do_not_fit() {
        let source = |names: &[(&str, u64)]| {
            MemorySource::new(names.iter().map(|&(n, len)| f32_tensor(n, &[len], &vec![0.0; len as usize])).collect())
        };
        let first = source(&[("a", 2), ("b", 2)]);
        let difference = |names: &[(&str, u64)]| tensor_difference(&source(names), &first);
        assert_eq!(difference(&[("b", 2), ("a", 2)]), None);
        assert_eq!(difference(&[("a", 2)]).unwrap(), "it has no tensor b");
        assert_eq!(difference(&[("a", 2), ("b", 2), ("c", 2)]).unwrap(), "it has one tensor more, c");
        assert_eq!(difference(&[("a", 2), ("b", 3)]).unwrap(), "tensor b has shape [3] instead of [2]");
    }

    #[test]
    fn models_of_another_vocabulary_do_not_fit() {
        let scribe = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/models/scribe-8m/tokenizer.json");
        let text = std::fs::read_to_string(scribe).unwrap();
        let tokenizer = |text: &str| Tokenizer::from_json(text.as_bytes(), None).unwrap();
        let first = tokenizer(&text);
        assert_eq!(vocabulary_difference(&first, &first), None);
        let renamed = text.replace("<|endoftext|>", "<|end|>");
        assert_eq!(
            vocabulary_difference(&tokenizer(&renamed), &first).unwrap(),
            r#"token 0 is "<|end|>" instead of "<|endoftext|>""#
        );
    }
}
