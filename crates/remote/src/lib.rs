//! Models and bundles in object stores and on web servers: read by range, written by multipart.
//!
//! The second asynchronous crate besides the server, because `object_store` is; its face is blocking. Credentials come from the
//! environment variables of `object_store` alone; a URL that carries any is refused, and messages are cleaned of what could be one.

mod address;
mod error;
mod file;
mod place;
mod push;
#[cfg(test)]
mod tests;

pub use error::{Failure, RemoteError};
pub use push::{Pushed, push};

use std::{
    io,
    sync::{Arc, OnceLock},
};
use tokio::runtime::{Builder, Runtime};

/// From here on, `coffer_seal::place` opens `s3://`, `gs://`, `az://`, `https://` and, on this machine itself, `http://`.
pub fn register() {
    coffer_seal::place::register(|url| {
        let place = place::Remote::open(url).map_err(RemoteError::into_io)?;
        Ok(Arc::new(place) as Arc<dyn coffer_seal::place::Place>)
    });
}

/// Where all requests run: one thread, started with the first of them, that keeps connections alive between calls.
fn runtime() -> io::Result<&'static Runtime> {
    static RUNTIME: OnceLock<Result<Runtime, io::ErrorKind>> = OnceLock::new();
    let start = || Builder::new_multi_thread().worker_threads(1).thread_name("remote").enable_all().build();
    RUNTIME.get_or_init(|| start().map_err(|e| e.kind())).as_ref().map_err(|kind| (*kind).into())
}
