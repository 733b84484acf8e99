//! A running llama-server.

use crate::peers::Peers;
use anyhow::{Result, ensure};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

/// It ends when this is dropped.
pub(crate) struct LlamaServer {
    child: Child,
    address: SocketAddr,
}

impl LlamaServer {
    /// Serves `model` on a free port with two threads and `arguments`; returns once it can answer.
    pub(crate) fn start(peers: &Peers, model: &Path, arguments: &[&str]) -> Result<Self> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = Command::new(peers.llama("llama-server")?);
        command.arg("-m").arg(model).args(["-t", "2", "--host", "127.0.0.1", "--port", &address.port().to_string()]);
        let child = command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let mut server = Self { child, address };
        while !server.healthy() {
            let ended = server.child.try_wait()?;
            ensure!(ended.is_none(), "{command:?} ended with {ended:?}");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// `http://127.0.0.1:PORT`
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn healthy(&self) -> bool {
        let ask = || {
            let mut stream = TcpStream::connect(self.address)?;
            stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map(|_| answer)
        };
        ask().is_ok_and(|answer| answer.split(' ').nth(1) == Some("200"))
    }
}

impl Drop for LlamaServer {
    fn drop(&mut self) {
        // One that is already gone needs no killing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
