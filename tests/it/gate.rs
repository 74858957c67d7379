//! A TCP relay that stops requests: it lets a number of bytes through to the server, and then no more until the test opens it.
//! With it, a test holds a worker in the middle of an object, on every target.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;

/// Most bytes that are relayed at once.
const CHUNK: usize = 16 << 10;

/// A relay in front of an endpoint. Dropping it breaks its connections.
#[derive(Debug)]
pub(crate) struct Gate {
    endpoint: String,
    /// Bytes that may still go to the server.
    budget: Arc<Semaphore>,
    _relay: AbortOnDropHandle<()>,
}

impl Gate {
    /// Starts a relay that lets `bytes` bytes through to `upstream`, `http://HOST:PORT`.
    pub(crate) async fn new(upstream: &str, bytes: usize) -> Self {
        let address = upstream.strip_prefix("http://").expect("an endpoint of these tests is http");
        let upstream: SocketAddr = address.parse().expect("an address and a port");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("the listener is bound"));
        let budget = Arc::new(Semaphore::new(bytes));
        let relay = tokio::spawn(relay(listener, upstream, Arc::clone(&budget)));
        Self { endpoint, budget, _relay: AbortOnDropHandle::new(relay) }
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Returns whether the gate is holding bytes back.
    pub(crate) fn is_shut(&self) -> bool {
        self.budget.available_permits() < CHUNK
    }

    /// Lets everything through from now on.
    pub(crate) fn open(&self) {
        self.budget.add_permits(Semaphore::MAX_PERMITS / 2);
    }
}

async fn relay(listener: TcpListener, upstream: SocketAddr, budget: Arc<Semaphore>) {
    // Dropping the set aborts the connections.
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let budget = Arc::clone(&budget);
        connections.spawn(async move {
            let Ok(server) = TcpStream::connect(upstream).await else { return };
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            let unlimited = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
            tokio::join!(pass(from_client, to_server, budget), pass(from_server, to_client, unlimited));
        });
    }
}

/// Copies until either side ends, and pays for each byte from the budget.
async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, budget: Arc<Semaphore>) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let cost = u32::try_from(read).expect("a chunk is small");
        let Ok(paid) = budget.acquire_many(cost).await else { return };
        paid.forget();
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
