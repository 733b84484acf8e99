//! Bundles at a distance: in moto's S3 server and Azurite, with another client beside, and on a web server that speaks TLS.

use super::Outcome;
use crate::{
    interop::{clients::node, exec::Sealed, numbers::scribe},
    peer_server::{PeerServer, free_address},
    peers::{Peers, output, run},
    wiretap::Wiretap,
};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Bytes of the bundle whose push is killed: 24 parts.
const BIG: usize = 200 << 20;

/// How every key of an identity begins.
const A_KEY: &str = "AGE-SECRET-KEY-";
const AWS_SECRET: &str = "interop-secret-key";
/// Azurite's own, the same everywhere and no secret; a message must not show it all the same.
/// (<https://learn.microsoft.com/azure/storage/common/storage-use-azurite>)
const AZURITE_ACCOUNT: &str = "devstoreaccount1";
const AZURITE_SECRET: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
/// A sentence of the demo's model, the same each time.
const SAY: [&str; 6] = ["--prompt", "The old house stood", "-n", "20", "--seed", "5"];

/// A bucket of moto's S3 server, which boto3 changes.
pub(crate) fn s3(peers: &Peers, folder: &Path) -> Result<Outcome> {
    in_a_store(peers, folder, &Store::moto(peers)?)
}

/// A container of Azurite, which Azure's own client changes.
pub(crate) fn azure(peers: &Peers, folder: &Path) -> Result<Outcome> {
    in_a_store(peers, folder, &Store::azurite(peers, folder)?)
}

/// Pushes bundles, one killed in the middle and resumed; reads them where they lie; and has one flipped byte refused.
fn in_a_store(peers: &Peers, folder: &Path, store: &Store) -> Result<Outcome> {
    let url = |name: &str| format!("{}://models/{name}", store.scheme);
    let [small_url, big_url, absent, nobody] =
        [url("small"), url("big"), url("absent"), format!("{}://nobody/small", store.scheme)];
    let refused = |command: &mut Command| refused(command, store.secret);
    let at = |name: &str| folder.join(name).display().to_string();
    let [key, small, big, opened] = ["key", "small", "big", "opened"].map(at);
    let recipient = output(peers.coffer("keygen")?.args(["-o", &key]))?;
    let seal = |model: &Path, out: &str| run(peers.coffer("seal")?.arg(model).args(["-r", recipient.trim(), "-o", out]));
    let coffer = |command: &str, arguments: &[&str]| -> Result<Command> {
        let mut coffer = peers.coffer(command)?;
        store.choose(&mut coffer, store.address).args(arguments);
        Ok(coffer)
    };

    seal(&scribe(peers), &small)?;
    run(&mut coffer("push", &[&small, &small_url])?)?;
    let said = |model: &str| output(coffer("generate", &[model, "-i", &key])?.args(SAY));
    let (there, here) = (said(&small_url)?, said(&small)?);
    ensure!(there == here, "from the store: {there:?}, from the disk: {here:?}");
    run(&mut coffer("open", &[&small_url, "-i", &key, "-o", &opened])?)?;
    for entry in fs::read_dir(scribe(peers))? {
        let path = entry?.path();
        let name = path.file_name().context("a file has a name")?;
        ensure!(fs::read(&path)? == fs::read(Path::new(&opened).join(name))?, "{name:?} came back otherwise");
    }

    let model = folder.join("model.bin");
    fs::write(&model, (0..BIG as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect::<Vec<_>>())?;
    seal(&model, &big)?;
    let push = || coffer("push", &[&big, &big_url]);
    kill_in_the_middle(push()?, &folder.join("big.push"))?;
    refused(&mut coffer("inspect", &[&big_url, "-i", &key])?)?;
    let told = push()?.output()?;
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    let sent = told.split_whitespace().filter_map(|word| word.parse::<usize>().ok()).next_back();
    let sent = sent.filter(|sent| *sent < BIG).with_context(|| format!("the second run should send what is missing: {told}"))?;

    let tap = Wiretap::start(store.address)?;
    run(store.choose(&mut peers.coffer("inspect")?, tap.address()).args([&big_url, "-i", &key]))?;
    let read = tap.seen().answers.len();
    ensure!(read < 8 << 20, "inspect fetched {read} bytes of a bundle of {BIG}");

    store.change(peers, &["flip", "big/data", &(BIG / 2).to_string()])?;
    refused(&mut coffer("open", &[&big_url, "-i", &key, "-o", &at("flipped")])?)?;
    ensure!(!folder.join("flipped").exists(), "something was made of a changed bundle");
    refused(&mut coffer("inspect", &[&absent, "-i", &key])?)?;
    refused(&mut coffer("inspect", &[&nobody, "-i", &key])?)?;
    Ok(Outcome::Passed(format!(
        "pushed, run and opened in place; a push killed in the middle sent {sent} of {BIG} bytes when run again; inspect fetched {read}; \
         a flipped byte, an absent bundle and an absent bucket are refused"
    )))
}

/// Reads a bundle from a web server by ranges, over TLS; a server whose certificate nobody vouches for is refused.
pub(crate) fn web(peers: &Peers, folder: &Path) -> Result<Outcome> {
    let sealed = Sealed::new(peers, &scribe(peers), folder)?;
    let [certificate, key] = ["tls.crt", "tls.key"].map(|name| folder.join(name));
    let subject = ["-subj", "/CN=coffer.test", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"];
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]);
    openssl.args(subject).args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    run(openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate))?;
    let address = free_address()?;
    let mut server = Command::new(peers.node()?.join("node_modules/.bin/http-server"));
    server.arg(folder).args(["-s", "-S", "-a", "127.0.0.1", "-p", &address.port().to_string()]);
    let _server = PeerServer::start(server.arg("-C").arg(&certificate).arg("-K").arg(&key), address)?;

    let url = format!("https://localhost:{}/bundle", address.port());
    let coffer = |command: &str, model: &Path| -> Result<Command> {
        let mut coffer = peers.coffer(command)?;
        coffer.arg(model).arg("--identity").arg(&sealed.key).env("SSL_CERT_FILE", &certificate);
        Ok(coffer)
    };
    let said = |model: &Path| output(coffer("generate", model)?.args(SAY));
    let (there, here) = (said(url.as_ref())?, said(&sealed.bundle)?);
    ensure!(there == here, "from the web server: {there:?}, from the disk: {here:?}");
    refused(coffer("inspect", url.as_ref())?.env_remove("SSL_CERT_FILE"), A_KEY)?;
    refused(&mut coffer("inspect", format!("{url}-absent").as_ref())?, A_KEY)?;
    Ok(Outcome::Passed("run in place over TLS; an unknown certificate and an absent bundle are refused".into()))
}

