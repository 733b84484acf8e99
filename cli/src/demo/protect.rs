//! Step 5: the chosen variant sealed, and every attempt on the bundle refused.

use super::{Demo, change::Variant, say};
use crate::output;
use anyhow::{Context, Result, bail, ensure};
use coffer_assess::exhibits::{Attempt, Sealing};
use coffer_seal::{
    Identity, Recipient,
    bundle::{self, Bundle},
};
use std::{
    fs,
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

/// Names that every file of a Llama-family model holds in plain text.
const NAMES: [&[u8]; 6] = [b"token_embd", b"blk.0.", b"attn_q", b"general.architecture", b"tokenizer.ggml", b"ffn_down"];
/// Runs of weights that are looked for, and their length in bytes.
const RUNS: usize = 63;
const RUN_BYTES: usize = 32;

/// A sealed model and the key to it.
pub(super) struct Sealed {
    pub(super) bundle: PathBuf,
    pub(super) identity: Identity,
}

/// Seals the chosen variant, attacks the bundle, and removes the plain file.
pub(super) fn run(demo: &Demo, chosen: &Variant) -> Result<(Sealed, Sealing)> {
    say::step(5, "Protect", "who can read or change the chosen variant on disk?");
    let identity = Identity::generate();
    let recipient = identity.recipient().context("a generated identity has a recipient")?;
    say::line(&format!("a new key; its public half is {recipient}"));
    let bundle = demo.work().join("model.sealed");
    bundle::seal_path(&chosen.path, &bundle, &[Recipient::parse(&recipient)?], &mut |_, _| {})?;
    let files = files_of(&bundle)?;
    let (plain_bytes, sealed_bytes) = (fs::metadata(&chosen.path)?.len(), files.iter().map(|f| f.1).sum());
    say::line(&format!(
        "{} sealed: {} -> {} in {} files",
        chosen.name,
        output::bytes(plain_bytes),
        output::bytes(sealed_bytes),
        files.len()
    ));

    let (searched, found) = traces(&chosen.path, &files)?;
    ensure!(found == 0, "{found} of {searched} strings of the model are readable in the bundle");
    say::shown(&format!("{searched} tensor names and runs of weights looked for in the bundle, none found"));
    let attempts = vec![flip_a_bit(&bundle, &identity, &files)?, open_with_another_key(&bundle)?];
    for attempt in &attempts {
        say::refused(&format!("{}: {}", attempt.what, attempt.outcome));
    }

    fs::remove_file(&chosen.path)?;
    say::line("the plain file is deleted: from here on this variant is on disk only in the bundle");
    let sealing = Sealing {
        variant: chosen.name.clone(),
        recipient,
        plain_bytes,
        sealed_bytes,
        strings_searched: searched,
        strings_found: found,
        attempts,
    };
    Ok((Sealed { bundle, identity }, sealing))
}

/// Files below `folder` with their sizes, largest first.
fn files_of(folder: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let (mut folders, mut files) = (vec![folder.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                folders.push(entry.path());
            } else {
                files.push((entry.path(), metadata.len()));
            }
        }
    }
    files.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    Ok(files)
}

/// How many strings of the plain file were looked for in the bundle, and how many were found.
fn traces(plain: &Path, files: &[(PathBuf, u64)]) -> Result<(u64, u64)> {
    let plain = fs::read(plain)?;
    let step = plain.len() / (RUNS + 1);
    let runs =
        (1..=RUNS).filter_map(|i| plain.get(i * step..i * step + RUN_BYTES)).filter(|run| run.iter().any(|b| *b != run[0]));
    let strings: Vec<&[u8]> = NAMES.into_iter().chain(runs).collect();
    // The search must be able to find: each string is in the plain file.
    ensure!(strings.iter().all(|s| contains(&plain, s)), "the strings to look for are not even in the plain file");
    let mut found = 0;
    for (path, _) in files {
        let sealed = fs::read(path)?;
        found += strings.iter().filter(|s| contains(&sealed, s)).count() as u64;
    }
    Ok((strings.len() as u64, found))
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|w| w == needle)
}

/// Flips one bit in the middle of the largest file, reads the model, and puts the bit back.
fn flip_a_bit(bundle: &Path, identity: &Identity, files: &[(PathBuf, u64)]) -> Result<Attempt> {
    let (victim, size) = files.first().context("the bundle has files")?;
    let at = size / 2;
    flip(victim, at)?;
    let read = read_all(bundle, identity);
    flip(victim, at)?;
    read_all(bundle, identity).context("the bundle must open again once the bit is back")?;
    let Err(refusal) = read else { bail!("a changed bundle was read without complaint") };
    let file = victim.strip_prefix(bundle).unwrap_or(victim).display();
    Ok(Attempt {
        what: format!("reading after one bit of byte {at} of {file} was flipped"),
        refused: true,
        outcome: shorten(&refusal, bundle),
    })
}

fn flip(path: &Path, at: u64) -> Result<()> {
    let mut file = fs::OpenOptions::new().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut byte)?;
    file.seek(SeekFrom::Start(at))?;
    Ok(file.write_all(&[byte[0] ^ 1])?)
}

/// Decrypts every byte of the bundle in memory.
fn read_all(path: &Path, identity: &Identity) -> Result<()> {
    Ok(Bundle::open(path, std::slice::from_ref(identity))?.verify(&mut |_, _| {})?)
}

fn open_with_another_key(bundle: &Path) -> Result<Attempt> {
    let Err(refusal) = Bundle::open(bundle, &[Identity::generate()]) else { bail!("a stranger's key opened the bundle") };
    Ok(Attempt { what: "opening with a stranger's key".to_owned(), refused: true, outcome: shorten(&refusal.into(), bundle) })
}

/// The demo's folder is temporary: its name would only distract.
fn shorten(refusal: &anyhow::Error, bundle: &Path) -> String {
    format!("{refusal:#}").replace(&bundle.display().to_string(), "model.sealed")
}
