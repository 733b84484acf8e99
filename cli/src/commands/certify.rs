//! `coffer certify`: records what a model computes, or checks whether it computes the same here.

use crate::{
    exit::{Refused, Usage},
    model_input::{Compute, ModelArgs, read_bounded},
    output,
    progress::{Progress, Style},
    remote::Output,
    unfinished::Unfinished,
};
use anyhow::{Context, Result};
use coffer_assess::certify::{self, CaseDifference, Comparison};
use coffer_evidence::{Certificate, certificate::MAX_LEN};
use std::path::{Path, PathBuf};

/// Record what a model is and computes (-o), or check on another machine that it is and computes the same (--check).
/// Says `equal`, or names the part that differs and the first token and layer whose numbers do (exit 3).
#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["output", "check"])))]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    compute: Compute,
    /// Certificate to write; must not exist
    #[arg(short, long, value_name = "CERT")]
    output: Option<Output>,
    /// Certificate to check the model against; what it runs is what the certificate holds
    #[arg(long, value_name = "CERT")]
    check: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// How to show progress
    #[arg(long, value_enum, default_value_t)]
    progress: Style,
}

/// Certifies or checks.
pub(crate) fn run(args: Args) -> Result<()> {
    match (&args.output, &args.check) {
        (Some(output), _) => args.certify(output),
        (_, Some(check)) => args.check(check),
        _ => Err(Usage("certify needs -o CERT to write or --check CERT to compare".into()).into()),
    }
}

impl Args {
    fn certify(&self, output: &Path) -> Result<()> {
        let file = Unfinished::beside_nothing(output)?;
        let model = self.model.open()?;
        let engine = self.compute.load(&model, self.progress)?;
        let mut progress = Progress::steps(self.progress, "certifying");
        let name = self.model.path.display().to_string();
        let certificate = certify::certify(&name, &model, &engine, &mut |done, total| progress.update(done, total))?;
        file.finish_new(certificate.to_json().as_bytes())?;
        drop(progress);
        let tokens: usize = certificate.cases.iter().map(|c| c.tokens.len()).sum();
        if self.json {
            return output::json(&serde_json::json!({
                "certificate": output,
                "variant": certificate.model.variant,
                "contract": certificate.contract,
                "kv_format": certificate.kv_format,
                "cases": certificate.cases.len(),
                "tokens": tokens,
            }));
        }
        outln!("{}", certificate.model.variant);
        eprintln!(
            "certified {} cases of {tokens} tokens under contract {}, each run whole, cut and in a batch: {}",
            certificate.cases.len(),
            certificate.contract,
            output.display()
        );
        Ok(())
    }

    fn check(&self, path: &Path) -> Result<()> {
        let certificate = read_certificate(path)?;
        let model = self.model.open()?;
        let engine = self.compute.load(&model, self.progress)?;
        let mut progress = Progress::steps(self.progress, "checking");
        let name = self.model.path.display().to_string();
        let found = certify::check(&certificate, &name, &model, &engine, &mut |done, total| progress.update(done, total))?;
        drop(progress);
        if self.json {
            output::json(&found)?;
        } else {
            print(&found);
        }
        if found.equal() { Ok(()) } else { Err(Refused(format!("{name} is not what {} certifies", path.display())).into()) }
    }
}

fn print(found: &Comparison) {
    if found.equal() {
        outln!("equal: {} cases, {} tokens, every bit", found.cases, found.tokens);
    }
    for difference in &found.parts {
        outln!("{:14} {}", difference.part, difference.detail);
    }
    for difference in &found.answers {
        outln!("{:14} {}", difference.case, place(difference));
    }
    if !found.equal() && found.answers.is_empty() && found.cases > 0 {
        outln!("{:14} all {} cases are answered with the same bits", "answers", found.cases);
    }
}

/// `token 17 is the first that differs, first in: layer 3; its top logit is 11.25 for 402 in the certificate, 11.5 for 402 here`
fn place(difference: &CaseDifference) -> String {
    let mut text = match difference.token {
        Some(token) => format!("token {token} is the first that differs, first in: {}", difference.stage),
        None => format!("differs in: {}", difference.stage),
    };
    if let (Some((id, logit)), Some((here_id, here))) = (difference.certified, difference.here) {
        text += &format!("; its top logit is {logit} for {id} in the certificate, {here} for {here_id} here");
    }
    text
}

/// Reads a certificate, bounded.
pub(crate) fn read_certificate(path: &Path) -> Result<Certificate> {
    let bytes = read_bounded(path, MAX_LEN as u64)?;
    Certificate::parse(&bytes).with_context(|| format!("{}: not usable", path.display()))
}
