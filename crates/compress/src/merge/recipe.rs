//! Recipes in mergekit's YAML. Whatever is not supported is refused by the name of its key.

use super::{linear, setting::Setting};
use crate::method;
use coffer_checkpoint::DType;
use serde_norway::{Mapping, Value};
use std::path::{Path, PathBuf};

/// What to merge and how.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Recipe {
    /// In the order in which they are added; at least one.
    pub(super) models: Vec<Input>,
    /// Position of the model that lends configuration and tokenizer.
    pub(super) donor: usize,
    /// Parameters for all models.
    pub(super) parameters: Parameters,
    /// Type of the result; `None`: as the donor stores it.
    pub(super) dtype: Option<DType>,
}

/// One model with its own parameters.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Input {
    /// As the recipe writes it.
    pub(super) written: String,
    /// Model, relative to the recipe's directory.
    pub(super) path: PathBuf,
    /// Adapter to apply, relative to the recipe's directory.
    pub(super) adapter: Option<PathBuf>,
    /// The model's own weight.
    pub(super) weight: Option<Setting>,
}

/// Parameters of the linear method.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Parameters {
    pub(super) weight: Option<Setting>,
    pub(super) normalize: Option<Setting>,
}

/// Why a recipe was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// The file could not be read.
    #[error("recipe {file}: {source}")]
    Read {
        /// File.
        file: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The text is not YAML, or not a recipe.
    #[error("recipe {file}: {reason}")]
    Syntax {
        /// File.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// A key is not supported, missing, or has a wrong value.
    #[error("recipe {file}: {key}: {reason}")]
    Key {
        /// File.
        file: String,
        /// Key, with the path to it.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
}

const KEYS: &str = "models, merge_method, base_model, parameters, dtype, out_dtype, tokenizer_source";
const MAX_MODELS: usize = 64;

impl Recipe {
    /// Reads the recipe `text`; `file` is its path, used in errors and for relative paths.
    pub(super) fn parse(file: &Path, text: &str) -> Result<Self, RecipeError> {
        let name = file.display().to_string();
        let syntax = |reason: String| RecipeError::Syntax { file: name.clone(), reason };
        let value: Value = serde_norway::from_str(text).map_err(|e| syntax(e.to_string()))?;
        let map = value.as_mapping().ok_or_else(|| syntax(format!("it must be a mapping with the keys {KEYS}")))?;
        read(map, file.parent().unwrap_or(Path::new(""))).map_err(|Fault { key, reason }| RecipeError::Key {
            file: name,
            key,
            reason,
        })
    }
}

/// A key and what is wrong with it.
struct Fault {
    key: String,
    reason: String,
}

impl Fault {
    fn new(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { key: key.into(), reason: reason.into() }
    }
}

fn read(map: &Mapping, directory: &Path) -> Result<Recipe, Fault> {
    for key in ["slices", "modules"] {
        if map.contains_key(key) {
            return Err(Fault::new(key, "it is not supported; merge whole models with `models`"));
        }
    }
    only_keys(map, "", KEYS)?;
    let method = text(map, "merge_method")?.ok_or_else(|| Fault::new("merge_method", "it is missing"))?;
    if method != linear::ENTRY.name {
        let supported = method::names(method::Kind::Merge);
        return Err(Fault::new("merge_method", format!("{method} is not supported; supported: {supported}")));
    }
    if let Some(source) = text(map, "tokenizer_source")?.filter(|s| s != "base" && s != "union") {
        return Err(Fault::new("tokenizer_source", format!("{source} is not supported; supported: base, union")));
    }
    let mut models = read_models(map, directory)?;
    let base = text(map, "base_model")?.map(|written| input(&written, directory, "base_model")).transpose()?;
    let same = |m: &Input, b: &Input| (&m.path, &m.adapter) == (&b.path, &b.adapter);
    let donor = base.map_or(0, |base| {
        models.iter().position(|m| same(m, &base)).unwrap_or_else(|| {
            models.push(base);
            models.len() - 1
        })
    });
    let dtype = dtype(map, "out_dtype")?.or(dtype(map, "dtype")?);
    let parameters = parameters(map.get("parameters"), "parameters", "weight, normalize")?;
    Ok(Recipe { models, donor, parameters, dtype })
}

fn read_models(map: &Mapping, directory: &Path) -> Result<Vec<Input>, Fault> {
    let list = map.get("models").ok_or_else(|| Fault::new("models", "it is missing"))?;
    let list = list.as_sequence().ok_or_else(|| Fault::new("models", "it must be a list"))?;
    if !(1..=MAX_MODELS).contains(&list.len()) {
        return Err(Fault::new("models", format!("it lists {} models; 1 to {MAX_MODELS} are supported", list.len())));
    }
    let one = |(i, item): (usize, &Value)| {
        let at = format!("models[{i}]");
        let map = item.as_mapping().ok_or_else(|| Fault::new(&at, "it must be a mapping with the keys model, parameters"))?;
        only_keys(map, &at, "model, parameters")?;
        let key = format!("{at}.model");
        let written = map.get("model").ok_or_else(|| Fault::new(&key, "it is missing"))?;
        let written = written.as_str().ok_or_else(|| Fault::new(&key, "it must be text: PATH or PATH+ADAPTER"))?;
        let own = parameters(map.get("parameters"), &format!("{at}.parameters"), "weight")?;
        Ok(Input { weight: own.weight, ..input(written, directory, &key)? })
    };
    list.iter().enumerate().map(one).collect()
}

/// `PATH` or `PATH+ADAPTER`.
fn input(written: &str, directory: &Path, key: &str) -> Result<Input, Fault> {
    if written.contains('@') {
        return Err(Fault::new(
            key,
            format!("{written} names a revision; nothing is downloaded: give the path of a local model"),
        ));
    }
    let (path, adapter) = match written.split_once('+') {
        Some((path, adapter)) => (path, Some(adapter)),
        None => (written, None),
    };
    if path.is_empty() || adapter.is_some_and(|a| a.is_empty() || a.contains('+')) {
        return Err(Fault::new(key, format!("{written} is neither PATH nor PATH+ADAPTER")));
    }
    let adapter = adapter.map(|a| directory.join(a));
    Ok(Input { written: written.to_owned(), path: directory.join(path), adapter, weight: None })
}

fn parameters(value: Option<&Value>, at: &str, allowed: &str) -> Result<Parameters, Fault> {
    let map = match value {
        None | Some(Value::Null) => return Ok(Parameters::default()),
        Some(value) => {
            value.as_mapping().ok_or_else(|| Fault::new(at, format!("it must be a mapping with the keys {allowed}")))?
        }
    };
    only_keys(map, at, allowed)?;
    let setting = |key: &str| {
        let parse = |v| Setting::parse(v).map_err(|reason| Fault::new(format!("{at}.{key}"), reason));
        map.get(key).map(parse).transpose()
    };
    Ok(Parameters { weight: setting("weight")?, normalize: setting("normalize")? })
}

fn dtype(map: &Mapping, key: &str) -> Result<Option<DType>, Fault> {
    Ok(match text(map, key)?.as_deref() {
        None => None,
        Some("float32") => Some(DType::F32),
        Some("float16") => Some(DType::F16),
        Some("bfloat16") => Some(DType::BF16),
        Some(other) => return Err(Fault::new(key, format!("{other} is not supported; supported: float32, float16, bfloat16"))),
    })
}

fn text(map: &Mapping, key: &str) -> Result<Option<String>, Fault> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(s)) => Ok(Some(s.clone())),
        Some(_) => Err(Fault::new(key, "it must be text")),
    }
}

