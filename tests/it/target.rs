//! The AWS double that a test runs against.

pub(crate) mod ministack;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use logferry_sandbox::Sandbox;

/// The double of a test. All tests of the process share one ministack; a sandbox belongs to one test.
#[derive(Debug)]
pub(crate) struct Target {
    /// `http://127.0.0.1:PORT`.
    pub(crate) endpoint: String,
    /// The sandbox, unless the double is ministack.
    pub(crate) sandbox: Option<Arc<Sandbox>>,
}

impl Target {
    /// Returns the double that `LOGFERRY_TEST_TARGET` selects.
    pub(crate) async fn start() -> Self {
        match std::env::var("LOGFERRY_TEST_TARGET").as_deref() {
            Err(_) | Ok("" | "sandbox") => Self::sandbox().await,
            Ok("ministack") => {
                let shared = ministack::shared().await;
                let endpoint = shared.as_ref().expect("LOGFERRY_TEST_TARGET asks for ministack");
                Self { endpoint: endpoint.clone(), sandbox: None }
            }
            Ok(other) => panic!("LOGFERRY_TEST_TARGET is {other:?}, neither \"sandbox\" nor \"ministack\""),
        }
    }

    /// Starts a sandbox, whatever the variable selects.
    pub(crate) async fn sandbox() -> Self {
        let sandbox = Sandbox::start().await.expect("loopback has a free port");
        Self { endpoint: sandbox.endpoint(), sandbox: Some(Arc::new(sandbox)) }
    }
}

/// A number that is unique within this process.
pub(crate) fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// An account id that is unique within this process.
pub(crate) fn unique_account() -> String {
    format!("{:012}", 300_000_000_000 + unique())
}
