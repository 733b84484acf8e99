//! `coffer demo`: every step from a checkpoint to an encrypted answer, on a small model, each with its figures.

mod change;
mod decide;
mod look;
mod measure;
mod protect;
mod say;
mod serve;
mod wiretap;

use crate::{
    commands::assess::write_report,
    model_input::{Compute, Identities},
    remote::Output,
    signatures::Demanded,
};
use anyhow::{Context, Result, ensure};
use std::{
    path::{Path, PathBuf},
    time::Instant,
};

/// See all of it on a small model: scanned, compressed, measured, sealed, served, and asked a question that nobody on
/// the way can read. Offline; leaves nothing but the folder with the report.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder for the report
    #[arg(short, long, value_name = "DIR", default_value = "coffer-demo")]
    output: Output,
    /// Folder with the demo's model and texts
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets"), hide_default_value = true)]
    assets: PathBuf,
    #[command(flatten)]
    compute: Compute,
}

/// Where the demo finds its model and puts what it makes.
struct Demo {
    assets: PathBuf,
    work: tempfile::TempDir,
    compute: Compute,
}

/// Runs all steps.
pub(crate) fn run(args: Args) -> Result<()> {
    let start = Instant::now();
    let demo = Demo::new(&args)?;
    outln!("Coffer takes a model from checkpoint to service and measures four risks on the way:");
    outln!("safety, privacy, reliability, efficiency. Here on scribe-8m, a small model made for this project.");
    let (model, refused_file) = look::run(&demo)?;
    let variants = change::run(&demo, &model)?;
    let mut assessment = measure::run(&demo, &model, &variants)?;
    let chosen = decide::run(&assessment, variants)?;
    let (sealed, sealing) = protect::run(&demo, &chosen)?;
    let serving = serve::run(&demo, &chosen.name, &sealed)?;
    assessment.exhibits.refused_file = Some(refused_file);
    assessment.exhibits.sealing = Some(sealing);
    assessment.exhibits.serving = Some(serving);
    say::step(7, "Report", "what would you show an auditor?");
    write_report(&assessment, &args.output)?;
    drop(demo);
    say::line(&format!("{} (open it in a browser) and report.json beside it", args.output.join("report.html").display()));
    outln!("\nDone in {:.1} s. Each step is a command of its own: see `coffer help`.", start.elapsed().as_secs_f64());
    Ok(())
}

impl Demo {
    fn new(args: &Args) -> Result<Self> {
        let assets = args.assets.canonicalize().unwrap_or_else(|_| args.assets.clone());
        ensure!(
            assets.join("models/scribe-8m").is_dir(),
            "{}: no models/scribe-8m in it; point --assets at the project's assets/",
            assets.display()
        );
        std::fs::create_dir_all(&*args.output).with_context(|| args.output.display().to_string())?;
        let work = tempfile::Builder::new()
            .prefix(".work-")
            .tempdir_in(&*args.output)
            .with_context(|| args.output.display().to_string())?;
        Ok(Self { assets, work, compute: args.compute })
    }
    /// Folder for what the demo makes; it is removed in the end.
    fn work(&self) -> &Path {
        self.work.path()
    }
    /// The demo's model.
    fn model(&self) -> PathBuf {
        self.assets.join("models/scribe-8m")
    }
    /// A file of the project's assets.
    fn asset(&self, name: &str) -> Result<String> {
        crate::model_input::read_text(&self.assets.join(name))
    }
    /// Speed and memory of a plain model, measured in a process of its own.
    fn resources(&self, path: &Path) -> Result<coffer_assess::resources::Resources> {
        crate::commands::assess::measure_alone(path, &Identities::default(), &Demanded::default(), self.compute)
    }
}
