//! Subscribers of tests that run in parallel in one process.

use std::sync::LazyLock;

use tracing::{Dispatch, Subscriber, subscriber::NoSubscriber};

/// They live as long as the process: see [`with_subscriber`].
static FURTHER: LazyLock<[Dispatch; 2]> = LazyLock::new(|| [(); 2].map(|()| Dispatch::new(NoSubscriber::new())));

/// Runs `work` with `subscriber` as the default of this thread.
///
/// `tracing` keeps one answer for each callsite: never, always, or "ask the thread's subscriber". While the process has no more
/// than one subscriber, the first thread that meets a callsite stores the answer of its own subscriber, without a lock; the
/// answer can replace the right one if another thread sets a second subscriber at the same moment. With [`FURTHER`] there are
/// always several, so the answer is computed under a lock, and from all of them.
pub(crate) fn with_subscriber<T>(
    subscriber: impl Subscriber + Send + Sync + 'static,
    work: impl FnOnce() -> T,
) -> T {
    LazyLock::force(&FURTHER);
    tracing::subscriber::with_default(subscriber, work)
}
