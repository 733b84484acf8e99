//! Flags that every command with a model shares, and how a model gets from its path into memory.

use crate::{
    exit::Usage,
    hygiene,
    passphrase::{self, Terminal},
    progress::{Progress, Style},
    signatures::Demanded,
};
use anyhow::{Context, Result};
use coffer_engine::{Engine, LoadOptions};
use coffer_kernels::Isa;
use coffer_seal::{Identity, bundle::Bundle};
use coffer_store::Model;
use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
};

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
}

impl Identities {
    /// Reads the key files, after this process was made one that may hold keys.
    pub(crate) fn load(&self) -> Result<Vec<Identity>> {
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
        all.extend(passphrase::existing(self.passphrase, self.passphrase_file.as_deref())?.map(Identity::passphrase));
        Ok(all)
    }

    /// Whether there is anything to open a sealed model with.
    pub(crate) fn given(&self) -> bool {
        !self.identity.is_empty() || self.passphrase || self.passphrase_file.is_some()
    }

    /// The key files, to hand them on.
    pub(crate) fn paths(&self) -> &[PathBuf] {
        &self.identity
    }

    /// Reads the key files for `path`, which must be named if it is sealed.
    pub(crate) fn load_for(&self, path: &Path) -> Result<Vec<Identity>> {
        if !self.given() && Bundle::is_bundle(path) {
            let what = format!("{} is sealed; name the key that opens it with --identity (or --passphrase)", path.display());
            return Err(Usage(what).into());
        }
        self.load()
    }

    /// Opens a model, plain or sealed.
    pub(crate) fn open(&self, path: &Path) -> Result<Model> {
        Ok(coffer_store::open(path, &self.load_for(path)?)?)
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
    demanded: Demanded,
}

impl ModelArgs {
    /// Whether it may be used only if it is signed.
    pub(crate) fn must_be_signed(&self) -> bool {
        self.demanded.given()
    }

    /// Opens it, plain or sealed; only if it is what was signed, where a signature is demanded.
    pub(crate) fn open(&self) -> Result<Model> {
        self.demanded.open(&self.path, &self.identities.load_for(&self.path)?)
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
}

impl Compute {
    /// How to load a model.
    pub(crate) fn options(self) -> Result<LoadOptions> {
        Ok(LoadOptions { isa: Isa::detect()?, threads: threads(self.threads), context: self.context.map(NonZeroUsize::get) })
    }

    /// The flags again, to hand them on.
    pub(crate) fn flags(self) -> Vec<String> {
        let flag = |name: &str, value: Option<NonZeroUsize>| value.map(|v| format!("--{name}={v}"));
        [flag("threads", self.threads), flag("context", self.context)].into_iter().flatten().collect()
    }

    /// Loads `model` for running.
    pub(crate) fn load(self, model: &Model, style: Style) -> Result<Engine> {
        let options = self.options()?;
        let mut progress = Progress::bytes(style, "loading");
        Ok(Engine::load(&model.config, model.weights.as_ref(), options, &mut |done, total| progress.update(done, total))?)
    }
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
        let files = coffer_store::FileSet::open(path, &self.load_for(path)?)?;
        let [(name, _)] = files.list() else {
            anyhow::bail!("{}: {} files are in it, where one text is wanted", path.display(), files.list().len());
        };
        let bytes = files.read(name, TEXT_LIMIT)?.unwrap_or_default();
        String::from_utf8(bytes).map_err(|_| anyhow::anyhow!("{}: {name} is not UTF-8 text", path.display()))
    }
}

/// Reads a plain text file, bounded.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let size = std::fs::metadata(path).with_context(|| path.display().to_string())?.len();
    anyhow::ensure!(size <= TEXT_LIMIT, "{}: {size} bytes of text; at most {TEXT_LIMIT} are read", path.display());
    std::fs::read_to_string(path).with_context(|| format!("{}: not readable as UTF-8 text", path.display()))
}
