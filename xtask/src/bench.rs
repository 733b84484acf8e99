//! Coffer beside its real peers, alternating in one run: times drift from machine to machine, ratios less so.

mod engine;
mod growth;
mod limits;
mod llama;
mod machine;
mod ours;
mod plot;
mod quantize;
mod seal;
mod sealed;
mod server;

use crate::peers::Peers;
use anyhow::{Context, Result};
use std::{fmt, path::PathBuf};

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Job to measure
    #[arg(value_enum)]
    name: Name,
    /// Print an array of {name, ours, peer, unit, ratio, aim, share} instead of a table
    #[arg(long)]
    json: bool,
    /// Measure each so many times and quote the median
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    /// Only what `engine` measures under names that contain this, as "AVX2"
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Where `growth` draws its picture
    #[arg(long, value_name = "SVG", default_value = "target/growth.svg")]
    picture: PathBuf,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Name {
    /// Decode and prefill beside llama.cpp's llama-bench
    Engine,
    /// Decode by context and by sequences at a time, beside llama.cpp's tools, as a picture too
    Growth,
    /// Quantizing beside llama-quantize: what is lost, and how long it takes
    Quantize,
    /// Sealing and opening beside age and a synced copy; sealed models beside plain ones
    Seal,
}

/// One line of the table. `ratio` above 1: ours is better.
#[derive(serde::Serialize)]
pub(crate) struct Row {
    name: String,
    ours: f64,
    peer: f64,
    unit: &'static str,
    ratio: f64,
    /// The ratio that the project sets itself, where it does.
    aim: Option<f64>,
    /// Which share of what the machine could do at best ours reaches.
    share: Option<Share>,
}

/// A share of a limit.
#[derive(serde::Serialize)]
pub(crate) struct Share {
    of: &'static str,
    share: f64,
}

impl Row {
    /// Something of which more is better.
    pub(crate) fn rate(name: impl Into<String>, ours: f64, peer: f64, unit: &'static str) -> Self {
        Self { name: name.into(), ours, peer, unit, ratio: ours / peer, aim: None, share: None }
    }
    /// Something of which less is better.
    pub(crate) fn cost(name: impl Into<String>, ours: f64, peer: f64, unit: &'static str) -> Self {
        Self { name: name.into(), ours, peer, unit, ratio: peer / ours, aim: None, share: None }
    }
    /// With the share of what the machine could do at best.
    pub(crate) fn share(self, of: &'static str, share: f64) -> Self {
        Self { share: Some(Share { of, share }), ..self }
    }
    /// With the ratio that it should have at least.
    pub(crate) fn aim(self, ratio: f64) -> Self {
        Self { aim: Some(ratio), ..self }
    }
    /// With the times as much as the peer that it may take at most.
    pub(crate) fn at_most(self, times: f64) -> Self {
        self.aim(1.0 / times)
    }
}

/// Measures and prints.
pub(crate) fn run(args: &Args) -> Result<()> {
    let peers = Peers::new()?;
    let mut rows = Vec::new();
    if !args.json {
        println!("{:WIDTH$}  {:>10}  {:>10}  {:6}  {:>6}", "", "ours", "peer", "", "ratio");
    }
    // Each line as soon as it is measured: a whole table takes minutes.
    let mut row = |row: Row| {
        if !args.json {
            println!("{row}");
        }
        rows.push(row);
    };
    match args.name {
        Name::Engine => engine::rows(&peers, args.repeat, &args.only, &mut row)?,
        Name::Growth => growth::rows(&peers, args.repeat, &args.picture, &mut row)?,
        Name::Quantize => quantize::quantize(&peers, args.repeat, &mut row)?,
        Name::Seal => seal::rows(&peers, args.repeat)?.into_iter().for_each(row),
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        println!("ratio above 1: ours is better; median of {} alternating runs", args.repeat);
    }
    Ok(())
}

/// Threads of each side.
const THREADS: usize = 2;

/// Of a row's name.
const WIDTH: usize = 44;

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, ours, peer, unit, ratio, aim, share } = self;
        write!(f, "{name:WIDTH$}  {ours:>10.2}  {peer:>10.2}  {unit:6}  {ratio:>5.2}x")?;
        if let Some(aim) = aim {
            write!(f, "  aim {aim:.2}x: {}", if ratio >= aim { "met" } else { "missed" })?;
        }
        match share {
            Some(Share { of, share }) => write!(f, "; {:.0} % of the {of}", share * 100.0),
            None => Ok(()),
        }
    }
}

/// Median of each side over `repeat` alternating measurements.
pub(crate) fn alternate(
    repeat: usize,
    mut ours: impl FnMut() -> Result<f64>,
    mut peer: impl FnMut() -> Result<f64>,
) -> Result<(f64, f64)> {
    let [ours, peer] = rotate(repeat, [&mut ours, &mut peer])?;
    Ok((ours, peer))
}

/// Median of each side over `repeat` rounds, each of which another side begins.
pub(crate) fn rotate<const N: usize>(repeat: usize, sides: [&mut dyn FnMut() -> Result<f64>; N]) -> Result<[f64; N]> {
    let mut values = [const { Vec::new() }; N];
    for round in 0..repeat.max(1) {
        for place in 0..N {
            let side = (round + place) % N;
            values[side].push(sides[side]()?);
        }
    }
    Ok(values.map(median))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The 1.1 B Llama shape with random weights (2.2 GB in bf16), made once into the cache; needs the generator beside the checkout.
pub(crate) fn synthetic(peers: &Peers) -> Result<Option<PathBuf>> {
    let Some(shared) = peers.shared() else {
        eprintln!("the synthetic 1.1 B shape needs ../shared, which is absent: left out");
        return Ok(None);
    };
    let out = peers.cache().join("synthetic-1b");
    if !out.join("tokenizer.json").exists() {
        eprintln!("writing the synthetic 1.1 B shape (2.2 GB) into {}", out.display());
        crate::peers::run(std::process::Command::new(peers.python()?).arg(shared.join("make_synthetic.py")).arg(&out))?;
        for entry in std::fs::read_dir(shared.join("models/tokenizer-32k"))? {
            let path = entry?.path();
            std::fs::copy(&path, out.join(path.file_name().context("a file has a name")?))?;
        }
    }
    Ok(Some(out))
}
