//! Serves `/healthz` and `/readyz` to orchestrators, `/metrics` to Prometheus, the status page to people, and `/log-filter` to
//! this host.
//!
//! Anyone who reaches the port can open connections, and connections must not use up the worker's file descriptors. So at most
//! 64 connections are open at once, and a further connection replaces the oldest one. Each connection serves one request and is
//! closed after 10 s at the latest. Request bodies are not read, except a filter of 4 KiB at most. The streams that update open
//! status pages have limits of their own: see `connections`.

pub mod client;
mod connections;
mod log_filter;
mod page;

use std::{future::Future, sync::Arc};

use axum::{
    Router,
    http::{
        HeaderMap, StatusCode,
        header::{ACCEPT, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::net::TcpListener;

pub use self::page::{Page, Sources};
use crate::{
    health::{Health, HealthReport, HealthStatus},
    metrics::TextFormat,
    telemetry::level::LogFilter,
};

/// Serves until `shutdown` completes, then finishes the running requests. If a connection cannot be accepted, keeps serving.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    log: Arc<LogFilter>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) {
    let local = router.clone().merge(log_filter::routes(log));
    let choose = |stream: &_| if log_filter::is_local(stream) { local.clone() } else { router.clone() };
    connections::accept(listener, choose, shutdown).await;
}

/// Serves `/metrics` alone until `shutdown` completes, then finishes the running requests.
pub async fn serve_metrics(
    listener: TcpListener,
    metrics: Arc<Registry>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) {
    let scraped = get(async move |headers: HeaderMap| scrape(&metrics, &headers));
    let router = Router::new().route("/metrics", scraped);
    connections::accept(listener, |_| router.clone(), shutdown).await;
}

/// The paths for orchestrators: `/healthz` and `/readyz`.
pub fn probes(health: Arc<Health>) -> Router {
    let alive = Arc::clone(&health);
    Router::new()
        // Only a receive loop that stands still is an error.
        .route(
            "/healthz",
            get(async move || probed(&alive.alive(), |status| status != HealthStatus::Stalled)),
        )
        .route("/readyz", get(async move || probed(&health.ready(), |status| status == HealthStatus::Ok)))
}

/// The paths for operators: `/metrics`, and the status page at `/` with its `/events`.
pub fn insight(metrics: Arc<Registry>, page: Page) -> Router {
    let metrics = get(async move |headers: HeaderMap| scrape(&metrics, &headers));
    Router::new().route("/metrics", metrics).merge(page::routes(Arc::new(page)))
}

fn probed(report: &HealthReport, is_good: impl Fn(HealthStatus) -> bool) -> Response {
    answer(if is_good(report.status) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, report)
}

/// Answers with a line of JSON.
fn answer(code: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_string(body) {
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
