//! The endpoint for orchestrators and Prometheus: `/healthz`, `/readyz`, `/metrics`.
//!
//! Whoever reaches the port can open connections, so none may cost the worker its descriptors: their number has a limit, each
//! is for one request and short, and a newcomer takes the place of the oldest. Requests' bodies are not read.

use std::{collections::VecDeque, convert::Infallible, future::Future, pin::pin, sync::Arc, time::Duration};

use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{health::Health, metrics::Metrics};

/// What prometheus-client writes. Source: the OpenMetrics specification, "Overall structure".
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// What prose is written in.
const TEXT: &str = "text/plain; charset=utf-8";
/// Most connections at once. A process has 1,024 descriptors where nobody gave it more, and AWS needs most of them.
const MAX_CONNECTIONS: usize = 64;
/// From a connection's first byte to its end. kubelet gives a probe 1 s by default, Prometheus a scrape 10 s.
const LONGEST_CONNECTION: Duration = Duration::from_secs(10);
/// Largest head of a request in bytes; hyper takes no less.
const MAX_HEAD: usize = 8192;
/// How long to wait where the system has no descriptor for a connection: others have to close first.
const NO_DESCRIPTOR: Duration = Duration::from_millis(100);

/// Serves until `shutdown` is done, then lets the requests that have begun end. Accepting that fails is tried again.
pub async fn serve(
    listener: TcpListener,
    health: Arc<Health>,
    metrics: Metrics,
    shutdown: impl Future<Output = ()> + Send + 'static,
) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let closing = CancellationToken::new();
    let mut connections: VecDeque<AbortOnDropHandle<()>> = VecDeque::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the endpoint cannot accept a connection; it tries again");
                    tokio::time::sleep(NO_DESCRIPTOR).await;
                    continue;
                }
            },
            () = &mut shutdown => break,
        };
        connections.retain(|connection| !connection.is_finished());
        if connections.len() == MAX_CONNECTIONS {
            connections.pop_front();
        }
        // The connection that was closed for this one has to be gone, descriptor and all.
        let place = Arc::clone(&places).acquire_owned().await.expect("nobody closes it");
        let (health, metrics, closing) = (Arc::clone(&health), metrics.clone(), closing.clone());
        connections.push_back(AbortOnDropHandle::new(tokio::spawn(async move {
            let answered = converse(stream, &health, &metrics, &closing);
            // One that takes too long is cut off; nothing depends on it.
            let _ = tokio::time::timeout(LONGEST_CONNECTION, answered).await;
            drop(place);
        })));
    }
    closing.cancel();
    for connection in connections {
        // A panic in an answer is the asker's loss alone.
        let _ = connection.await;
    }
}

/// Answers one request.
async fn converse(stream: TcpStream, health: &Health, metrics: &Metrics, closing: &CancellationToken) {
    let answer = service_fn(async |request: Request<Incoming>| {
        Ok::<_, Infallible>(answer(request.method(), request.uri().path(), health, metrics))
    });
    let mut http = http1::Builder::new();
    http.keep_alive(false).max_buf_size(MAX_HEAD);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), answer));
    let result = tokio::select! {
        result = &mut connection => result,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection to the endpoint broke");
    }
}

fn answer(method: &Method, path: &str, health: &Health, metrics: &Metrics) -> Response<String> {
    let known = ["/healthz", "/readyz", "/metrics"].contains(&path);
    if known && method != Method::GET && method != Method::HEAD {
        let mut refusal = respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET or HEAD\n".to_owned());
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    match path {
        "/healthz" => state(health.alive()),
        "/readyz" => state(health.ready()),
        "/metrics" => match metrics.render() {
            Ok(text) => respond(StatusCode::OK, OPENMETRICS, text),
            Err(error) => respond(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
        },
        _ => respond(StatusCode::NOT_FOUND, TEXT, "/healthz, /readyz or /metrics\n".to_owned()),
    }
}

fn state(state: Result<(), String>) -> Response<String> {
    match state {
        Ok(()) => respond(StatusCode::OK, TEXT, "ok\n".to_owned()),
        Err(problem) => respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{problem}\n")),
    }
}

fn respond(status: StatusCode, content_type: &'static str, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
