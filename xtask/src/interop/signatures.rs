//! Signatures beside `model_signing`, the reference of OpenSSF Model Signing, with keys and certificates of OpenSSL's.

use super::Outcome;
use crate::{
    interop::numbers::scribe,
    peers::{Peers, output, run},
};
use anyhow::{Result, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// They verify what we signed and we what they signed, with keys on each curve and with a certificate; a changed model is
/// refused by both.
pub(crate) fn model_signing_agrees(peers: &Peers, folder: &Path) -> Result<Outcome> {
    let sides = [Side::Ours(peers), Side::Theirs(peers.python()?)];
    let model = folder.join("model");
    run(Command::new("cp").arg("-r").arg(scribe(peers)).arg(&model))?;
    fs::create_dir(model.join("more"))?;
    fs::write(model.join("more/notes"), "notes")?;
    let file = folder.join("one.gguf");
    fs::write(&file, "GGUF")?;
    let mut keys = keys(peers, folder)?;
    keys.push(certificate(folder)?);
    let mut verified = 0;
    for signer in &sides {
        for key in &keys {
            for subject in [&model, &file] {
                let signature = folder.join("sig");
                ensure!(
                    signer.sign(subject, key, &signature)?,
                    "{}: does not sign with {}",
                    signer.name(),
                    key.private.display()
                );
                for verifier in &sides {
                    let what = format!("{}, signed by {} with {}", subject.display(), signer.name(), key.private.display());
                    ensure!(verifier.verify(subject, key, &signature)?, "{} refuses {what}", verifier.name());
                    let original = flip(subject)?;
                    ensure!(!verifier.verify(subject, key, &signature)?, "{} accepts the changed {what}", verifier.name());
                    fs::write(changed(subject), original)?;
                    verified += 1;
                }
            }
        }
    }
    Ok(Outcome::Passed(format!("{verified} signatures hold, and none for the model with one byte changed")))
}

/// A private key, and what verifies its signatures.
struct Key {
    private: PathBuf,
    /// Certificates that are signed along, the key's own first.
    chain: Vec<PathBuf>,
    /// The public key, or the root certificate if there is a chain.
    trusted: PathBuf,
}

enum Side<'a> {
    Ours(&'a Peers),
    Theirs(PathBuf),
}

impl Side<'_> {
    fn name(&self) -> &'static str {
        match self {
            Self::Ours(_) => "coffer",
            Self::Theirs(_) => "model_signing",
        }
    }

    fn sign(&self, model: &Path, key: &Key, signature: &Path) -> Result<bool> {
        let mut command = match self {
            Self::Ours(peers) => {
                let mut command = peers.coffer("sign")?;
                command.arg(model).arg("--key").arg(&key.private).arg("-o").arg(signature);
                command.args(key.chain.iter().flat_map(|path| ["--certificate-chain".as_ref(), path.as_os_str()]));
                command
            }
            Self::Theirs(python) => {
                let mut command = theirs(python, "sign", key, model, signature);
                command.arg("--private_key").arg(&key.private);
                if let Some((leaf, others)) = key.chain.split_first() {
                    command.arg("--signing_certificate").arg(leaf);
                    command.args(others.iter().flat_map(|path| ["--certificate_chain".as_ref(), path.as_os_str()]));
                }
                command
            }
        };
        Ok(command.output()?.status.success())
    }

    fn verify(&self, model: &Path, key: &Key, signature: &Path) -> Result<bool> {
        let trusted = |key_flag, chain_flag| if key.chain.is_empty() { key_flag } else { chain_flag };
        let out = match self {
            Self::Ours(peers) => {
                let mut command = peers.coffer("verify")?;
                command.arg(model).arg("--signature").arg(signature);
                command.arg(trusted("--public-key", "--certificate-chain")).arg(&key.trusted).output()?
            }
            Self::Theirs(python) => {
                let mut command = theirs(python, "verify", key, model, signature);
                command.arg(trusted("--public_key", "--certificate_chain")).arg(&key.trusted).output()?
            }
        };
        let refuses = if matches!(self, Self::Ours(_)) { 3 } else { 1 };
        let code = out.status.code();
        ensure!(code == Some(0) || code == Some(refuses), "{}: {}", self.name(), String::from_utf8_lossy(&out.stderr));
        Ok(code == Some(0))
    }
}

