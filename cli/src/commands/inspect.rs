//! `coffer inspect`: what a model is, without running it, or what a data set holds.

use crate::{
    commands::bundle,
    model_input::ModelArgs,
    output::{self, Table},
};
use anyhow::Result;
use coffer_seal::bundle::Bundle;
use coffer_store::{Container, Model};
use std::collections::BTreeMap;

/// Show what a model is: architecture, shape, types of its tensors, tokenizer, chat template. Of a data set: files and records. Of a
/// sealed bundle it shows how many recipients of which kind there are; with a key also who they are, the epoch, and the files.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// Compute the digest of the weights (reads all of them)
    #[arg(long)]
    digest: bool,
    /// Print the first N records of a data set
    #[arg(long, value_name = "N", default_value_t = 0)]
    head: u64,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// What is known of a model without running it.
#[derive(serde::Serialize)]
pub(crate) struct Summary {
    architecture: String,
    container: &'static str,
    sealed: bool,
    parameters: u64,
    weight_bytes: u64,
    bits_per_weight: f64,
    layers: usize,
    hidden: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    ffn: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    experts: Option<Experts>,
    vocabulary: usize,
    tokenizer_tokens: Option<usize>,
    context: usize,
    tied_embeddings: bool,
    chat_template: bool,
    types: BTreeMap<String, TypeShare>,
    #[serde(skip_serializing_if = "Option::is_none")]
    weights_digest: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tensors: Vec<Tensor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bundle: Option<bundle::Summary>,
}

#[derive(Default, serde::Serialize)]
struct TypeShare {
    tensors: u64,
    parameters: u64,
    bytes: u64,
}

#[derive(serde::Serialize)]
struct Tensor {
    name: String,
    dtype: String,
    shape: Vec<u64>,
    bytes: u64,
}

/// Opens the model and prints its summary.
pub(crate) fn run(args: Args) -> Result<()> {
    let (path, identities) = (&args.model.path, &args.model.identities);
    // A signature that is demanded is checked where a model is opened; data without a model is refused there.
    let may_be_seen = (!Bundle::is_bundle(path) || identities.given()) && !args.model.must_be_signed();
    if may_be_seen && super::inspect_data::inspect(&args.model, args.head, args.json)? {
        return Ok(());
    }
    if !Bundle::is_bundle(path) {
        return show(&args, &args.model.open()?, None);
    }
    let bundle = bundle::Summary::of(path, identities.load()?)?;
    if bundle.holds_model() || args.tensors || args.digest {
        return show(&args, &args.model.open()?, Some(bundle));
    }
    if args.json {
        return output::json(&Sealed { bundle: &bundle });
    }
    out!("{bundle}");
    Ok(())
}

/// A bundle without a model in it, or without a key to see it.
#[derive(serde::Serialize)]
struct Sealed<'a> {
    bundle: &'a bundle::Summary,
}

fn show(args: &Args, model: &Model, bundle: Option<bundle::Summary>) -> Result<()> {
    let mut summary = Summary::of(model);
    if args.digest {
        summary.weights_digest = Some(model.weights_digest()?.to_string());
    }
    if args.tensors {
        summary.tensors = model.weights.index().iter().map(|(_, t)| Tensor::from(t)).collect();
    }
    if args.json {
        summary.bundle = bundle;
        return output::json(&summary);
    }
    if let Some(bundle) = bundle {
        outln!("{bundle}");
    }
    out!("{summary}");
    Ok(())
}

impl Summary {
    /// Summary of `model`.
    pub(crate) fn of(model: &Model) -> Self {
        let mut types: BTreeMap<String, TypeShare> = BTreeMap::new();
        for (_, t) in model.weights.index().iter() {
            let share = types.entry(t.dtype.name()).or_default();
            share.tensors += 1;
            share.parameters += t.elements().unwrap_or(0);
            share.bytes += t.bytes().unwrap_or(0);
        }
        let parameters: u64 = types.values().map(|t| t.parameters).sum();
        let c = &model.config;
        Self {
            architecture: c.architecture.family().model_type.to_owned(),
            container: match model.container {
                Container::HuggingFace => "Hugging Face directory",
                Container::Gguf => "GGUF",
            },
            sealed: model.sealed,
            parameters,
            weight_bytes: model.weight_bytes,
            bits_per_weight: model.weight_bytes as f64 * 8.0 / parameters.max(1) as f64,
            layers: c.layers,
            hidden: c.hidden,
            heads: c.heads,
            kv_heads: c.kv_heads,
            head_dim: c.head_dim,
            ffn: c.ffn,
            experts: c.experts.as_ref().map(|e| Experts { count: e.count, chosen: e.chosen, shared_ffn: e.shared }),
            vocabulary: c.vocab,
            tokenizer_tokens: model.tokenizer.as_ref().map(coffer_model::Tokenizer::vocab_size),
            context: c.context,
            tied_embeddings: c.tie_embeddings,
            chat_template: model.template.is_some(),
            types,
            weights_digest: None,
            tensors: Vec::new(),
            bundle: None,
        }
    }
}

/// The experts of a layer.
#[derive(serde::Serialize)]
struct Experts {
    count: usize,
    chosen: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    shared_ffn: Option<usize>,
}

/// The summary for people.
impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sealed = if self.sealed { ", sealed" } else { "" };
        writeln!(f, "architecture  {} ({}{sealed})", self.architecture, self.container)?;
        writeln!(
            f,
            "parameters    {} in {}, {:.2} bits per weight",
            output::count(self.parameters),
            output::bytes(self.weight_bytes),
            self.bits_per_weight
        )?;
        writeln!(
            f,
            "shape         {} layers, hidden {}, {} heads ({} key-value) of {}, feed-forward {}",
            self.layers, self.hidden, self.heads, self.kv_heads, self.head_dim, self.ffn
        )?;
        if let Some(Experts { count, chosen, shared_ffn }) = &self.experts {
            let shared = shared_ffn.map_or_else(String::new, |ffn| format!(", and one for all with feed-forward {ffn}"));
            writeln!(f, "experts       {chosen} of {count} for each token{shared}")?;
        }
        let tokens = self.tokenizer_tokens.map_or_else(|| "no tokenizer".to_owned(), |n| format!("tokenizer of {n}"));
        let template = if self.chat_template { "chat template" } else { "no chat template" };
        writeln!(f, "vocabulary    {} rows, {tokens}, {template}", self.vocabulary)?;
        writeln!(f, "context       {} tokens", self.context)?;
        let types: Vec<String> =
            self.types.iter().map(|(name, t)| format!("{} {name} ({})", t.tensors, output::bytes(t.bytes))).collect();
        writeln!(f, "tensors       {}", types.join(", "))?;
        if let Some(digest) = &self.weights_digest {
            writeln!(f, "weights       {digest}")?;
        }
        if !self.tensors.is_empty() {
            let mut table = Table::new(&["tensor", "type", "shape", ">bytes"]);
            for t in &self.tensors {
                table.row([t.name.clone(), t.dtype.clone(), format!("{:?}", t.shape), output::count(t.bytes)]);
            }
            write!(f, "{table}")?;
        }
        Ok(())
    }
}

impl From<&coffer_checkpoint::TensorInfo> for Tensor {
    fn from(t: &coffer_checkpoint::TensorInfo) -> Self {
        Self { name: t.name.clone(), dtype: t.dtype.name(), shape: t.shape.clone(), bytes: t.bytes().unwrap_or(0) }
    }
}
