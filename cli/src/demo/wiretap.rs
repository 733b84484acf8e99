//! An eavesdropper on loopback: relays connections to a server and keeps a copy of every byte that passes.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// A running relay. Its threads end with the process.
pub(crate) struct Wiretap {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

/// What passed, in the order of arrival.
#[derive(Clone, Default)]
pub(crate) struct Seen {
    /// From clients to the server.
    pub(crate) requests: Vec<u8>,
    /// From the server to clients.
    pub(crate) answers: Vec<u8>,
}

impl Wiretap {
    /// Listens on a free loopback port and relays to `server`.
    pub(crate) fn start(server: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let record = Arc::clone(&seen);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(upstream) = TcpStream::connect(server) else { continue };
                relay(&client, &upstream, &record, |seen| &mut seen.requests);
                relay(&upstream, &client, &record, |seen| &mut seen.answers);
            }
        });
        Ok(Self { address, seen })
    }

    /// Address that clients connect to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A copy of what passed so far.
    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().map(|seen| seen.clone()).unwrap_or_default()
    }
}

/// Copies one direction on a thread of its own.
fn relay(from: &TcpStream, to: &TcpStream, record: &Arc<Mutex<Seen>>, side: fn(&mut Seen) -> &mut Vec<u8>) {
    let (Ok(mut from), Ok(mut to)) = (from.try_clone(), to.try_clone()) else { return };
    let record = Arc::clone(record);
    thread::spawn(move || {
        let mut buffer = [0; 16 << 10];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            if let Ok(mut seen) = record.lock() {
                side(&mut seen).extend_from_slice(&buffer[..n]);
            }
            if to.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        // The other side may already be gone.
        let _ = to.shutdown(Shutdown::Write);
    });
}
