//! Shows how many records have arrived, until all have arrived or nothing changes any more.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use logferry_testbed::worker::WorkerProcess;

use super::stage::{Backlog, Stage};
use crate::tell::tell;

/// Time without any progress after which the demo fails.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Shortest time between two lines of progress, if no bar can be drawn.
const LINE_EVERY: Duration = Duration::from_secs(1);
const STYLE: &str = "  {bar:40} {human_pos} of {human_len} records";

/// Waits until at least `expected` events have arrived and the queue is empty, so that duplicates have arrived too.
///
/// # Errors
/// The worker ended, a message went to the dead-letter queue, or nothing changed for a minute.
pub(super) async fn until_delivered(
    stage: &Stage,
    worker: &mut WorkerProcess,
    expected: u64,
) -> anyhow::Result<()> {
    let bar = ProgressBar::new(expected);
    bar.set_style(ProgressStyle::with_template(STYLE)?.progress_chars("##."));
    let mut seen = (0, Backlog::default());
    let mut moved = Instant::now();
    let mut told = (0, Instant::now());
    loop {
        let now = (stage.events(), stage.backlog().await?);
        let (events, Backlog { waiting, in_flight, dead }) = now;
        if now != seen {
            (seen, moved) = (now, Instant::now());
        }
        bar.set_position(events);
        if bar.is_hidden() && events != told.0 && told.1.elapsed() >= LINE_EVERY {
            tell!("  {} of {} records", HumanCount(events), HumanCount(expected));
            told = (events, Instant::now());
        }
        if dead > 0 {
            bail!("{dead} messages went to the dead-letter queue");
        }
        if events >= expected && waiting + in_flight == 0 {
            bar.finish();
            if !bar.is_hidden() {
                // The finished bar leaves the cursor at its end.
                tell!("\n");
            }
            return Ok(());
        }
        worker.check_runs()?;
        ensure!(
            moved.elapsed() < PATIENCE,
            "no progress for {PATIENCE:?}: {} of {} records have arrived, {waiting} messages wait, \
             {in_flight} are in flight",
            HumanCount(events),
            HumanCount(expected),
        );
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