/// Kills a push once some parts are there.
fn kill_in_the_middle(mut push: Command, state: &Path) -> Result<()> {
    let mut child = push.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if parts_sent(state) > 4 {
            child.kill()?;
            ensure!(child.wait()?.code().is_none(), "the push ended before it was killed");
            return Ok(());
        }
        if child.try_wait()?.is_some() || Instant::now() > deadline {
            bail!("the push could not be caught in the middle");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Parts that a push has noted as sent in its file `state`.
fn parts_sent(state: &Path) -> usize {
    let state: Option<Value> = fs::read(state).ok().and_then(|json| serde_json::from_slice(&json).ok());
    let done = state.as_ref().and_then(|state| state["done"].as_array());
    done.map_or(0, |parts| parts.iter().filter(|part| !part.is_null()).count())
}

/// The command fails, and does not tell `secret`.
fn refused(command: &mut Command, secret: &str) -> Result<()> {
    let out = command.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(matches!(out.status.code(), Some(1 | 3)), "{command:?} ended with {}: {said}", out.status);
    ensure!(!said.contains(secret), "the secret key is in a message: {said}");
    Ok(())
}

/// A running store with a bucket, or container, `models`.
struct Store {
    _server: PeerServer,
    address: SocketAddr,
    scheme: &'static str,
    secret: &'static str,
    /// What has a command see the store at an address.
    environment: fn(SocketAddr) -> Vec<(&'static str, String)>,
    /// Another client: makes the bucket (`create`), or flips a bit of an object (`flip NAME AT`).
    client: fn(&Self, &Peers, &[&str]) -> Result<()>,
}

impl Store {
    fn moto(peers: &Peers) -> Result<Self> {
        let address = free_address()?;
        let mut server = Command::new(peers.python()?);
        server.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &address.port().to_string()]);
        let store = Self {
            _server: PeerServer::start(&mut server, address)?,
            address,
            scheme: "s3",
            secret: AWS_SECRET,
            environment: |address| {
                let endpoint = format!("http://{address}");
                let named =
                    [("AWS_ACCESS_KEY_ID", "interop"), ("AWS_SECRET_ACCESS_KEY", AWS_SECRET), ("AWS_REGION", "us-east-1")];
                named.into_iter().map(|(name, value)| (name, value.to_owned())).chain([("AWS_ENDPOINT_URL", endpoint)]).collect()
            },
            client: |store, peers, arguments| {
                let mut python = Command::new(peers.python()?);
                run(store.choose(python.arg(peers.script("s3.py")).args(arguments), store.address))
            },
        };
        store.change(peers, &["create"])?;
        Ok(store)
    }

    fn azurite(peers: &Peers, folder: &Path) -> Result<Self> {
        let address = free_address()?;
        let mut server = Command::new(peers.node()?.join("node_modules/.bin/azurite-blob"));
        server.args(["--silent", "--skipApiVersionCheck", "--blobHost", "127.0.0.1", "--blobPort", &address.port().to_string()]);
        let store = Self {
            _server: PeerServer::start(server.arg("--location").arg(folder.join("azurite")), address)?,
            address,
            scheme: "az",
            secret: AZURITE_SECRET,
            environment: |address| {
                let endpoint = format!("http://{address}");
                vec![("AZURE_STORAGE_USE_EMULATOR", "true".to_owned()), ("AZURITE_BLOB_STORAGE_URL", endpoint)]
            },
            client: |store, peers, arguments| {
                let endpoint = format!("http://{}/{AZURITE_ACCOUNT}", store.address);
                let account = [endpoint.as_str(), AZURITE_ACCOUNT, AZURITE_SECRET];
                node(peers, "azure.mjs", &[&account, arguments].concat()).map(drop)
            },
        };
        store.change(peers, &["create"])?;
        Ok(store)
    }

    /// Has `command` see the store at `address`.
    fn choose<'a>(&self, command: &'a mut Command, address: SocketAddr) -> &'a mut Command {
        command.envs((self.environment)(address))
    }

    /// What another client does to it.
    fn change(&self, peers: &Peers, arguments: &[&str]) -> Result<()> {
        (self.client)(self, peers, arguments)
    }
}
