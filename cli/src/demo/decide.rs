//! Step 4: a policy accepts some variants and refuses others, with the reason.

use super::{change::Variant, measure::POLICY, say};
use crate::commands::assess::print_verdicts;
use anyhow::{Context, Result};
use coffer_assess::Assessment;

/// Shows the verdicts and gives the smallest accepted variant.
pub(super) fn run(assessment: &Assessment, variants: Vec<Variant>) -> Result<Variant> {
    say::step(4, "Decide", "which of them may be served?");
    say::line("the policy, written down before the figures were known:");
    say::line(&POLICY.lines().map(|l| format!("    {l}\n")).collect::<String>());
    print_verdicts(assessment);
    let chosen = assessment.smallest_accepted().context("the policy refuses every variant")?;
    say::line(&format!("chosen: {}, the smallest that the policy accepts", chosen.name));
    variants.into_iter().find(|v| v.name == chosen.name).context("an assessed variant was made before")
}
