//! Serves `/healthz`, `/readyz` and `/metrics` to orchestrators and Prometheus, and `/log-filter` to this host.
//!
//! Anyone who reaches the port can open connections, and connections must not use up the worker's file descriptors. So at most
//! 64 connections are open at once, and a further connection replaces the oldest one. Each connection serves one request and is
//! closed after 10 s at the latest. Request bodies are not read, except a filter of 4 KiB at most.

mod log_filter;

use std::{collections::VecDeque, future::Future, pin::pin, sync::Arc, time::Duration};

use axum::{
    Router,
    http::{
        HeaderMap, StatusCode,
        header::{ACCEPT, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use prometheus_client::registry::Registry;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    health::{Health, Report, Status},
    metrics::TextFormat,
    telemetry::level::Filter,
};

/// Most connections at once. A process has 1,024 descriptors by default, and the calls to AWS need most of them.
const MAX_CONNECTIONS: usize = 64;
/// Longest life of a connection. By default, the kubelet gives a probe 1 s and Prometheus gives a scrape 10 s.
const LONGEST_CONNECTION: Duration = Duration::from_secs(10);
/// Largest head of a request in bytes; hyper allows no smaller limit.
const MAX_HEAD: usize = 8192;
/// Pause after a connection could not be accepted. Usually no file descriptor is free, and another connection must close first.
const NO_DESCRIPTOR: Duration = Duration::from_millis(100);

/// Serves until `shutdown` completes, then finishes the running requests. If a connection cannot be accepted, keeps serving.
pub async fn serve(
    listener: TcpListener,
    health: Arc<Health>,
    metrics: Registry,
    log: Arc<Filter>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) {
    let router = router(health, Arc::new(metrics));
    let local_router = router.clone().merge(log_filter::routes(log));
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
        // Waits until the replaced connection has released its descriptor.
        let place = Arc::clone(&places).acquire_owned().await.expect("nobody closes the semaphore");
        let router = if log_filter::is_local(&stream) { &local_router } else { &router };
        let (router, closing) = (router.clone(), closing.clone());
        connections.push_back(AbortOnDropHandle::new(tokio::spawn(async move {
            let answered = converse(stream, router, &closing);
            // At the end of its time, the connection is closed.
            let _ = tokio::time::timeout(LONGEST_CONNECTION, answered).await;
            drop(place);
        })));
    }
    closing.cancel();
    for connection in connections {
        // A connection whose task panicked does not affect the others.
        let _ = connection.await;
    }
}

fn router(health: Arc<Health>, metrics: Arc<Registry>) -> Router {
    let alive = Arc::clone(&health);
    Router::new()
        .route("/healthz", get(async move || healthz(&alive.alive())))
        .route("/readyz", get(async move || readyz(&health.ready())))
        .route("/metrics", get(async move |headers: HeaderMap| scrape(&metrics, &headers)))
}

/// Answers one request.
async fn converse(stream: TcpStream, router: Router, closing: &CancellationToken) {
    let mut http = http1::Builder::new();
    http.keep_alive(false).max_buf_size(MAX_HEAD);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
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

/// The receive loop runs, or is not meant to.
fn healthz(report: &Report) -> Response {
    let code = match report.status {
        Status::Stalled => StatusCode::SERVICE_UNAVAILABLE,
        Status::Ok | Status::Starting | Status::Unready | Status::Draining => StatusCode::OK,
    };
    answer(code, report)
}

fn readyz(report: &Report) -> Response {
    let code = match report.status {
        Status::Ok => StatusCode::OK,
        Status::Starting | Status::Unready | Status::Draining | Status::Stalled => {
            StatusCode::SERVICE_UNAVAILABLE
        }
    };
    answer(code, report)
}

fn answer(code: StatusCode, report: &Report) -> Response {
    match serde_json::to_string(report) {
        Ok(text) => (code, [(CONTENT_TYPE, "application/json")], text + "\n").into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Answers in the format that the request's `Accept` headers ask for.
fn scrape(metrics: &Registry, headers: &HeaderMap) -> Response {
    let accept = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = TextFormat::accepted(&accept.collect::<Vec<_>>().join(","));
    match format.render(metrics) {
        Ok(text) => ([(CONTENT_TYPE, format.content_type())], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
