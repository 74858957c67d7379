//! Accepts connections and bounds them.
//!
//! A connection serves one request within 10 s, or one stream of events within a minute. Streams have places of their own,
//! so that people who look at the status page cannot take a place from a probe.

use std::{
    collections::VecDeque,
    future::Future,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// Most connections at once, streams not included. A process has 1,024 descriptors by default, and the calls to AWS need most
/// of them.
const MAX_CONNECTIONS: usize = 64;
/// Longest life of a connection. By default, the kubelet gives a probe 1 s and Prometheus gives a scrape 10 s.
const LONGEST_CONNECTION: Duration = Duration::from_secs(10);
/// Most streams at once.
pub(super) const MAX_STREAMS: usize = 8;
/// Longest life of a stream. A browser opens the next one by itself.
const LONGEST_STREAM: Duration = Duration::from_secs(60);
/// Largest head of a request in bytes; hyper allows no smaller limit.
const MAX_HEAD: usize = 8192;
/// Pause after a connection could not be accepted. Usually no file descriptor is free, and another connection must close first.
const NO_DESCRIPTOR: Duration = Duration::from_millis(100);

/// A connection, as its request's handler sees it.
#[derive(Clone, Debug)]
pub(super) struct Connection(Arc<State>);

#[derive(Debug)]
struct State {
    counted_as: Mutex<CountedAs>,
    streams: Arc<Semaphore>,
    closing: CancellationToken,
}

/// What the connection counts as.
#[derive(Debug)]
enum CountedAs {
    Request { _permit: OwnedSemaphorePermit },
    Stream { _permit: OwnedSemaphorePermit },
}

impl Connection {
    /// Makes the connection a stream, which lasts for a minute and makes room for another connection. Returns the token
    /// that tells when the stream must end, or `None` if there are too many streams.
    pub(super) fn become_stream(&self) -> Option<CancellationToken> {
        let permit = Arc::clone(&self.0.streams).try_acquire_owned().ok()?;
        *self.counted_as() = CountedAs::Stream { _permit: permit };
        Some(self.0.closing.clone())
    }

    fn is_stream(&self) -> bool {
        matches!(*self.counted_as(), CountedAs::Stream { .. })
    }

    fn counted_as(&self) -> std::sync::MutexGuard<'_, CountedAs> {
        self.0.counted_as.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves until `shutdown` completes, then finishes the running requests. If a connection cannot be accepted, keeps serving.
/// `router` chooses the paths that a connection may ask for.
pub(super) async fn accept(
    listener: TcpListener,
    router: impl Fn(&TcpStream) -> Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let streams = Arc::new(Semaphore::new(MAX_STREAMS));
    let closing = CancellationToken::new();
    let mut connections: VecDeque<(Connection, AbortOnDropHandle<()>)> = VecDeque::new();
    let mut long: VecDeque<(Connection, AbortOnDropHandle<()>)> = VecDeque::new();
    let mut shutdown = pin!(shutdown);
    let mut fails = false;
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    if std::mem::take(&mut fails) {
                        tracing::info!("the endpoint accepts connections again");
                    }
                    stream
                }
                Err(error) => {
                    // A line for each attempt would fill the log: while no descriptor is free, ten attempts a second fail.
                    if !std::mem::replace(&mut fails, true) {
                        tracing::warn!(%error, "the endpoint cannot accept connections; it keeps trying, and logs when it succeeds");
                    }
                    tokio::time::sleep(NO_DESCRIPTOR).await;
                    continue;
                }
            },
            () = &mut shutdown => break,
        };
        connections.retain(|(_, task)| !task.is_finished());
        long.retain(|(_, task)| !task.is_finished());
        let (turned, short) = connections.into_iter().partition(|(connection, _)| connection.is_stream());
        connections = short;
        long.extend::<VecDeque<_>>(turned);
        if connections.len() == MAX_CONNECTIONS {
            connections.pop_front();
        }
        // Waits until the replaced connection has released its descriptor.
        let permit = Arc::clone(&permits).acquire_owned().await.expect("nobody closes the semaphore");
        let connection = Connection(Arc::new(State {
            counted_as: Mutex::new(CountedAs::Request { _permit: permit }),
            streams: Arc::clone(&streams),
            closing: closing.clone(),
        }));
        let router = router(&stream);
        let serving = serve(stream, router, connection.clone());
        connections.push_back((connection, AbortOnDropHandle::new(tokio::spawn(serving))));
    }
    closing.cancel();
    for (_, task) in connections.into_iter().chain(long) {
        // A connection whose task panicked does not affect the others.
        let _ = task.await;
    }
}

/// Serves a connection until it is done or its time is over.
async fn serve(stream: TcpStream, router: Router, connection: Connection) {
    let began = Instant::now();
    let mut answered = pin!(converse(stream, router, &connection));
    let in_time = tokio::time::timeout_at(began + LONGEST_CONNECTION, &mut answered).await.is_ok();
    if !in_time && connection.is_stream() {
        let _ = tokio::time::timeout_at(began + LONGEST_STREAM, answered).await;
    }
}

/// Answers one request.
async fn converse(stream: TcpStream, router: Router, connection: &Connection) {
    let mut http = http1::Builder::new();
    http.keep_alive(false).max_buf_size(MAX_HEAD);
    let router = router.layer(Extension(connection.clone()));
    let mut served = pin!(http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    let result = tokio::select! {
        result = &mut served => result,
        () = connection.0.closing.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection to the endpoint broke");
    }
}
