//! `coffer inspect`: what a model is, without running it, or what a data set holds.

use crate::{
    commands::bundle,
    exit::Refused,
    model_input::{ModelArgs, read_bounded},
    output::{self, Table},
};
use anyhow::{Context, Result, ensure};
use coffer_checkpoint::TensorInfo;
use coffer_compress::quantize;
use coffer_evidence::{
    Receipt,
    receipt::{self, Learned, Parameters},
};
use coffer_seal::bundle::Bundle;
use coffer_store::{Container, Model};
use std::{collections::BTreeMap, path::PathBuf};

/// Show what a model is: architecture, shape, types of its tensors, tokenizer, chat template. Of a data set: files and records. Of a
/// sealed bundle it shows how many recipients of which kind there are; with a key also who they are, the epoch, and the files.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// List every tensor, and why it has its type
    #[arg(long)]
    tensors: bool,
    /// Show what this receipt says of how the model was made and what it lost; reads all weights to see whether it is this model's
    #[arg(long, value_name = "RECEIPT.json")]
    receipt: Option<PathBuf>,
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
    mixture: Option<Mixture>,
    #[serde(skip_serializing_if = "Option::is_none")]
    weights_digest: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tensors: Vec<Tensor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<Receipt>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bundle: Option<bundle::Summary>,
}

/// What the types of a quantized model are.
#[derive(serde::Serialize)]
struct Mixture {
    name: String,
    about: &'static str,
    /// Tensors that have other types.
    others: usize,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
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
    let explanation = quantize::explain(model);
    if args.digest || args.receipt.is_some() {
        let digest = model.weights_digest()?;
        let receipt = |path: &PathBuf| -> Result<Receipt> {
            let bytes = read_bounded(path, receipt::MAX_LEN as u64)?;
            let receipt = Receipt::parse(&bytes).with_context(|| path.display().to_string())?;
            let other = format!("{}: the receipt of another model, of weights {}", path.display(), receipt.result);
            ensure!(receipt.result == digest, Refused(other));
            Ok(receipt)
        };
        summary.receipt = args.receipt.as_ref().map(receipt).transpose()?;
        summary.weights_digest = Some(digest.to_string());
    }
    if args.tensors {
        let why = |name: &str| explanation.as_ref()?.why.get(name).cloned();
        let tensor = |(_, t): (_, &TensorInfo)| Tensor { why: why(&t.name), ..Tensor::from(t) };
        summary.tensors = model.weights.index().iter().map(tensor).collect();
    }
    summary.mixture = explanation.map(|e| Mixture { name: e.scheme.to_string(), about: e.about, others: e.others });
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
            mixture: None,
            weights_digest: None,
            tensors: Vec::new(),
            receipt: None,
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
        if let Some(Mixture { name, about, others }) = &self.mixture {
            let but = match others {
                0 => String::new(),
                1 => ", but for one tensor".to_owned(),
                n => format!(", but for {n} tensors"),
            };
            writeln!(f, "mixture       {name}{but}; most in {about}")?;
        }
        if let Some(digest) = &self.weights_digest {
            writeln!(f, "weights       {digest}")?;
        }
        self.receipt.as_ref().map_or(Ok(()), |receipt| told(receipt, f))?;
        if !self.tensors.is_empty() {
            let mut table = Table::new(&["tensor", "type", "shape", ">bytes", "why"]);
            for t in &self.tensors {
                let why = t.why.clone().unwrap_or_default();
                table.row([t.name.clone(), t.dtype.clone(), format!("{:?}", t.shape), output::count(t.bytes), why]);
            }
            write!(f, "{table}")?;
        }
        Ok(())
    }
}

/// What a receipt says, for people.
fn told(receipt: &Receipt, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
    let learned = match &receipt.learned {
        Some(Learned::Text { name, bytes, .. }) => format!(", learned from {} of {name}", output::bytes(*bytes)),
        Some(Learned::Imatrix { name, .. }) => format!(", with the importance matrix {name}"),
        None => String::new(),
    };
    let Parameters { scheme, types, requantize } = &receipt.parameters;
    let fixed = if types.is_empty() { String::new() } else { format!(" ({} tensors fixed or chosen)", types.len()) };
    let twice = if *requantize { "; a quantized source was accepted" } else { "" };
    writeln!(f, "made          {scheme}{fixed} by {}{learned}{twice}", receipt.method)?;
    writeln!(f, "source        {}", receipt.source)?;
    let Some(lost) = &receipt.lost else { return writeln!(f, "lost          not measured") };
    let number = |field: &str| lost[field].as_f64().unwrap_or(f64::NAN);
    let text = lost["text"].as_str().unwrap_or("a text");
    writeln!(
        f,
        "lost          KL {:.5} nats in the mean, the same first token in {:.2} %, on {text}",
        number("kl_mean"),
        number("same_top") * 100.0
    )
}

impl From<&TensorInfo> for Tensor {
    fn from(t: &TensorInfo) -> Self {
        Self { name: t.name.clone(), dtype: t.dtype.name(), shape: t.shape.clone(), bytes: t.bytes().unwrap_or(0), why: None }
    }
}
