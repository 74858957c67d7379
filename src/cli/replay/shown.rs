//! Shows the progress of a replay: as a bar on a terminal, as lines of the log elsewhere.

use std::{sync::Arc, time::Duration};

use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressStyle};
use tokio::time::Instant;

use crate::{
    object::listing::ObjectListing,
    replay::{
        progress::{Amount, Progress},
        selection::Selection,
    },
};

/// Time between two lines of the log.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Time between two changes of the bar.
const DRAW_EVERY: Duration = Duration::from_millis(200);
const BAR: &str = "{bar:30} {human_pos} of {human_len} objects  {msg}";
/// Before the number of objects is known.
const SPINNER: &str = "{spinner} {human_pos} objects  {msg}";

/// Shows the progress until it is dropped. Counts the selected objects meanwhile, so that the remaining time can be shown.
pub(super) async fn show<L: ObjectListing>(progress: Arc<Progress>, listing: L, selection: Selection) {
    let bar = ProgressBar::new_spinner().with_style(style(SPINNER));
    let drawn = async { if bar.is_hidden() { lines(&progress).await } else { draw(&bar, &progress).await } };
    // Without a total, no remaining time is shown. The run itself reports an error of the listing.
    let (_, ()) = tokio::join!(progress.count(&listing, &selection), drawn);
}

async fn draw(bar: &ProgressBar, progress: &Progress) {
    let (began, mut total) = (Instant::now(), None);
    loop {
        tokio::time::sleep(DRAW_EVERY).await;
        if total.is_none() {
            total = progress.total();
            if let Some(Amount { objects, .. }) = total {
                bar.set_length(objects);
                bar.set_style(style(BAR).progress_chars("##."));
            }
        }
        let (Amount { objects, bytes }, elapsed) = (progress.finished(), began.elapsed());
        let rate = objects as f64 / elapsed.as_secs_f64();
        let left = progress.remaining(elapsed).map(|left| format!("  {} left", HumanDuration(left)));
        bar.set_position(objects);
        bar.set_message(format!("{}  {rate:.1}/s{}", HumanBytes(bytes), left.unwrap_or_default()));
    }
}

async fn lines(progress: &Progress) {
    let (began, mut before) = (Instant::now(), Amount::default());
    loop {
        tokio::time::sleep(LINE_EVERY).await;
        let finished = progress.finished();
        let per_second = |now: u64, before: u64| (now - before) as f64 / LINE_EVERY.as_secs_f64();
        tracing::info!(
            replay.objects = finished.objects,
            replay.total_objects = progress.total().map(|total| total.objects),
            replay.stored_bytes = finished.bytes,
            replay.objects_per_second = per_second(finished.objects, before.objects),
            replay.bytes_per_second = per_second(finished.bytes, before.bytes),
            replay.remaining_seconds = progress.remaining(began.elapsed()).map(|left| left.as_secs()),
            "replay"
        );
        before = finished;
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates are right")
}
