//! Starting and stopping a server.

use crate::{
    api,
    app::App,
    config::{Config, Limits},
    connection,
    keys::KeyError,
};
use axum::Router;
use std::{io, net::SocketAddr, sync::Arc, thread, time::Duration};
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    sync::{Semaphore, oneshot, watch},
    task::JoinSet,
    time::timeout,
};

/// Time between two rounds of bookkeeping for the metrics.
const UPKEEP: Duration = Duration::from_secs(5);
/// Wait after a failed `accept`: most often there are too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A running server. Dropping it stops it.
pub struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

/// Starts a server on `listener`. Returns when it accepts connections; it answers from threads of its own.
pub fn start(listener: std::net::TcpListener, config: Config) -> Result<Server, ServeError> {
    let address = listener.local_addr().map_err(ServeError::Listen)?;
    listener.set_nonblocking(true).map_err(ServeError::Listen)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("coffer-server")
        .enable_all()
        .build()
        .map_err(ServeError::Runtime)?;
    let model = config.model.name.clone();
    let (listener, app) = runtime.block_on(async {
        let listener = TcpListener::from_std(listener).map_err(ServeError::Listen)?;
        Ok::<_, ServeError>((listener, App::new(config).await?))
    })?;
    let (stop, stopped) = oneshot::channel();
    let thread = thread::Builder::new()
        .name("coffer-server".into())
        .spawn(move || serve_until(&runtime, listener, &app, stopped))
        .map_err(ServeError::Runtime)?;
    tracing::info!(%address, model, "serving");
    Ok(Server { address, stop: Some(stop), thread: Some(thread) })
}

impl Server {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops: no new connections, running answers may finish within the grace, then they are cut. Returns when all is done.
    pub fn stop(mut self) {
        self.end();
    }

    /// Serves until the process is asked to end (Ctrl-C, or SIGTERM), then stops.
    pub fn run_until_signal(self) -> Result<(), ServeError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ServeError::Runtime)?;
        runtime.block_on(signal()).map_err(ServeError::Runtime)?;
        self.stop();
        Ok(())
    }

    fn end(&mut self) {
        if let Some(stop) = self.stop.take() {
            // It fails only if the thread ended already.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the server's thread panicked");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The listener cannot be used.
    #[error("listening: {0}")]
    Listen(io::Error),
    /// No threads, or no signals.
    #[error("server: {0}")]
    Runtime(io::Error),
    /// The key database.
    #[error(transparent)]
    Keys(#[from] KeyError),
}

fn serve_until(runtime: &Runtime, listener: TcpListener, app: &Arc<App>, stopped: oneshot::Receiver<()>) {
    runtime.block_on(async {
        let (stop, stopping) = watch::channel(false);
        let mut connections = JoinSet::new();
        tokio::select! {
            () = accept(&listener, api::router(app), &app.limits, &mut connections, &stopping) => {}
            () = upkeep(app) => {}
            _ = stopped => {}
        }
        drop(listener);
        tracing::info!(connections = connections.len(), "stopping");
        // Nobody listens if there are no connections.
        let _ = stop.send(true);
        let all = async { while connections.join_next().await.is_some() {} };
        if timeout(app.limits.shutdown_grace, all).await.is_err() {
            tracing::warn!(connections = connections.len(), "answers cut at the end of the grace");
            connections.shutdown().await;
        }
    });
    app.scheduler.shutdown();
    tracing::info!("stopped");
}

async fn accept(
    listener: &TcpListener,
    router: Router,
    limits: &Limits,
    connections: &mut JoinSet<()>,
    stopping: &watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(limits.connections.max(1)));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Tokens are small and late ones annoy; a refusal only costs speed.
        let _ = stream.set_nodelay(true);
        while connections.try_join_next().is_some() {}
        let (router, limits, stopping) = (router.clone(), limits.clone(), stopping.clone());
        connections.spawn(async move {
            connection::serve(stream, router, &limits, stopping).await;
            drop(place);
        });
    }
}

async fn upkeep(app: &App) {
    let mut clock = tokio::time::interval(UPKEEP);
    loop {
        clock.tick().await;
        app.metrics.upkeep();
    }
}

async fn signal() -> io::Result<()> {
    #[cfg(unix)]
    {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            ended = tokio::signal::ctrl_c() => ended,
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}
