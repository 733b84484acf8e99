//! What `inspect` shows of a sealed bundle: without a key what everybody sees, with one what is inside.

use crate::output::{self, Table};
use anyhow::Result;
use coffer_seal::{
    Identity,
    bundle::{Bundle, Member, recipients},
    place,
};
use std::{collections::BTreeMap, fmt, path::Path};

/// Format that is written.
const FORMAT: u32 = 1;

/// A bundle as far as it can be seen.
#[derive(serde::Serialize)]
pub(crate) struct Summary {
    format: u32,
    /// Recipients by kind; this is what the key files say.
    kinds: BTreeMap<String, usize>,
    /// Bytes on the disk, padding and all.
    sealed_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none", flatten)]
    inside: Option<Inside>,
}

/// What a key shows.
#[derive(serde::Serialize)]
struct Inside {
    id: String,
    epoch: u64,
    recipients: Vec<Member>,
    files: Vec<Entry>,
}

#[derive(serde::Serialize)]
struct Entry {
    name: String,
    size: u64,
    sha256: String,
}

impl Summary {
    /// Looks at the bundle `path`, inside too if there are identities.
    pub(crate) fn of(path: &Path, identities: &[Identity]) -> Result<Self> {
        let kinds = recipients(path)?;
        let place = place::at(path)?;
        let size = |part: &str| place.open(part).map_or(0, |file| file.len());
        let inside = if identities.is_empty() { None } else { Some(Inside::of(&Bundle::open(path, identities)?)?) };
        Ok(Self { format: FORMAT, kinds, sealed_bytes: size("data") + size("manifest"), inside })
    }

    /// Whether there is a model in it that a key shows.
    pub(crate) fn holds_model(&self) -> bool {
        let model = |file: &Entry| file.name == "config.json" || file.name.ends_with(".gguf");
        self.inside.as_ref().is_some_and(|inside| inside.files.iter().any(model))
    }
}

impl Inside {
    fn of(bundle: &Bundle) -> Result<Self> {
        let entry = |(name, size): (String, u64)| {
            let sha256 = bundle.sha256(&name)?.iter().map(|byte| format!("{byte:02x}")).collect();
            Ok(Entry { name, size, sha256 })
        };
        let files = bundle.files().into_iter().map(entry).collect::<Result<Vec<_>>>()?;
        Ok(Self { id: bundle.id(), epoch: bundle.epoch(), recipients: bundle.members().to_vec(), files })
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<String> = self.kinds.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
        writeln!(f, "sealed bundle  format {}, {} on disk", self.format, output::bytes(self.sealed_bytes))?;
        writeln!(f, "recipients     {} (as the key files say)", kinds.join(", "))?;
        let Some(inside) = &self.inside else {
            return writeln!(f, "inside         not to be seen without a key (--identity)");
        };
        writeln!(f, "epoch          {} (id {})", inside.epoch, inside.id)?;
        for member in &inside.recipients {
            writeln!(f, "opened by      {}{}", member.key, if member.recovery { " (recovery)" } else { "" })?;
        }
        let mut table = Table::new(&["file", ">bytes", "sha256"]);
        for file in &inside.files {
            table.row([file.name.clone(), output::count(file.size), file.sha256.clone()]);
        }
        write!(f, "{table}")
    }
}
