//! `/log-filter`: shows and changes the filter of the log. Serves only connections that cannot come from outside, and only
//! requests that no proxy passes on: see [`is_local`] and [`is_passed_on`].

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    http::{HeaderMap, StatusCode, header::HOST, uri::Authority},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use tokio::net::TcpStream;

use super::answer;
use crate::telemetry::level::LogFilter;

/// Headers that a proxy adds to a request that it passes on.
const PROXIES: [&str; 5] = ["forwarded", "x-forwarded-for", "x-forwarded-proto", "x-real-ip", "via"];
/// Longest filter in bytes.
const MAX_FILTER: usize = 4096;

pub(super) fn routes(filter: Arc<LogFilter>) -> Router {
    let (shown, put) = (Arc::clone(&filter), Arc::clone(&filter));
    let routes = get(async move || show(&shown))
        .put(async move |text: String| change(&put, &text))
        .delete(async move || change(&filter, filter.configured()));
    Router::new()
        .route("/log-filter", routes)
        .layer(DefaultBodyLimit::max(MAX_FILTER))
        .route_layer(middleware::from_fn(only_from_here))
}

fn show(filter: &LogFilter) -> Response {
    answer(StatusCode::OK, &json!({ "filter": filter.current(), "configured": filter.configured() }))
}

fn change(filter: &LogFilter, text: &str) -> Response {
    match filter.change(text) {
        Ok(()) => show(filter),
        Err(problem) => {
            answer(StatusCode::BAD_REQUEST, &json!({ "filter": filter.current(), "problem": problem }))
        }
    }
}

/// Answers 404, as if the path did not exist, if a proxy beside the worker passes the request on.
async fn only_from_here(request: Request, next: Next) -> Response {
    if is_passed_on(request.headers()) {
        StatusCode::NOT_FOUND.into_response()
    } else {
        next.run(request).await
    }
}

/// Whether a proxy's header is there, or `Host` is neither `localhost` nor a loopback address. Any other name is refused, even
/// one that resolves to a loopback address: a web page can use such a name to send requests from a browser on this host.
fn is_passed_on(headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
    PROXIES.iter().any(|name| headers.contains_key(*name))
        || !host.is_some_and(|host| is_loopback(host.host()))
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// Whether a connection goes from a loopback address to a loopback address. Both ends are checked. The system drops packets
/// from outside to a loopback address. But a proxy beside the worker may pass on connections from outside: it connects from a
/// loopback address to the address that the client named.
pub(super) fn is_local(stream: &TcpStream) -> bool {
    let loopback =
        |address: std::io::Result<SocketAddr>| address.is_ok_and(|of| of.ip().to_canonical().is_loopback());
    loopback(stream.local_addr()) && loopback(stream.peer_addr())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_requests_to_this_host_that_no_proxy_passes_on_are_answered() {
        let headers = |name: &'static str, value: &str, host: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().expect("a value"));
            if let Some(host) = host {
                headers.insert(HOST, host.parse().expect("a value"));
            }
            headers
        };
        let to = |host: &str| is_passed_on(&headers("accept", "*/*", Some(host)));
        for host in ["localhost", "LOCALHOST:8080", "127.0.0.1", "127.9.9.9:80", "[::1]", "[::1]:8080"] {
            assert!(!to(host), "{host}");
        }
        for host in
            ["", "logs.example.com", "10.0.0.1:80", "localhost.example.com", "127.0.0.1.example.com", "[::2]"]
        {
            assert!(to(host), "{host}");
        }
        assert!(is_passed_on(&headers("accept", "*/*", None)), "no Host");
        for (name, value) in [
            ("forwarded", "for=192.0.2.1"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-proto", "https"),
            ("x-real-ip", "192.0.2.1"),
            ("via", "1.1 proxy"),
        ] {
            assert!(is_passed_on(&headers(name, value, Some("localhost"))), "{name}");
        }
    }
}
