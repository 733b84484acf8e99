//! `coffer eval MODEL --endpoint URL`: whether a server runs this very model.

use super::Args;
use crate::{
    client::{Answer, Client},
    commands::certify::read_certificate,
    exit::{Refused, Usage},
    output::{self, Table},
    passphrase,
    progress::Progress,
};
use anyhow::{Context, Result, bail, ensure};
use coffer_assess::{
    endpoint::{self, Finding, Question, Served, Unanswered, Verdict, Vocabulary},
    fidelity::Loaded,
};
use coffer_checkpoint::DType;
use coffer_compress::quantize::{Rounded, Scheme};
use coffer_engine::Engine;
use coffer_store::Model;
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// Log probabilities that are asked for: as many as OpenAI's completions give.
const LOGPROBS: usize = 5;
/// Times that a busy server is asked again, with pauses of 1, 2, 4 … seconds.
const TRIES: u32 = 5;

/// How to ask an endpoint.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct EndpointArgs {
    /// OpenAI-compatible server: does it serve this very model? Asks it and the model the same questions (exit 3: not shown)
    #[arg(long, value_name = "URL", conflicts_with_all = ["against", "adapter", "speed"])]
    endpoint: Option<String>,
    /// The model's name at the endpoint [default: the only one that it lists]
    #[arg(long, value_name = "NAME", requires = "endpoint")]
    served_model: Option<String>,
    /// File or descriptor (/dev/fd/3) whose first line is the API key
    #[arg(long, value_name = "FILE", requires = "endpoint")]
    api_key_file: Option<PathBuf>,
    /// Ask in conversations (/v1/chat/completions), where the endpoint takes no completions; needs --text
    #[arg(long, requires_all = ["endpoint", "text"])]
    chat: bool,
    /// Model that it might serve instead, or a type (Q4_0) to round this model to; may be repeated. One is always among them: this
    /// model rounded to Q4_0, or to Q4_K_M if it has tensors in Q4_0
    #[arg(long, value_name = "MODEL|TYPE", requires = "endpoint")]
    alternative: Vec<String>,
    /// Questions to ask: pieces of --text, else those that certificates ask
    #[arg(long, value_name = "N", default_value_t = 64)]
    questions: usize,
    /// Which of all questions, and in which order [default: by chance, so that nobody can prepare for them]
    #[arg(long, value_name = "N", requires = "endpoint")]
    seed: Option<u64>,
    /// How sure to be
    #[arg(long, value_name = "PROBABILITY", default_value_t = 0.999)]
    confidence: f64,
    /// Certificate of the model: this must be the one
    #[arg(long, value_name = "CERT", requires = "endpoint")]
    certificate: Option<PathBuf>,
}

/// What is printed.
#[derive(serde::Serialize)]
struct Report<'a> {
    endpoint: &'a str,
    model: &'a Path,
    served_as: &'a str,
    seed: u64,
    confidence: f64,
    #[serde(flatten)]
    finding: &'a Finding,
}

impl EndpointArgs {
    /// The endpoint, if one is to be asked.
    pub(super) fn url(&self) -> Option<&str> {
        self.endpoint.as_deref()
    }
}

/// Asks and judges.
pub(super) fn run(args: &Args, model: &Model, url: &str) -> Result<()> {
    let EndpointArgs { chat, confidence, .. } = args.endpoint;
    ensure!(
        confidence > 0.5 && confidence < 1.0,
        Usage(format!("--confidence {confidence}: want more than 0.5 and less than 1"))
    );
    let seed = match args.endpoint.seed {
        Some(seed) => seed,
        None => getrandom::u64()?,
    };
    let engine = args.compute.load(model, args.progress)?;
    let variant = model.variant_digest(model.weights_digest()?, coffer_kernels::CONTRACT, engine.kv_format().name());
    if let Some(path) = &args.endpoint.certificate {
        let certified = read_certificate(path)?.model.variant;
        if certified != variant {
            let what = format!("{} is {variant}; {} certifies {certified}", args.model.path.display(), path.display());
            return Err(Refused(what).into());
        }
    }
    let mut questions = questions(args, model, seed)?;
    let tokenizer = model.tokenizer.as_ref().with_context(|| format!("{}: no tokenizer", args.model.path.display()))?;
    let alternatives = alternatives(args, model)?;
    let asked = Asked::new(args, url)?;
    let vocabulary = Vocabulary::new(tokenizer, model.config.vocab);
    let mut progress = Progress::steps(args.progress, "asking");
    let mut answers = Vec::with_capacity(questions.len());
    for question in &questions {
        answers.push(asked.answer(question, &vocabulary)?);
        progress.update(answers.len() as u64, questions.len() as u64);
    }
    drop(progress);
    let served = usable(&mut questions, answers).with_context(|| asked.url.clone())?;
    let likelihoods = |name: &str, engine: Engine| {
        let mut progress = Progress::steps(args.progress, "comparing");
        let loaded = Loaded { name, engine: &engine };
        endpoint::likelihoods(loaded, &questions, &served, &mut |done, all| progress.update(done, all))
    };
    let name = args.model.path.display().to_string();
    let certified = likelihoods(&name, engine)?;
    let mut others = Vec::new();
    for (name, alternative) in alternatives {
        let its = likelihoods(&name, alternative.load(args, model)?)?;
        others.push((name, its));
    }
    let finding = endpoint::judge(&variant.fingerprint(), &served, &certified, others, confidence);
    if args.json {
        let (endpoint, model, served_as) = (url, args.model.path.as_path(), asked.name.as_str());
        output::json(&Report { endpoint, model, served_as, seed, confidence, finding: &finding })?;
    } else {
        let form = if chat { "conversations" } else { "prompts" };
        outln!("asked          {} {form}, seed {seed}, of `{}`", questions.len(), asked.name);
        print(&finding, &name);
    }
    match finding.verdict.accepted() {
        true => Ok(()),
        false => Err(Refused(format!("{url} was not shown to serve {name}")).into()),
    }
}

