//! Waiting for what another process does.

use std::time::{Duration, Instant};

/// Long enough for a slow machine that runs everything at once; a test that passes never waits for it.
const DEADLINE: Duration = Duration::from_secs(60);
const INTERVAL: Duration = Duration::from_millis(50);

/// Asks `probe` again and again until it is satisfied, and returns what it found. A probe that is not says what it saw
/// instead; the last of that is shown if the deadline passes.
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

/// `Ok` when both are the same, for probes.
pub(crate) fn same<T: PartialEq + std::fmt::Debug>(found: &T, expected: &T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{found:?} instead of {expected:?}")) }
}
