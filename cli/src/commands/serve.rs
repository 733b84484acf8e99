//! `coffer serve`: an OpenAI-compatible server with encrypted requests.

use crate::{
    commands::keys::Database,
    model_input::{Compute, ModelArgs},
    progress::Style,
};
use anyhow::{Context, Result};
use coffer_engine::Engine;
use coffer_server::{Access, Config, Limits, ServedModel};
use coffer_store::Model;
use std::{
    io::Write,
    net::{SocketAddr, TcpListener},
    num::NonZeroUsize,
    path::Path,
    sync::Arc,
};

/// Serve a model under the OpenAI API. A sealed model is decrypted in memory only. Clients that speak EHBP get every
/// request and answer encrypted end to end.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    compute: Compute,
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Name that clients use [default: the file's]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    database: Database,
    /// Answer everyone who can reach the port, without a key
    #[arg(long, conflicts_with = "database")]
    dangerously_open: bool,
    /// Sequences that run at the same time
    #[arg(long, value_name = "N", default_value = "8")]
    slots: NonZeroUsize,
    /// Requests that wait for a slot; further ones are refused
    #[arg(long, value_name = "N", default_value_t = 64)]
    queue: usize,
    /// Memory in MiB for the tokens, keys and values of ended requests, so that later ones with the same API key need not compute how
    /// they begin; 0 keeps nothing of a request that is over
    #[arg(long, value_name = "MIB", default_value_t = 0)]
    prefix_memory: usize,
    /// How to show progress
    #[arg(long, value_enum, default_value_t)]
    progress: Style,
}

/// Serves until the process is asked to end.
pub(crate) fn run(args: Args) -> Result<()> {
    crate::hygiene::protect();
    let level = tracing_subscriber::EnvFilter::try_from_env("COFFER_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(level).with_writer(std::io::stderr).init();
    let access = if args.dangerously_open { Access::DangerouslyOpen } else { Access::Keys(args.database.database.clone()) };
    // The port is taken before the model is loaded: that it is taken should not be learnt after minutes.
    let listener = TcpListener::bind(args.listen)
        .with_context(|| format!("{}: cannot listen; --listen takes another address", args.listen))?;
    let name = args.name.unwrap_or_else(|| model_name(&args.model.path));
    let model = args.model.open()?;
    let engine = args.compute.load(&model, args.progress)?;
    let config = Config {
        model: served(name, model, engine)?,
        access,
        slots: args.slots.get(),
        queue: args.queue,
        kept_prefixes: args.prefix_memory.saturating_mul(1 << 20),
        limits: Limits::default(),
    };
    let server = coffer_server::start(listener, config)?;
    outln!("serving http://{}", server.address());
    std::io::stdout().flush()?;
    Ok(server.run_until_signal()?)
}

/// What the server needs of a loaded model.
pub(crate) fn served(name: String, model: Model, engine: Engine) -> Result<ServedModel> {
    let variant = model.variant_digest(model.weights_digest()?, coffer_kernels::CONTRACT, engine.kv_format().name());
    let tokenizer = model.tokenizer.with_context(|| format!("{name}: no tokenizer; a server needs one"))?;
    Ok(ServedModel { name, engine: Arc::new(engine), tokenizer, template: model.template, variant: Some(variant) })
}

fn model_name(path: &Path) -> String {
    path.file_stem().map_or_else(|| "model".to_owned(), |s| s.to_string_lossy().into_owned())
}
