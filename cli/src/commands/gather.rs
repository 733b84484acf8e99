//! `coffer gather`: the shards that several processes made become one model.

use crate::{
    commands::outcome::{Job, OutcomeFlags},
    exit::Usage,
    model_input::ModelArgs,
};
use anyhow::Result;
use coffer_compress::shard::{self, Gathered};
use coffer_store::Shard;
use std::path::PathBuf;

/// Put the shards that `coffer quantize --shard I/N` wrote together: the same bytes as without shards. Every byte is checked, and that
/// all were made in one way, of the model that is named.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// All shards, in any order
    #[arg(value_name = "SHARD", required = true)]
    shards: Vec<PathBuf>,
    #[command(flatten)]
    outcome: OutcomeFlags,
}

/// Gathers.
pub(crate) fn run(args: Args) -> Result<()> {
    let making = args.outcome.making;
    let model = args.model.open()?;
    let open = |path: &PathBuf| -> Result<Shard> { Ok(Shard::open(path, args.model.identities.load_for(path)?)?) };
    let shards = args.shards.iter().map(open).collect::<Result<_>>()?;
    let gathered = Gathered::new(&model, shards).map_err(|e| Usage(e.to_string()))?;
    if making.dry_run {
        return making.planned(&gathered.plan(&model, making.threads())?);
    }
    let outcome = args.outcome.prepare(&model, &args.model.identities)?;
    let mut progress = making.progress("checking");
    let source = gathered.verify(&model, &mut |done, total| progress.update(done, total))?;
    drop(progress);
    outcome.of(
        "gathering",
        Job {
            recipe: gathered.recipe().clone(),
            source: Some(source),
            held_out: None,
            work: None,
            make: Box::new(move |model, out, progress| shard::gather(&gathered, model, out, making.threads(), progress)),
            model,
        },
    )
}
