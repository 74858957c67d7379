//! `/log-filter`: shows and changes the filter of the log. Only for connections that cannot come from outside: see
//! [`is_local`].

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use tokio::net::TcpStream;

use crate::telemetry::level::Filter;

/// Longest filter in bytes.
const MAX_FILTER: usize = 4096;

pub(super) fn routes(filter: Arc<Filter>) -> Router {
    let (shown, put) = (Arc::clone(&filter), Arc::clone(&filter));
    let routes = get(async move || show(&shown))
        .put(async move |text: String| change(&put, &text))
        .delete(async move || change(&filter, filter.configured()));
    Router::new().route("/log-filter", routes).layer(DefaultBodyLimit::max(MAX_FILTER))
}

fn show(filter: &Filter) -> Response {
    let shown = json!({ "filter": filter.current(), "configured": filter.configured() });
    (StatusCode::OK, [(CONTENT_TYPE, "application/json")], format!("{shown}\n")).into_response()
}

fn change(filter: &Filter, text: &str) -> Response {
    match filter.change(text) {
        Ok(()) => show(filter),
        Err(problem) => {
            let refused = json!({ "filter": filter.current(), "problem": problem });
            let (code, json) = (StatusCode::BAD_REQUEST, [(CONTENT_TYPE, "application/json")]);
            (code, json, format!("{refused}\n")).into_response()
        }
    }
}

/// Whether a connection goes from a loopback address to a loopback address. Both ends count: a proxy beside the worker may pass
/// on connections from outside, with a loopback address of its own, to the address that the client named. The system drops
/// packets from outside to a loopback address.
pub(super) fn is_local(stream: &TcpStream) -> bool {
    let loopback =
        |address: std::io::Result<SocketAddr>| address.is_ok_and(|of| of.ip().to_canonical().is_loopback());
    loopback(stream.local_addr()) && loopback(stream.peer_addr())
}
