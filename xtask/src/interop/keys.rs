//! Key files beside Debian's age.

use super::Outcome;
use crate::{
    interop::{clients::node, numbers::scribe},
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

/// npm's age-encryption opens our post-quantum key file, with our identity and its own, and we open the one that it writes.
pub(crate) fn age_encryption_post_quantum(peers: &Peers, folder: &Path) -> Result<Outcome> {
    let (key, bundle, their_key) = (folder.join("key"), folder.join("bundle"), folder.join("their-key"));
    let ours = output(peers.coffer("keygen")?.args(["--post-quantum", "-o"]).arg(&key))?;
    let theirs = node(peers, "age_hybrid.mjs", &[])?;
    let (identity, recipient) = theirs.split_once('\n').context("an identity and a recipient")?;
    std::fs::write(&their_key, identity)?;
    let recipients = ["--recipient", ours.trim(), "--recipient", recipient, "-o"];
    run(peers.coffer("seal")?.arg(scribe(peers)).args(recipients).arg(&bundle))?;
    let our_key = std::fs::read_to_string(&key)?;
    let our_identity = our_key.lines().find(|line| !line.starts_with('#')).context("an identity")?;
    let said = node(peers, "age_hybrid.mjs", &[bundle.to_str().context("a path in UTF-8")?, our_identity, identity])?;
    for (at, identity) in [&key, &their_key].into_iter().enumerate() {
        run(peers.coffer("open")?.arg(&bundle).arg("--identity").arg(identity).arg("-o").arg(folder.join(at.to_string())))?;
    }
    Ok(Outcome::Passed(said))
}

/// A bundle sealed to an RSA public key in PEM: `age` opens its key file with the private key that `openssl` wrote, as we do.
pub(crate) fn age_opens_for_rsa_in_pem(peers: &Peers, folder: &Path) -> Result<Outcome> {
    let (age, openssl) = (peers.debian("age")?, peers.debian("openssl")?);
    let mut sizes = Vec::new();
    for bits in ["2048", "3072", "4096"] {
        let [private, public, bundle, out] =
            ["private", "public", "bundle", "out"].map(|name| folder.join(format!("{name}{bits}")));
        let size = format!("rsa_keygen_bits:{bits}");
        run(Command::new(&openssl).args(["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", &size, "-out"]).arg(&private))?;
        run(Command::new(&openssl).args(["pkey", "-pubout", "-in"]).arg(&private).arg("-out").arg(&public))?;
        run(peers.coffer("seal")?.arg(scribe(peers)).arg("-R").arg(&public).arg("-o").arg(&bundle))?;
        let opened = Command::new(&age).arg("-d").arg("-i").arg(&private).arg(bundle.join("keys/ssh.age")).output()?;
        ensure!(opened.stdout.len() == 32, "age: {}", String::from_utf8_lossy(&opened.stderr));
        run(peers.coffer("open")?.arg(&bundle).arg("--identity").arg(&private).arg("-o").arg(&out))?;
        sizes.push(bits);
    }
    Ok(Outcome::Passed(format!("RSA keys in PEM of {} bits: age and we open with the PKCS#8 file", sizes.join(", "))))
}
