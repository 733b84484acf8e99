//! Flags that every command with a model shares, and how a model gets from its path into memory.

use crate::{
    exit::Usage,
    hygiene,
    passphrase::{self, Terminal},
    progress::{Progress, Style},
    signatures::DemandedOfOne,
};
use anyhow::{Context, Result};
use coffer_checkpoint::TensorSource;
use coffer_engine::{Engine, LoadOptions};
use coffer_kernels::{Isa, KvFormat};
use coffer_model::ModelConfig;
use coffer_seal::{Identity, bundle::Bundle};
use coffer_store::Model;
use std::{
    cell::OnceCell,
    fs::File,
    io::{Read, Write},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
};
use zeroize::Zeroizing;

const STANDARD_INPUT: &str = "/dev/stdin";

/// Keys for sealed models.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct Identities {
    /// Key file that opens a sealed model: age identities, an OpenSSH private key, or an RSA private key in PEM; may be repeated
    #[arg(short, long, value_name = "FILE")]
    identity: Vec<PathBuf>,
    /// Ask for the passphrase that opens a sealed model
    #[arg(long)]
    passphrase: bool,
    /// File or descriptor (/dev/fd/3) whose first line is that passphrase
    #[arg(long, value_name = "FILE", conflicts_with = "passphrase")]
    passphrase_file: Option<PathBuf>,
    /// Open a sealed model although this key has opened a newer epoch of it: its old content, and who could read that, come back
    #[arg(long)]
    allow_rollback: bool,
    /// Read when they are first needed, and once: a pipe gives a passphrase but once, and nobody wants to be asked twice.
    #[arg(skip)]
    keys: OnceCell<Arc<Keys>>,
}

/// What the flags stand for.
struct Keys {
    identities: Vec<Identity>,
    passphrase: Option<Zeroizing<String>>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} keys", self.identities.len())
    }
}

impl Identities {
    /// The keys, read after this process was made one that may hold keys.
    pub(crate) fn load(&self) -> Result<&[Identity]> {
        self.keys().map(|keys| &*keys.identities)
    }

    fn keys(&self) -> Result<&Keys> {
        if let Some(keys) = self.keys.get() {
            return Ok(keys);
        }
        let keys = Arc::new(self.read()?);
        Ok(self.keys.get_or_init(|| keys))
    }

    fn read(&self) -> Result<Keys> {
        if self.given() {
            hygiene::protect();
        }
        let mut all = Vec::new();
        for path in &self.identity {
            all.extend(Identity::read_with(path, Arc::new(Terminal))?);
        }
        if self.allow_rollback {
            all = all.into_iter().map(Identity::allowing_rollback).collect();
        }
        let passphrase = passphrase::existing(self.passphrase, self.passphrase_file.as_deref())?.map(Zeroizing::new);
        all.extend(passphrase.as_ref().map(|text| Identity::passphrase(text.to_string())));
        Ok(Keys { identities: all, passphrase })
    }

    /// Whether there is anything to open a sealed model with.
    pub(crate) fn given(&self) -> bool {
        !self.identity.is_empty() || self.passphrase || self.passphrase_file.is_some()
    }

    /// Runs a command of this program with the same keys. The passphrase goes through its standard input, where no other process
    /// can look.
    pub(crate) fn run(&self, command: &mut Command) -> Result<Output> {
        for path in &self.identity {
            command.arg("--identity").arg(path);
        }
        command.args(self.allow_rollback.then_some("--allow-rollback"));
        let passphrase = self.keys()?.passphrase.as_ref();
        if passphrase.is_some() {
            command.args(["--passphrase-file", STANDARD_INPUT]);
        }
        let input = if passphrase.is_some() { Stdio::piped() } else { Stdio::null() };
        let mut child = command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        if let (Some(passphrase), Some(mut input)) = (passphrase, child.stdin.take()) {
            // It fails only if the command has ended already, and its output says why.
            let _ = input.write_all(passphrase.as_bytes());
        }
        Ok(child.wait_with_output()?)
    }

    /// Reads the key files for `path`, which must be named if it is sealed.
    pub(crate) fn load_for(&self, path: &Path) -> Result<&[Identity]> {
        if !self.given() && Bundle::is_bundle(path) {
            let what = format!("{} is sealed; name the key that opens it with --identity (or --passphrase)", path.display());
            return Err(Usage(what).into());
        }
        self.load()
    }
}

