//! One connection: HTTP/1.1 with time limits, and a polite end when the server stops.

use crate::{config::Limits, stall::StallGuard};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};

/// Serves `stream` until the client leaves. Once `stop` turns true the request in hand is finished and no other is taken.
pub(crate) async fn serve<S>(stream: S, router: Router, limits: &Limits, mut stop: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(StallGuard::new(stream, limits.stall_timeout));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .serve_connection(io, TowerToHyperService::new(router));
    tokio::pin!(connection);
    let stopped = async {
        // An error means that the server is gone, which is a stop as well.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{body::Body, routing::get};
    use bytes::Bytes;
    use futures_util::stream;
    use std::{convert::Infallible, sync::Arc, time::Duration};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        time::{Instant, timeout},
    };

    /// A route without end that holds `alive` as long as it runs.
    fn endless(alive: Arc<()>) -> Router {
        let body = move || {
            let alive = Arc::clone(&alive);
            async move {
                Body::from_stream(stream::repeat_with(move || {
                    let _ = &alive;
                    Ok::<_, Infallible>(Bytes::from_static(b"more"))
                }))
            }
        };
        Router::new().route("/", get(body))
    }

    #[tokio::test]
    async fn a_client_that_stops_reading_is_dropped() {
        let limits = Limits { stall_timeout: Duration::from_millis(100), ..Limits::default() };
        let alive = Arc::new(());
        let (mut client, server) = duplex(1024);
        let (_stop, stopping) = watch::channel(false);
        let router = endless(Arc::clone(&alive));
        let serving = tokio::spawn(async move { serve(server, router, &limits, stopping).await });
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut some = [0; 256];
        let start = Instant::now();
        // A slow reader is served for longer than the limit ...
        while start.elapsed() < Duration::from_millis(300) {
            client.read_exact(&mut some).await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // ... and one that reads nothing is not.
        timeout(Duration::from_secs(5), serving).await.unwrap().unwrap();
        assert_eq!(Arc::strong_count(&alive), 1, "the answer's state is gone");
    }
}
