//! The addresses of the worker's endpoint.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context;
use axum::Router;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{config::Http, http, telemetry::level::LogFilter};

/// The addresses of the endpoint. A listener of Tokio's would be bound to the runtime that made it.
#[derive(Debug)]
pub(super) struct Listeners {
    pub(super) main: std::net::TcpListener,
    /// For the status page and the metrics; `None`: they are on the main address.
    pub(super) admin: Option<std::net::TcpListener>,
}

impl Listeners {
    /// Binds the addresses.
    ///
    /// # Errors
    /// An address is in use, or is not an address of this host. The error names the field.
    pub(super) async fn bind(http: &Http) -> anyhow::Result<Self> {
        let main = bind("http.listen", http.listen).await?.into_std()?;
        let admin = match http.admin_listen {
            Some(address) => Some(bind("http.admin_listen", address).await?.into_std()?),
            None => None,
        };
        Ok(Self { main, admin })
    }

    /// Serves until `served` is cancelled. Both addresses serve the probes. Must be called on the runtime that serves.
    pub(super) fn serve(
        self,
        probes: Router,
        insight: Router,
        log: Arc<LogFilter>,
        served: CancellationToken,
    ) -> std::io::Result<impl Future<Output = ()>> {
        let main = TcpListener::from_std(self.main)?;
        let admin = self.admin.map(TcpListener::from_std).transpose()?;
        let all = probes.clone().merge(insight);
        Ok(async move {
            match admin {
                None => http::serve(main, all, log, served.cancelled_owned()).await,
                Some(admin) => {
                    let main = http::serve(main, probes, Arc::clone(&log), served.clone().cancelled_owned());
                    tokio::join!(main, http::serve(admin, all, log, served.cancelled_owned()));
                }
            }
        })
    }
}

/// Binds the address that a field names.
///
/// # Errors
/// The address is in use, or is not an address of this host.
pub async fn bind(field: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{field}: {address} cannot be bound"))
}