/// The model that a command is about.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct ModelArgs {
    /// Hugging Face directory, GGUF file or sealed bundle
    #[arg(value_name = "MODEL")]
    pub(crate) path: PathBuf,
    #[command(flatten)]
    pub(crate) identities: Identities,
    #[command(flatten)]
    pub(crate) signed: DemandedOfOne,
}

impl ModelArgs {
    /// Whether it may be used only if it is signed.
    pub(crate) fn must_be_signed(&self) -> bool {
        self.signed.demanded.public().is_some()
    }

    /// Opens it, plain or sealed; only if it is what was signed, where a signature is demanded.
    pub(crate) fn open(&self) -> Result<Model> {
        let files = self.signed.files(&self.path, self.identities.load_for(&self.path)?)?;
        Ok(coffer_store::open_files(&self.path, files)?)
    }
}

/// How to run a model.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub(crate) struct Compute {
    /// Threads; results do not depend on them [default: all cores]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Longest context in tokens [default: the model's own]
    #[arg(long, value_name = "TOKENS")]
    context: Option<NonZeroUsize>,
    /// How keys and values are kept: f32, f16 or q8_0 (half the memory of f16). Answers depend on it
    #[arg(long, value_name = "FORMAT", default_value_t)]
    kv_format: KvFormat,
}

impl Compute {
    /// How to load a model.
    pub(crate) fn options(self) -> Result<LoadOptions> {
        Ok(LoadOptions {
            isa: Isa::detect()?,
            threads: threads(self.threads),
            context: self.context.map(NonZeroUsize::get),
            kv_format: self.kv_format,
        })
    }

    /// The flags again, to hand them on.
    pub(crate) fn flags(self) -> Vec<String> {
        let flag = |name: &str, value: Option<NonZeroUsize>| value.map(|v| format!("--{name}={v}"));
        let format = Some(format!("--kv-format={}", self.kv_format));
        [flag("threads", self.threads), flag("context", self.context), format].into_iter().flatten().collect()
    }

    /// Loads `model` for running.
    pub(crate) fn load(self, model: &Model, style: Style) -> Result<Engine> {
        self.load_weights(&model.config, model.weights.as_ref(), style)
    }

    /// Loads `weights` of a model of that shape.
    pub(crate) fn load_weights(self, config: &ModelConfig, weights: &dyn TensorSource, style: Style) -> Result<Engine> {
        load_engine(config, weights, self.options()?, Progress::bytes(style, "loading"))
    }
}

/// Loads `weights` of a model of that shape and shows `progress`.
pub(crate) fn load_engine(
    config: &ModelConfig,
    weights: &dyn TensorSource,
    options: LoadOptions,
    mut progress: Progress,
) -> Result<Engine> {
    Ok(Engine::load(config, weights, options, &mut |done, total| progress.update(done, total))?)
}

/// `asked`, or one thread a core.
pub(crate) fn threads(asked: Option<NonZeroUsize>) -> usize {
    asked.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get)
}

/// Longest text that is read.
const TEXT_LIMIT: u64 = 256 << 20;

impl Identities {
    /// Reads a text file, bounded; a bundle must hold exactly one file.
    pub(crate) fn read_text(&self, path: &Path) -> Result<String> {
        if !Bundle::is_bundle(path) {
            return read_text(path);
        }
        let files = coffer_store::FileSet::open(path, self.load_for(path)?)?;
        let [(name, _)] = files.list() else {
            anyhow::bail!("{}: {} files are in it, where one text is wanted", path.display(), files.list().len());
        };
        let bytes = files.read(name, TEXT_LIMIT)?.unwrap_or_default();
        String::from_utf8(bytes).map_err(|_| anyhow::anyhow!("{}: {name} is not UTF-8 text", path.display()))
    }
}

/// Reads a file, but no more than one byte above `most`: what is larger is for the reader of its content to refuse.
pub(crate) fn read_bounded(path: &Path, most: u64) -> Result<Vec<u8>> {
    let named = || path.display().to_string();
    let mut bytes = Vec::new();
    File::open(path).with_context(named)?.take(most + 1).read_to_end(&mut bytes).with_context(named)?;
    Ok(bytes)
}

/// Reads a plain text file, bounded.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let size = std::fs::metadata(path).with_context(|| path.display().to_string())?.len();
    anyhow::ensure!(size <= TEXT_LIMIT, "{}: {size} bytes of text; at most {TEXT_LIMIT} are read", path.display());
    std::fs::read_to_string(path).with_context(|| format!("{}: not readable as UTF-8 text", path.display()))
}
