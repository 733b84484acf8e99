//! Step 3: every variant measured against the original.

use super::{Demo, change::Variant, say};
use crate::{
    commands::assess::{assessed, print_table, scan},
    progress::Style,
};
use anyhow::Result;
use coffer_assess::{Assessment, Options, Policy, Subject, assessment::Text};
use coffer_store::Model;
use std::path::Path;

/// Tokens of the held-out text: enough for two figures of a divergence, few enough for a minute.
const TOKENS: usize = 4096;

/// The demo's policy: what a team that serves stories might write down before it looks at the figures.
pub(super) const POLICY: &str = "\
max_kl_mean = 0.05            # nats: answers stay close to the original's
min_same_top = 0.85           # share of positions with the same most likely token
max_flips = 5                 # right answers on minimal pairs that became wrong
max_bits_per_weight = 9       # otherwise there was no point in compressing
require_same_bits = true      # on every instruction set and thread count here
require_scan_clean = true
";

/// Measures quality, size, speed, memory and portability.
pub(super) fn run(demo: &Demo, model: &Model, variants: &[Variant]) -> Result<Assessment> {
    say::step(3, "Measure", "what did each change cost, and what did it gain?");
    let (text, pairs) = (demo.asset("text/holdout.txt")?, demo.asset("eval/minimal-pairs.jsonl")?);
    let models = variants.iter().map(|v| Ok(coffer_store::open(&v.path, &[])?)).collect::<Result<Vec<_>>>()?;
    let subject = |name: &str, made: &str, path: &Path, model| -> Result<Subject<'_>> {
        let resources = Some(demo.resources(path)?);
        Ok(Subject { name: name.to_owned(), made: made.to_owned(), model, resources, scan: scan(path, model) })
    };
    let reference = subject("scribe-8m", "as trained, bf16", &demo.model(), model)?;
    let subjects =
        variants.iter().zip(&models).map(|(v, m)| subject(&v.name, &v.made, &v.path, m)).collect::<Result<Vec<_>>>()?;
    let options = Options {
        max_tokens: TOKENS,
        pairs: Some(Text { name: "minimal-pairs.jsonl", text: &pairs }),
        policy: Some(Policy::parse(POLICY, "policy.toml")?),
        ..Options::new(Text { name: "holdout.txt", text: &text }, demo.compute.options()?)
    };
    let assessment = assessed(reference, subjects, &options, Style::Auto)?;
    print_table(&assessment);
    Ok(assessment)
}
