//! Bundles in an object store: moto's S3 server, boto3 as the other client.

use super::Outcome;
use crate::{
    interop::numbers::scribe,
    peers::{Peers, output, run},
    wiretap::Wiretap,
};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Bytes of the bundle whose push is killed: 24 parts.
const BIG: usize = 200 << 20;

/// Pushes bundles, one killed in the middle and resumed; reads them where they lie; and has one flipped byte refused.
pub(crate) fn s3(peers: &Peers, folder: &Path) -> Result<Outcome> {
    let store = Store::start(peers)?;
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
    run(&mut coffer("push", &[&small, "s3://models/small"])?)?;
    let say = ["-i", &key, "--prompt", "The old house stood", "-n", "20", "--seed", "5"];
    let said = |model: &str| output(coffer("generate", &[model])?.args(say));
    let (there, here) = (said("s3://models/small")?, said(&small)?);
    ensure!(there == here, "from the store: {there:?}, from the disk: {here:?}");
    run(&mut coffer("open", &["s3://models/small", "-i", &key, "-o", &opened])?)?;
    for entry in fs::read_dir(scribe(peers))? {
        let path = entry?.path();
        let name = path.file_name().context("a file has a name")?;
        ensure!(fs::read(&path)? == fs::read(Path::new(&opened).join(name))?, "{name:?} came back otherwise");
    }

    let model = folder.join("model.bin");
    fs::write(&model, (0..BIG as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect::<Vec<_>>())?;
    seal(&model, &big)?;
    let push = || coffer("push", &[&big, "s3://models/big"]);
    kill_in_the_middle(push()?, &folder.join("big.push"))?;
    refused(&mut coffer("inspect", &["s3://models/big", "-i", &key])?)?;
    let told = push()?.output()?;
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    let sent = told.split_whitespace().filter_map(|word| word.parse::<usize>().ok()).next_back();
    let sent = sent.filter(|sent| *sent < BIG).with_context(|| format!("the second run should send what is missing: {told}"))?;

    let tap = Wiretap::start(store.address)?;
    run(store.choose(&mut peers.coffer("inspect")?, tap.address()).args(["s3://models/big", "-i", &key]))?;
    let read = tap.seen().answers.len();
    ensure!(read < 8 << 20, "inspect fetched {read} bytes of a bundle of {BIG}");

    store.python(peers, &["flip", "big/data", &(BIG / 2).to_string()])?;
    refused(&mut coffer("open", &["s3://models/big", "-i", &key, "-o", &at("flipped")])?)?;
    ensure!(!folder.join("flipped").exists(), "something was made of a changed bundle");
    refused(&mut coffer("inspect", &["s3://models/absent", "-i", &key])?)?;
    refused(&mut coffer("inspect", &["s3://nobody/small", "-i", &key])?)?;
    Ok(Outcome::Passed(format!(
        "pushed, run and opened in place; a push killed in the middle sent {sent} of {BIG} bytes when run again; inspect fetched {read}; \
         a flipped byte, an absent bundle and an absent bucket are refused"
    )))
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

fn refused(command: &mut Command) -> Result<()> {
    let out = command.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(matches!(out.status.code(), Some(1 | 3)), "{command:?} ended with {}: {said}", out.status);
    ensure!(!said.contains(SECRET), "the secret key is in a message: {said}");
    Ok(())
}

const SECRET: &str = "interop-secret-key";

/// A running S3 server with a bucket `models`.
struct Store {
    child: Child,
    address: SocketAddr,
}

impl Store {
    fn start(peers: &Peers) -> Result<Self> {
        // Free a moment ago; the server takes no listener.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut server = Command::new(peers.python()?);
        server.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &address.port().to_string()]);
        let child = server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let store = Self { child, address };
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(address).is_err() {
            ensure!(Instant::now() < deadline, "moto's server does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        store.python(peers, &["create"])?;
        Ok(store)
    }

    /// Has `command` see the store at `address`.
    fn choose<'a>(&self, command: &'a mut Command, address: SocketAddr) -> &'a mut Command {
        command
            .env("AWS_ENDPOINT_URL", format!("http://{address}"))
            .env("AWS_ACCESS_KEY_ID", "interop")
            .env("AWS_SECRET_ACCESS_KEY", SECRET)
            .env("AWS_REGION", "us-east-1")
    }

    /// What boto3 does to it.
    fn python(&self, peers: &Peers, arguments: &[&str]) -> Result<()> {
        let mut python = Command::new(peers.python()?);
        run(self.choose(python.arg(peers.script("s3.py")).args(arguments), self.address))
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