/// `allowed` is a list of keys, separated by commas.
fn only_keys(map: &Mapping, at: &str, allowed: &str) -> Result<(), Fault> {
    let known = |key: &Value| key.as_str().is_some_and(|k| allowed.split(", ").any(|a| a == k));
    map.keys().find(|k| !known(k)).map_or(Ok(()), |key| {
        let dot = if at.is_empty() { "" } else { "." };
        Err(Fault::new(format!("{at}{dot}{}", text_of(key)), format!("it is not supported here; supported: {allowed}")))
    })
}

/// A key or value for a message, cut short.
pub(super) fn text_of(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| format!("{value:?}"), str::to_owned);
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Recipe, RecipeError> {
        Recipe::parse(Path::new("/recipes/r.yml"), text)
    }

    const PLAIN: &str = "
merge_method: linear
base_model: base
models:
  - model: base+one
    parameters: {weight: 0.5}
  - model: /models/two
    parameters: {weight: [0, 1]}
parameters: {normalize: false}
dtype: float32
out_dtype: bfloat16
tokenizer_source: base
";

    #[test]
    fn a_recipe_is_read_with_paths_relative_to_it() {
        let recipe = parse(PLAIN).unwrap();
        let paths: Vec<_> = recipe.models.iter().map(|m| (m.path.to_str().unwrap(), m.adapter.as_deref())).collect();
        let one = Path::new("/recipes/one");
        assert_eq!(paths, [("/recipes/base", Some(one)), ("/models/two", None), ("/recipes/base", None)]);
        assert_eq!((recipe.donor, recipe.dtype), (2, Some(DType::BF16)));
        assert_eq!(recipe.models[1].weight, Some(Setting::Gradient(vec![0.0, 1.0])));
        assert_eq!(recipe.parameters.normalize, Some(Setting::Scalar(0.0)));
    }

    #[test]
    fn what_is_not_supported_is_refused_by_key() {
        let models = "models: [{model: a, parameters: {weight: 1}}]";
        for (text, why) in [
            ("", "must be a mapping"),
            ("[1]", "must be a mapping"),
            ("a: [", "recipe /recipes/r.yml"),
            (models, "merge_method: it is missing"),
            ("merge_method: linear", "models: it is missing"),
            ("merge_method: linear\nmodels: 3", "models: it must be a list"),
            ("merge_method: linear\nmodels: []", "models: it lists 0"),
            ("merge_method: linear\nmodels: [3]", "models[0]: it must be a mapping"),
            ("merge_method: linear\nmodels: [{}]", "models[0].model: it is missing"),
            ("merge_method: linear\nmodels: [{model: {path: a}}]", "models[0].model: it must be text"),
            ("merge_method: linear\nmodels: [{model: a@main}]", "revision"),
            ("merge_method: linear\nmodels: [{model: a+b+c}]", "neither PATH"),
            ("merge_method: linear\nmodels: [{model: +b}]", "neither PATH"),
            ("merge_method: linear\nmodels: [{model: a, wieght: 1}]", "models[0].wieght"),
            ("merge_method: linear\nmodels: [{model: a, parameters: {density: 1}}]", "models[0].parameters.density"),
            ("merge_method: linear\nmodels: [{model: a, parameters: {weight: heavy}}]", "models[0].parameters.weight"),
            ("merge_method: linear\nmodels: [{model: a, parameters: 3}]", "models[0].parameters"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
        for (line, why) in [
            ("merge_method: ties", "ties is not supported; supported: linear"),
            ("merge_method: 3", "merge_method: it must be text"),
            ("merge_method: linear\nslices: []", "slices: it is not supported"),
            ("merge_method: linear\nmodules: {}", "modules: it is not supported"),
            ("merge_method: linear\nchat_template: auto", "chat_template: it is not supported"),
            ("merge_method: linear\nint8_mask: true", "int8_mask"),
            ("merge_method: linear\ndtype: float64", "dtype: float64"),
            ("merge_method: linear\nout_dtype: int8", "out_dtype: int8"),
            ("merge_method: linear\ntokenizer_source: a", "tokenizer_source: a"),
            ("merge_method: linear\nparameters: {t: 1}", "parameters.t"),
            ("merge_method: linear\n3: 4", "3"),
        ] {
            let error = parse(&format!("{models}\n{line}")).unwrap_err().to_string();
            assert!(error.contains(why), "{line}: {error}");
        }
    }
}