fn questions(args: &Args, model: &Model, seed: u64) -> Result<Vec<Question>> {
    let (name, count) = (args.model.path.display().to_string(), args.endpoint.questions);
    let Some(text) = &args.text else { return Ok(endpoint::questions_of_certificates(&name, model, count, seed)?) };
    let text = args.model.identities.read_text(text)?;
    Ok(match args.endpoint.chat {
        true => endpoint::questions_of_chat(&name, model, &text, count, seed)?,
        false => endpoint::questions_of_text(&name, model, &text, count, seed)?,
    })
}

/// Leaves out the questions whose answers name no token for certain (pieces of characters have no text); they may be half of all.
fn usable(questions: &mut Vec<Question>, answers: Vec<Result<Served, Unanswered>>) -> Result<Vec<Served>> {
    let lost: Vec<&Unanswered> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    if let Some(first) = lost.first().filter(|_| lost.len() * 2 > answers.len()) {
        bail!("{} of {} answers are of no use: {first}", lost.len(), answers.len());
    }
    let mut answered = answers.iter().map(Result::is_ok);
    questions.retain(|_| answered.next().unwrap_or(false));
    Ok(answers.into_iter().flatten().collect())
}

/// What the endpoint might serve instead.
enum Alternative {
    /// The model rounded to a type.
    Rounded(Scheme),
    /// Another one.
    Model(Box<Model>),
}

/// Those that are named, and the one that is always among them.
fn alternatives(args: &Args, model: &Model) -> Result<Vec<(String, Alternative)>> {
    let coarse = model.weights.index().iter().any(|(_, t)| t.dtype == DType::Q4_0);
    let always = if coarse { Scheme::Q4_K_M } else { Scheme::Q4_0 }.to_string();
    let mut names = args.endpoint.alternative.clone();
    if !names.iter().any(|name| name.eq_ignore_ascii_case(&always)) {
        names.push(always);
    }
    names.into_iter().map(|name| Ok((name.clone(), Alternative::named(args, model, &name)?))).collect()
}

impl Alternative {
    fn named(args: &Args, model: &Model, name: &str) -> Result<Self> {
        let path = Path::new(name);
        if !path.exists() {
            let wrong = |e| Usage(format!("--alternative {name}: there is no such model, and {e}"));
            return Ok(Self::Rounded(name.parse().map_err(wrong)?));
        }
        let other = coffer_store::open_files(path, args.beside(path)?)?;
        let (there, here) = (other.config.vocab, model.config.vocab);
        ensure!(
            there == here,
            "{name} has a vocabulary of {there} tokens, the model of {here}; their answers cannot be compared"
        );
        Ok(Self::Model(Box::new(other)))
    }

    fn load(self, args: &Args, model: &Model) -> Result<Engine> {
        match self {
            Self::Rounded(scheme) => args.compute.load_weights(&model.config, &Rounded::new(model, scheme), args.progress),
            Self::Model(other) => args.compute.load(&other, args.progress),
        }
    }
}

/// An endpoint and how to ask it.
struct Asked {
    client: Client,
    url: String,
    name: String,
}

impl Asked {
    fn new(args: &Args, url: &str) -> Result<Self> {
        #[cfg(not(feature = "remote"))]
        ensure!(!url.starts_with("https:"), Usage(format!("{url}: {}", crate::remote::ABSENT)));
        let key = args.endpoint.api_key_file.as_deref().map(|path| passphrase::first_line(path, "API key"));
        let key = key.transpose()?.unwrap_or_default();
        let base = url.trim_end_matches('/').trim_end_matches("/v1").to_owned();
        let client = Client::new(&base, &key);
        let name = match &args.endpoint.served_model {
            Some(name) => name.clone(),
            None => only_model(&client, url)?,
        };
        Ok(Self { client, url: base, name })
    }