fn theirs(python: &Path, verb: &str, key: &Key, model: &Path, signature: &Path) -> Command {
    let kind = if key.chain.is_empty() { "key" } else { "certificate" };
    let mut command = Command::new(python);
    command.args(["-m", "model_signing", verb, kind]).arg(model).arg("--signature").arg(signature);
    command
}

/// The file of `model` that is changed.
fn changed(model: &Path) -> PathBuf {
    if model.is_dir() { model.join("more/notes") } else { model.to_owned() }
}

/// Changes one bit; gives what was there.
fn flip(model: &Path) -> Result<Vec<u8>> {
    let original = fs::read(changed(model))?;
    let mut bytes = original.clone();
    bytes.iter_mut().take(1).for_each(|byte| *byte ^= 1);
    fs::write(changed(model), bytes)?;
    Ok(original)
}

/// One of ours, and one of OpenSSL's on each curve; P-256 in SEC 1.
fn keys(peers: &Peers, folder: &Path) -> Result<Vec<Key>> {
    let ours = folder.join("ours.pem");
    run(peers.coffer("keygen")?.args(["--signing", "-o"]).arg(&ours))?;
    let mut keys = vec![Key { trusted: folder.join("ours.pem.pub"), private: ours, chain: Vec::new() }];
    for curve in ["P-256", "P-384", "P-521"] {
        let key = Key { private: folder.join(curve), chain: Vec::new(), trusted: folder.join(format!("{curve}.pub")) };
        let mut make = Command::new("openssl");
        match curve {
            "P-256" => make.args(["ecparam", "-genkey", "-name", "prime256v1"]),
            _ => make.args(["genpkey", "-algorithm", "EC", "-pkeyopt", &format!("ec_paramgen_curve:{curve}")]),
        };
        output(make.arg("-out").arg(&key.private))?;
        output(Command::new("openssl").args(["pkey", "-pubout", "-in"]).arg(&key.private).arg("-out").arg(&key.trusted))?;
        keys.push(key);
    }
    Ok(keys)
}

/// A root, an authority below it, and a signing certificate below that.
fn certificate(folder: &Path) -> Result<Key> {
    let authority = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\nsubjectKeyIdentifier=hash\n";
    let signer = "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n";
    let mut issuer: Option<&str> = None;
    for (name, extensions) in [("root", authority), ("middle", authority), ("signer", signer)] {
        let at = |ending: &str| folder.join(format!("{name}.{ending}"));
        fs::write(at("ext"), extensions)?;
        let mut request = Command::new("openssl");
        request.args(["req", "-new", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384", "-subj"]);
        output(request.arg(format!("/CN={name}")).arg("-keyout").arg(at("key")).arg("-out").arg(at("csr")))?;
        let mut sign = Command::new("openssl");
        sign.args(["x509", "-req", "-days", "2", "-in"]).arg(at("csr")).arg("-extfile").arg(at("ext")).arg("-out").arg(at("pem"));
        match issuer {
            None => sign.arg("-signkey").arg(at("key")),
            Some(by) => sign
                .args(["-CAcreateserial", "-CA"])
                .arg(folder.join(format!("{by}.pem")))
                .arg("-CAkey")
                .arg(folder.join(format!("{by}.key"))),
        };
        output(&mut sign)?;
        issuer = Some(name);
    }
    let pem = |name: &str| folder.join(format!("{name}.pem"));
    Ok(Key { private: folder.join("signer.key"), chain: vec![pem("signer"), pem("middle")], trusted: pem("root") })
}
