//! `logferry healthcheck`: asks `/healthz` of the worker on this host, for the health checks of Docker and ECS.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, ensure};
use axum::http::Request;
use serde::Deserialize;

use crate::{
    config::{Config, Problem},
    http::client::send,
};

/// The only field of the configuration that the command uses.
pub(super) const CONCERNS: &str = "http.listen";
/// Longest wait for the answer. ECS ends a health check after 5 s by default.
const PATIENCE: Duration = Duration::from_secs(3);

/// The part of the answer that the command reads.
#[derive(Deserialize)]
struct Report {
    status: String,
}

/// Asks the worker whether it is alive.
///
/// # Errors
/// The worker does not answer, or its receive loop stands still. [`Problem`]: the configuration does not tell the worker's
/// port.
pub(super) async fn execute(config: &Config) -> anyhow::Result<ExitCode> {
    let listen = config.http.listen;
    if listen.port() == 0 {
        let problem = "with port 0 only the worker's log tells the port; name a port".to_owned();
        return Err(Problem { field: CONCERNS.to_owned(), problem }.into());
    }
    let url = format!("http://{}/healthz", near(listen));
    let request = Request::get(&url).body(Default::default()).context("http.listen")?;
    let (status, body) = send(request, PATIENCE).await.with_context(|| url.clone())?;
    let report: Report = serde_json::from_slice(&body)
        .with_context(|| format!("{url} answers {status}, and not as a worker does"))?;
    ensure!(status.is_success(), "{url} answers {status}: the worker is {}", report.status);
    Ok(ExitCode::SUCCESS)
}

/// The address at which this host reaches a listener: loopback, if the listener takes connections at every address.
fn near(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_means_loopback() {
        for (listen, expected) in [
            ("0.0.0.0:8080", "127.0.0.1:8080"),
            ("[::]:8080", "[::1]:8080"),
            ("10.0.0.7:8080", "10.0.0.7:8080"),
            ("[fd00::7]:81", "[fd00::7]:81"),
        ] {
            assert_eq!(near(listen.parse().expect("an address")).to_string(), expected);
        }
    }
}
