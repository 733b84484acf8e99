//! `coffer prune`: weights set to zero.

use crate::{commands::making, model_input::ModelArgs, recipients::SealTo, remote::Output};
use anyhow::Result;
use coffer_compress::prune::{self, PruneParams};
use coffer_store::Destination;

/// Set a share of every linear layer's weights to zero. Shapes and types stay as they are.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Which weights go: `magnitude`, the smallest
    #[arg(long, value_name = "M", default_value = "magnitude")]
    method: String,
    /// Share of the weights that become zero, 0 to 1
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    sparsity: f64,
    /// Hugging Face directory to write, or bundle with --seal-to; must not exist
    #[arg(short, long, value_name = "DIR")]
    output: Output,
    #[command(flatten)]
    seal: SealTo,
    #[command(flatten)]
    making: making::Flags,
}

/// Prunes.
pub(crate) fn run(args: Args) -> Result<()> {
    let params = PruneParams { method: args.method.clone(), sparsity: args.sparsity, threads: args.making.threads() };
    let recipients = args.seal.recipients()?;
    let model = args.model.open()?;
    if args.making.dry_run {
        return args.making.planned(&prune::plan(&model, &params)?);
    }
    let work = making::work_id(&model, &("prune", &args.method, args.sparsity));
    let output = Destination { path: &args.output, recipients: &recipients, work };
    let mut progress = args.making.progress("pruning");
    let summary = prune::prune(&model, output, &params, &mut |done, total| progress.update(done, total))?;
    drop(progress);
    args.making.made(&args.output, &summary)
}
