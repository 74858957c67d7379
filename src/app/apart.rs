//! Runs a future on a thread of its own, so that busy threads of the worker's runtime do not delay it.

use anyhow::Context;
use tokio::sync::oneshot;

/// Starts a thread with a runtime of its own. `make` is called there, within the runtime. The receiver ends when the future ends.
///
/// # Errors
/// The system allows no further thread, or its runtime cannot be built.
pub(super) fn apart<F: Future<Output = ()>>(
    name: &str,
    make: impl FnOnce() -> std::io::Result<F> + Send + 'static,
) -> anyhow::Result<oneshot::Receiver<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (ended, end) = oneshot::channel();
    let work = move || {
        // Dropped at the end, even after a panic.
        let _ended: oneshot::Sender<()> = ended;
        runtime.block_on(async {
            match make() {
                Ok(future) => future.await,
                Err(error) => tracing::error!(%error, "the endpoint cannot start"),
            }
        });
    };
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(work).with_context(|| format!("starting the thread {name:?}"))?;
    Ok(end)
}
