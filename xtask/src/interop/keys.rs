//! Key files beside Debian's age.

use super::Outcome;
use crate::{
    interop::numbers::scribe,
    peers::{Peers, output, run},
};
use anyhow::{Context, Result, ensure};
use std::{path::Path, process::Command};

/// `age` unwraps the content key of our bundle with our identity file, and we open a bundle with age's identity.
pub(crate) fn age_opens_our_keys(peers: &Peers, folder: &Path) -> Result<Outcome> {
    let age = peers.debian("age")?;
    let (key, bundle) = (folder.join("key"), folder.join("bundle"));
    let ours = output(peers.coffer("keygen")?.arg("-o").arg(&key))?;
    let their_key = folder.join("age-key");
    output(Command::new(age.with_file_name("age-keygen")).arg("-o").arg(&their_key))?;
    let theirs = output(Command::new(age.with_file_name("age-keygen")).arg("-y").arg(&their_key))?;
    let recipients = ["--recipient", ours.trim(), "--recipient", theirs.trim(), "-o"];
    run(peers.coffer("seal")?.arg(scribe(peers)).args(recipients).arg(&bundle))?;
    let mut files = std::fs::read_dir(bundle.join("keys"))?.collect::<std::io::Result<Vec<_>>>()?.into_iter().map(|f| f.path());
    let wrapped = files.find(|f| f.extension().is_some_and(|e| e == "age")).context("the bundle has an age file")?;
    for identity in [&key, &their_key] {
        let out = Command::new(&age).arg("-d").arg("-i").arg(identity).arg(&wrapped).output()?;
        ensure!(out.status.success(), "age: {}", String::from_utf8_lossy(&out.stderr));
        ensure!(out.stdout.len() == 32, "the content key has {} bytes", out.stdout.len());
    }
    let opened = folder.join("opened");
    run(peers.coffer("open")?.arg(&bundle).arg("--identity").arg(&their_key).arg("-o").arg(&opened))?;
    Ok(Outcome::Passed("age reads our key file with our identity and its own; we open with age's identity".to_owned()))
}
