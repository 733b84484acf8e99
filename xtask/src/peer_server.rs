//! A running server of a peer.

use crate::peers::Peers;
use anyhow::{Result, ensure};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How long one may take to be ready.
const PATIENCE: Duration = Duration::from_secs(300);

/// It ends when this is dropped.
pub(crate) struct PeerServer {
    child: Child,
    address: SocketAddr,
}

impl PeerServer {
    /// Runs `command` until it listens at `address`, one that it was told.
    pub(crate) fn start(command: &mut Command, address: SocketAddr) -> Result<Self> {
        Self::run(command, address, |address| TcpStream::connect(address).is_ok())
    }

    /// llama-server with `model` on a free port, two threads and `arguments`, until it can answer.
    pub(crate) fn llama(peers: &Peers, model: &Path, arguments: &[&str]) -> Result<Self> {
        let address = free_address()?;
        let mut command = Command::new(peers.llama("llama-server")?);
        command.arg("-m").arg(model).args(["-t", "2", "--host", "127.0.0.1", "--port", &address.port().to_string()]);
        Self::run(command.args(arguments), address, healthy)
    }

    fn run(command: &mut Command, address: SocketAddr, ready: fn(SocketAddr) -> bool) -> Result<Self> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let mut server = Self { child, address };
        let deadline = Instant::now() + PATIENCE;
        while !ready(address) {
            let ended = server.child.try_wait()?;
            ensure!(ended.is_none(), "{command:?} ended with {ended:?}");
            ensure!(Instant::now() < deadline, "{command:?} is not ready after {} s", PATIENCE.as_secs());
            thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// `http://127.0.0.1:PORT`
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for PeerServer {
    fn drop(&mut self) {
        // One that is already gone needs no killing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Free a moment ago: peers take no listener.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn healthy(address: SocketAddr) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    };
    ask().is_ok_and(|answer| answer.split(' ').nth(1) == Some("200"))
}
