//! `coffer assess`: the four risks of variants against a reference, judged by a policy.

use crate::{
    exit::Refused,
    model_input::{Compute, Identities, read_text},
    output::Table,
    progress::{Progress, Style},
    remote::Output,
    signatures::Demanded,
    unfinished::Unfinished,
};
use anyhow::{Context, Result, ensure};
use coffer_assess::{
    Assessment, Options, Policy, Subject, Verdict, assess, assessment::Text, figures::Figure, figures::Measured, figures::Scan,
    policy::Reason, report, resources::Resources,
};
use coffer_store::Model;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Measure variants against a reference: quality, size, speed, memory, whether the bits are the same everywhere. A
/// policy accepts or refuses each; exit 3 if one is refused.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Model that the variants are measured against
    #[arg(value_name = "REFERENCE")]
    reference: PathBuf,
    /// Variant, optionally with a name for the report; may be repeated
    #[arg(long, value_name = "[NAME=]MODEL", required = true)]
    variant: Vec<String>,
    /// Held-out text
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Minimal pairs: JSON Lines with sentence_good and sentence_bad
    #[arg(long, value_name = "FILE")]
    pairs: Option<PathBuf>,
    /// Limits on the measured figures (TOML)
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Folder for report.html and report.json
    #[arg(short, long, value_name = "DIR")]
    output: Option<Output>,
    /// Tokens of the text to use at most
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    max_tokens: usize,
    /// Leave out speed and memory, which are measured in a process of its own for each model
    #[arg(long)]
    no_speed: bool,
    #[command(flatten)]
    identities: Identities,
    #[command(flatten)]
    signed: Demanded,
    #[command(flatten)]
    compute: Compute,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    /// How to show progress
    #[arg(long, value_enum, default_value_t)]
    progress: Style,
}

/// Assesses, writes the report, and tells the verdict.
pub(crate) fn run(args: Args) -> Result<()> {
    let text = args.identities.read_text(&args.text)?;
    let pairs = args.pairs.as_deref().map(|p| args.identities.read_text(p)).transpose()?;
    let policy = args
        .policy
        .as_deref()
        .map(|p| Ok::<_, anyhow::Error>(Policy::parse(&read_text(p)?, &p.display().to_string())?))
        .transpose()?;
    let paths: Vec<(String, PathBuf)> = args.variant.iter().map(|v| named(v)).collect();
    let open = |path: &Path| args.signed.open(path, args.identities.load_for(path)?);
    let reference = open(&args.reference)?;
    let models = paths.iter().map(|(_, path)| open(path)).collect::<Result<Vec<_>>>()?;
    let subject = |name: &str, path: &Path, model| -> Result<Subject<'_>> {
        let resources =
            (!args.no_speed).then(|| measure_alone(path, &args.identities, &args.signed, args.compute)).transpose()?;
        Ok(Subject { name: name.to_owned(), made: path.display().to_string(), model, resources, scan: scan(path, model) })
    };
    let base = subject(&named(&args.reference.display().to_string()).0, &args.reference, &reference)?;
    let variants = paths.iter().zip(&models).map(|((n, p), m)| subject(n, p, m)).collect::<Result<Vec<_>>>()?;
    let options = Options {
        max_tokens: args.max_tokens,
        pairs: pairs.as_deref().zip(args.pairs.as_deref()).map(|(text, path)| Text { name: file_name(path), text }),
        policy,
        ..Options::new(Text { name: file_name(&args.text), text: &text }, args.compute.options()?)
    };
    let assessment = assessed(base, variants, &options, args.progress)?;
    if let Some(folder) = &args.output {
        write_report(&assessment, folder)?;
    }
    if args.json {
        outln!("{}", report::json(&assessment));
    } else {
        print_table(&assessment);
        print_verdicts(&assessment);
        args.output.iter().for_each(|folder| outln!("report: {}", folder.join("report.html").display()));
    }
    match assessment.variants().iter().filter(|v| v.verdict.as_ref().is_some_and(|v| !v.accepted())).count() {
        0 => Ok(()),
        n => Err(Refused(format!("the policy refuses {n} of {} variants", assessment.variants().len())).into()),
    }
}

/// Measures with a progress bar for each stage.
pub(crate) fn assessed(
    reference: Subject<'_>,
    variants: Vec<Subject<'_>>,
    options: &Options<'_>,
    style: Style,
) -> Result<Assessment> {
    let mut shown: Option<(String, Progress)> = None;
    Ok(assess(reference, variants, options, &mut |p| {
        let what = format!("{} {}", p.stage, p.subject);
        if shown.as_ref().is_none_or(|(current, _)| *current != what) {
            shown = Some((what.clone(), Progress::steps(style, &what)));
        }
        if let Some((_, bar)) = &mut shown {
            bar.update(p.done, p.total);
        }
    })?)
}