    /// What is most likely after a question.
    fn answer(&self, question: &Question, vocabulary: &Vocabulary) -> Result<Result<Served, Unanswered>> {
        let mut body = json!({"model": self.name, "max_tokens": 1, "temperature": 0});
        let path = match &question.said {
            Some(said) => {
                body["messages"] = json!([{"role": "user", "content": said}]);
                body["logprobs"] = json!(true);
                body["top_logprobs"] = json!(LOGPROBS);
                "/v1/chat/completions"
            }
            None => {
                body["prompt"] = json!(question.tokens);
                body["logprobs"] = json!(LOGPROBS);
                "/v1/completions"
            }
        };
        let answer = self.patiently(|| self.client.post(path, &body)).with_context(|| format!("{}{path}", self.url))?;
        Ok(Served::read(&answer, vocabulary))
    }

    fn patiently(&self, ask: impl Fn() -> Result<Answer>) -> Result<Value> {
        let mut pauses = (0..TRIES).map(|i| Duration::from_secs(1 << i));
        loop {
            let Answer { status, body } = ask()?;
            if status == 200 {
                return serde_json::from_str(&body).context("the answer is no JSON");
            }
            match pauses.next().filter(|_| matches!(status, 429 | 502 | 503)) {
                Some(pause) => thread::sleep(pause),
                None => bail!("answers with status {status}: {}", shortened(&body)),
            }
        }
    }
}

/// The name of the only model of an endpoint.
fn only_model(client: &Client, url: &str) -> Result<String> {
    let answer = client.get("/v1/models").with_context(|| format!("{url}: cannot be asked"))?;
    let listed: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    let names: Vec<&str> = listed["data"].as_array().into_iter().flatten().filter_map(|m| m["id"].as_str()).collect();
    match names[..] {
        [name] => Ok(name.to_owned()),
        [] => bail!("{url} lists no model (status {}: {}); --served-model names it", answer.status, shortened(&answer.body)),
        _ => Err(Usage(format!("{url} lists {} models; --served-model names one: {}", names.len(), names.join(", "))).into()),
    }
}

/// The beginning of what a server said, in one line.
fn shortened(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(300).collect()
}

fn print(found: &Finding, model: &str) {
    let n = found.questions;
    let error = |e: Option<f64>| e.map(|e| format!(" ± {e:.4}")).unwrap_or_default();
    outln!("equal          {} of {n} answers, to the bit", found.equal);
    outln!("distance       {:.4}{} nats from {model}", found.distance.value, error(found.distance.standard_error));
    outln!();
    let mut table = Table::new(&[
        "alternative",
        ">to the model",
        ">to the endpoint",
        ">endpoint closer to the model than it",
        ">closer to it",
    ]);
    for a in &found.alternatives {
        let (apart, distance) = (format!("{:.4}", a.apart.value), format!("{:.4}", a.distance.value));
        table.row([a.name.clone(), apart, distance, format!("{} of {n}", a.within), format!("{} of {n}", a.nearer)]);
    }
    outln!("{table}");
    outln!("{}", sentence(found, model));
}

fn sentence(found: &Finding, model: &str) -> String {
    let most = |p: fn(&endpoint::Alternative) -> f64| found.alternatives.iter().map(p).fold(0.0, f64::max);
    match &found.verdict {
        Verdict::Equal => format!("equal: the endpoint answers as {model} does, to the bit"),
        Verdict::Contradicted => {
            let place = found.first_difference.map_or(String::new(), |d| {
                format!(": question {}, token {}: {} here, {} there", d.question, d.token, d.certified, d.served)
            });
            format!("contradicted: its fingerprint names this very model, but the bits differ{place}")
        }
        Verdict::Consistent => format!(
            "consistent with {model}: the endpoint is nearer to it than each alternative is (by chance: {:.1e})",
            most(|a| a.p_within)
        ),
        Verdict::Alternative(name) => {
            let p = found.alternatives.iter().find(|a| &a.name == name).map_or(1.0, |a| a.p_nearer);
            format!("rather {name}: the endpoint is nearer to it than to {model} (by chance: {p:.1e})")
        }
        Verdict::Farther => format!(
            "something else: the endpoint is farther from {model} than each alternative is (by chance: {:.1e})",
            most(|a| a.p_beyond)
        ),
        Verdict::Undecided => "undecided: so many questions do not tell; ask more --questions, of a longer --text".to_owned(),
    }
}
