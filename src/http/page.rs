//! The status page: what this worker does, which tenants are in trouble, and what mends it.
//!
//! The server writes HTML with all its styles and its script, and the browser loads nothing else. `/events` sends the
//! page's content again every two seconds. Without JavaScript the browser loads the page again every ten seconds.
//!
//! Names of tenants and keys of objects come from outside. maud escapes every text, and the Content-Security-Policy forbids
//! every script and style but the page's own.

mod body;
mod text;

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use axum::{
    Extension, Router,
    http::{
        HeaderName, StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
        },
    },
    response::{
        Html, IntoResponse, Response,
        sse::{Event, Sse},
    },
    routing::get,
};
use futures_util::stream;
use jiff::Timestamp;
use maud::{DOCTYPE, PreEscaped, html};
use prometheus_client::metrics::gauge::Gauge;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::time::Instant;

use super::connections::Connection;
use crate::{breaker::Stopped, health::Health, status::Status};

/// Time between two updates of an open page.
const UPDATE: Duration = Duration::from_secs(2);
/// The content is written at most once in this time, however many people look.
const FRESH: Duration = Duration::from_secs(1);
/// Most tenants on the page.
const MOST_TENANTS: usize = 100;
const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/live.js");

/// What the page shows.
pub struct Sources {
    /// The tenants.
    pub status: Arc<Status>,
    /// Conditions of readiness.
    pub health: Arc<Health>,
    /// URL of the queue.
    pub queue_url: String,
    /// `worker.concurrency`.
    pub slots: usize,
    /// Slots that are busy.
    pub busy: Gauge<f64, AtomicU64>,
    /// Asks what the breakers of roles and log groups stop.
    pub stopped: Box<dyn Fn() -> Vec<Stopped> + Send + Sync>,
    /// Start of the worker.
    pub since: Timestamp,
}

/// The status page of a worker.
pub struct Page {
    sources: Sources,
    written: Mutex<Option<(Instant, Arc<str>)>>,
}

impl Page {
    /// The page of a worker.
    pub fn new(sources: Sources) -> Self {
        Self { sources, written: Mutex::default() }
    }

    /// The content of the page, at most a second old.
    fn content(&self) -> Arc<str> {
        // The value is valid after every statement, so the lock is usable after a panic.
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, content)) = &*written
            && at.elapsed() < FRESH
        {
            return Arc::clone(content);
        }
        let content: Arc<str> = body::write(&self.sources, MOST_TENANTS, Timestamp::now()).into();
        *written = Some((Instant::now(), Arc::clone(&content)));
        content
    }
}

/// `/` and `/events`.
pub(super) fn routes(page: Arc<Page>) -> Router {
    let live = Arc::clone(&page);
    Router::new()
        .route("/", get(async move || whole(&page.content())))
        .route("/events", get(async move |Extension(connection)| events(live, &connection)))
}

fn whole(content: &str) -> Response {
    let Some(nonce) = nonce() else {
        return (StatusCode::INTERNAL_SERVER_ERROR, "the system gives no random bytes\n").into_response();
    };
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "logferry" }
                noscript { meta http-equiv="refresh" content="10"; }
                style nonce=(nonce) { (PreEscaped(STYLE)) }
            }
            body {
                main { (PreEscaped(content)) }
                script nonce=(nonce) { (PreEscaped(SCRIPT)) }
            }
        }
    };
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'"
    );
    let headers: [(HeaderName, &str); 4] = [
        (CONTENT_SECURITY_POLICY, &policy),
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, Html(page.into_string())).into_response()
}

/// Marks the page's own style and script. It is new for each answer, so that no text from outside can contain it.
fn nonce() -> Option<String> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(format!("{:032x}", u128::from_ne_bytes(bytes)))
}

/// Sends the content now and every two seconds, until the connection's time is over or the worker ends.
fn events(page: Arc<Page>, connection: &Connection) -> Response {
    let Some(closing) = connection.become_stream() else {
        let problem = "too many pages are open; this one is updated when another is closed\n";
        return (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "10")], problem).into_response();
    };
    let updates = stream::unfold(Duration::ZERO, move |pause| {
        let (page, closing) = (Arc::clone(&page), closing.clone());
        async move {
            closing.run_until_cancelled(tokio::time::sleep(pause)).await?;
            let event = Event::default().data(&*page.content());
            Some((Ok::<_, Infallible>(event), UPDATE))
        }
    });
    Sse::new(updates).into_response()
}

#[cfg(test)]
mod tests;
