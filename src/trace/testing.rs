//! Subscribers of tests. Tests run in parallel in one process, and share what `tracing` keeps for each callsite.

use std::{env, process::Command, sync::LazyLock};

use tracing::{Dispatch, Subscriber, subscriber::NoSubscriber};

/// They live as long as the process: see [`with_subscriber`].
static FURTHER: LazyLock<[Dispatch; 2]> =
    LazyLock::new(|| [(); 2].map(|()| Dispatch::new(NoSubscriber::new())));

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

/// Runs `work` in a process that runs no other test, so that no other subscriber exists there. `test` is the path of the calling
/// test.
///
/// While several subscribers exist, `tracing` asks the thread's own one, and a registry whose layers all filter a span out says
/// yes. A worker has one subscriber: there the callsite itself is off.
pub(crate) fn alone(test: &str, work: impl FnOnce()) {
    const ALONE: &str = "LOGFERRY_TEST_ALONE";
    if env::var_os(ALONE).is_some() {
        return work();
    }
    let this = env::current_exe().expect("the test's program has a path");
    let output = Command::new(this).args([test, "--exact", "--nocapture"]).env(ALONE, "1").output();
    let output = output.expect("the test's program starts");
    let printed = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && printed.contains("1 passed"), "{printed}");
}
