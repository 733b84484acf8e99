//! Sealing and opening 2.2 GB beside age and beside a copy that is on the disk when it is done, as a bundle is.

use super::{
    Row,
    machine::{Spent, cache, ready, remove, watch},
    rotate, sealed, synthetic,
};
use crate::peers::{Peers, output};
use anyhow::Result;
use std::{
    cell::Cell,
    path::{Path, PathBuf},
    process::Command,
};

/// Megabytes that sealing and opening may take, whatever the model's size.
const MEMORY: f64 = 200.0;

/// Everything about sealing.
pub(super) fn rows(peers: &Peers, repeat: usize) -> Result<Vec<Row>> {
    let Some(model) = synthetic(peers)? else { return Ok(Vec::new()) };
    let weights = model.join("model.safetensors");
    let mut rows = vec![sealed::in_memory(peers, repeat)?];
    let folder = tempfile::tempdir_in(peers.cache())?;
    let files = Files::new(peers, folder.path(), &weights)?;
    rows.extend(files.rows(repeat)?);
    rows.push(sealed::first_tensor(repeat, &files.bundle, &files.key)?);
    drop((files, folder));
    rows.extend(sealed::first_tokens(peers, repeat, &model)?);
    Ok(rows)
}

/// The weights, and what is made of them.
struct Files<'a> {
    peers: &'a Peers,
    age: PathBuf,
    recipient: String,
    weights: &'a Path,
    size: u64,
    key: PathBuf,
    bundle: PathBuf,
    opened: PathBuf,
    encrypted: PathBuf,
    decrypted: PathBuf,
    copy: PathBuf,
}

impl<'a> Files<'a> {
    fn new(peers: &'a Peers, folder: &Path, weights: &'a Path) -> Result<Self> {
        let at = |name: &str| folder.join(name);
        let key = at("key");
        let recipient = output(peers.coffer("keygen")?.arg("-o").arg(&key))?.trim().to_owned();
        let (bundle, opened, encrypted, decrypted, copy) = (at("bundle"), at("opened"), at("age"), at("decrypted"), at("copy"));
        let (age, size) = (peers.debian("age")?, weights.metadata()?.len());
        Ok(Self { peers, age, recipient, weights, size, key, bundle, opened, encrypted, decrypted, copy })
    }

    fn rows(&self, repeat: usize) -> Result<Vec<Row>> {
        let (sealing, opening) = (Cell::new(0.0), Cell::new(0.0));
        let noted = |most: &Cell<f64>, spent: Spent| {
            most.set(f64::max(most.get(), spent.peak));
            spent.seconds
        };
        let [seal, encrypt, copy] = rotate(
            repeat,
            [&mut || Ok(noted(&sealing, self.seal()?)), &mut || Ok(self.encrypt()?.seconds), &mut || self.copy()],
        )?;
        remove(&self.copy)?;
        let [open, decrypt, again] = rotate(
            repeat,
            [&mut || Ok(noted(&opening, self.open()?)), &mut || Ok(self.decrypt()?.seconds), &mut || self.copy()],
        )?;
        Ok(vec![
            Row::cost("seal 2.2 GB, peer age", seal, encrypt, "s").aim(1.0),
            Row::cost("seal 2.2 GB, peer cp and sync", seal, copy, "s").at_most(1.2),
            Row::cost("open 2.2 GB, peer age", open, decrypt, "s").aim(1.0),
            Row::cost("open 2.2 GB, peer cp and sync", open, again, "s").at_most(1.2),
            Row::cost("peak memory of seal, beside the limit", sealing.get(), MEMORY, "MB").aim(1.0),
            Row::cost("peak memory of open, beside the limit", opening.get(), MEMORY, "MB").aim(1.0),
        ])
    }

    fn seal(&self) -> Result<Spent> {
        let mut seal = self.peers.coffer("seal")?;
        self.run(&self.bundle, self.weights, seal.arg(self.weights).args(["-r", &self.recipient, "-o"]).arg(&self.bundle))
    }

    fn open(&self) -> Result<Spent> {
        let mut open = self.peers.coffer("open")?;
        open.arg(&self.bundle).arg("--identity").arg(&self.key).arg("-o").arg(&self.opened);
        self.run(&self.opened, &self.bundle.join("data"), &mut open)
    }

    fn encrypt(&self) -> Result<Spent> {
        let mut age = Command::new(&self.age);
        age.args(["-r", &self.recipient, "-o"]).arg(&self.encrypted).arg(self.weights);
        self.run(&self.encrypted, self.weights, &mut age)
    }

    fn decrypt(&self) -> Result<Spent> {
        let mut age = Command::new(&self.age);
        age.args(["-d", "-i"]).arg(&self.key).arg("-o").arg(&self.decrypted).arg(&self.encrypted);
        self.run(&self.decrypted, &self.encrypted, &mut age)
    }

    fn copy(&self) -> Result<f64> {
        let copied = self.run(&self.copy, self.weights, Command::new("cp").arg(self.weights).arg(&self.copy))?;
        Ok(copied.seconds + watch(Command::new("sync").arg(&self.copy))?.seconds)
    }

    /// A command that makes `out` from `source`.
    fn run(&self, out: &Path, source: &Path, command: &mut Command) -> Result<Spent> {
        remove(out)?;
        cache(source)?;
        ready(self.size * 5 / 2)?;
        watch(command)
    }
}