/// Speed and peak memory of a model, measured in a process of its own.
pub(crate) fn measure_alone(path: &Path, identities: &Identities, signed: &Demanded, compute: Compute) -> Result<Resources> {
    let mut child = Command::new(std::env::current_exe()?);
    child.arg("eval").arg(path).args(["--speed", "--json", "--progress", "none"]).args(compute.flags());
    if let Some(public) = signed.public() {
        child.arg("--require-signature").arg(public);
    }
    let out = identities.run(&mut child)?;
    ensure!(out.status.success(), "measuring {}: {}", path.display(), String::from_utf8_lossy(&out.stderr).trim());
    serde_json::from_slice(&out.stdout).context("measuring speed")
}

/// What the scanner says of the files behind a plain model; a sealed one was scanned before it was sealed.
pub(crate) fn scan(path: &Path, model: &Model) -> Option<Scan> {
    if model.sealed { None } else { coffer_scan::scan(path).ok().map(|report| Scan::from(&report)) }
}

/// Writes report.html and report.json, each whole or not at all.
pub(crate) fn write_report(assessment: &Assessment, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    for (name, text) in [("report.json", report::json(assessment)), ("report.html", report::html(assessment)?)] {
        Unfinished::beside(&folder.join(name))?.finish(text.as_bytes())?;
    }
    Ok(())
}

/// A column of the table: title, figure, and how its value is written.
type Column = (&'static str, &'static str, fn(f64) -> String);

const COLUMNS: &[Column] = &[
    (">MB", "bytes", |v| format!("{:.2}", v / 1e6)),
    (">bits/w", "bits_per_weight", |v| format!("{v:.2}")),
    (">perplexity", "perplexity", |v| format!("{v:.2}")),
    (">KL mean", "kl_mean", |v| format!("{v:.5}")),
    (">KL p99", "kl_p99", |v| format!("{v:.4}")),
    (">same top", "same_top", |v| format!("{:.2} %", v * 100.0)),
    (">flips", "flips", |v| format!("{v:.0}")),
    (">tok/s", "decode_tokens_per_second", |v| format!("{v:.0}")),
    (">peak MB", "peak_memory", |v| format!("{:.0}", v / 1e6)),
    ("same bits", "distinct_logits", |v| if v == 1.0 { "yes".to_owned() } else { format!("NO, {v:.0} answers") }),
];

/// The figures of every model, one line each; `*` marks the Pareto front of size against divergence.
pub(crate) fn print_table(assessment: &Assessment) {
    out!("{}", table(assessment));
    outln!("  * on the Pareto front: no other model is both smaller and closer to the reference");
}

fn table(assessment: &Assessment) -> Table {
    let titles: Vec<&str> = ["", "model"].into_iter().chain(COLUMNS.iter().map(|c| c.0)).collect();
    let mut table = Table::new(&titles);
    let cell = |measured: &Measured, (_, id, show): &Column| {
        Figure::find(id).and_then(|f| f.read(measured)).map_or_else(|| "-".to_owned(), |r| show(r.value))
    };
    for model in &assessment.models {
        let mark = if model.on_front { "*" } else { "" };
        table.row([mark.to_owned(), model.name.clone()].into_iter().chain(COLUMNS.iter().map(|c| cell(&model.measured, c))));
    }
    table
}

/// One line a variant: accepted, or every reason against it.
pub(crate) fn print_verdicts(assessment: &Assessment) {
    for variant in assessment.variants() {
        let Some(verdict) = &variant.verdict else { continue };
        outln!("  {} {}", if verdict.accepted() { "accepted" } else { "REFUSED " }, reasons(&variant.name, verdict));
    }
}

/// `Q4_0: kl_mean 0.0312 nats, policy: at most 0.02 (max_kl_mean)`.
fn reasons(name: &str, verdict: &Verdict) -> String {
    let reasons: Vec<String> = verdict.reasons.iter().map(reason).collect();
    if reasons.is_empty() { name.to_owned() } else { format!("{name}: {}", reasons.join("; ")) }
}

/// `kl_mean 0.0312 nats, policy: at most 0.02 (max_kl_mean)`.
pub(crate) fn reason(r: &Reason) -> String {
    let value = r
        .value
        .map_or_else(|| "not measured".to_owned(), |v| format!("{v:.6}").trim_end_matches('0').trim_end_matches('.').to_owned());
    let unit = Figure::find(r.limit.figure).map_or("", |f| f.unit);
    format!("{} {value} {unit}, policy: {} {} ({})", r.limit.figure, r.limit.bound.relation(), r.limit.bound.limit(), r.limit.key)
}

/// `NAME=PATH`, or a path named after its last part.
fn named(text: &str) -> (String, PathBuf) {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !name.contains('/') => (name.to_owned(), PathBuf::from(path)),
        _ => (file_name(Path::new(text)).to_owned(), PathBuf::from(text)),
    }
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|n| n.to_str()).unwrap_or("model")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_are_named_by_flag_or_file() {
        assert_eq!(named("small=a/b.gguf"), ("small".to_owned(), PathBuf::from("a/b.gguf")));
        assert_eq!(named("a/b.gguf"), ("b.gguf".to_owned(), PathBuf::from("a/b.gguf")));
        assert_eq!(named("a=1/b.gguf").1, PathBuf::from("1/b.gguf"));
        assert_eq!(named("./x=y/b.gguf").1, PathBuf::from("./x=y/b.gguf"));
    }
}
