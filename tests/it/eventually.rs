//! Waits for changes that another process makes.

use std::time::{Duration, Instant};

/// Long enough for a slow machine that runs all tests at once. A test that passes ends earlier.
const DEADLINE: Duration = Duration::from_secs(120);
const INTERVAL: Duration = Duration::from_millis(50);

/// Repeats `probe` until it returns `Ok`, and returns that value. `Err` describes what the probe saw; the last one is
/// shown when the deadline passes.
pub(crate) async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Result<T, String>) -> T {
    let started = Instant::now();
    loop {
        match probe().await {
            Ok(found) => return found,
            Err(seen) if started.elapsed() > DEADLINE => {
                panic!("{what}: not within {DEADLINE:?}; last seen: {seen}")
            }
            Err(_) => tokio::time::sleep(INTERVAL).await,
        }
    }
}

/// `Ok` if both are equal; for probes.
pub(crate) fn same<T: PartialEq + std::fmt::Debug>(found: &T, expected: &T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{found:?} instead of {expected:?}")) }
}
