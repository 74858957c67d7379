//! The addresses of the worker's endpoint.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context;
use axum::Router;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{config::Http, http, telemetry::level::LogFilter};

/// The addresses of the endpoint.
#[derive(Debug)]
pub(super) struct Listeners<L> {
    pub(super) main: L,
    /// For the status page and the metrics; `None`: they are on the main address.
    pub(super) admin: Option<L>,
}

impl<L> Listeners<L> {
    /// Converts both listeners. A listener of Tokio's is bound to the runtime that made it; one of the standard library's can
    /// move to another runtime.
    pub(super) fn map<M>(self, convert: impl Fn(L) -> std::io::Result<M>) -> std::io::Result<Listeners<M>> {
        Ok(Listeners { main: convert(self.main)?, admin: self.admin.map(convert).transpose()? })
    }
}

impl Listeners<TcpListener> {
    /// Binds the addresses.
    ///
    /// # Errors
    /// An address is in use, or is not an address of this host. The error names the field.
    pub(super) async fn bind(http: &Http) -> anyhow::Result<Self> {
        let main = bind("http.listen", http.listen).await?;
        let admin = match http.admin_listen {
            Some(address) => Some(bind("http.admin_listen", address).await?),
            None => None,
        };
        Ok(Self { main, admin })
    }

    /// Serves until `served` is cancelled. Both addresses serve the probes.
    pub(super) async fn serve(
        self,
        probes: Router,
        insight: Router,
        log: Arc<LogFilter>,
        served: CancellationToken,
    ) {
        let all = probes.clone().merge(insight);
        match self.admin {
            None => http::serve(self.main, all, log, served.cancelled_owned()).await,
            Some(admin) => {
                let main = http::serve(self.main, probes, Arc::clone(&log), served.clone().cancelled_owned());
                tokio::join!(main, http::serve(admin, all, log, served.cancelled_owned()));
            }
        }
    }
}

pub(super) async fn bind(field: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{field}: {address} cannot be bound"))
}
