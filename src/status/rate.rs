//! What was accepted in the last minute. Pure: time is an argument.

use std::time::Duration;

/// Span of one bucket in milliseconds.
const SPAN: i64 = 5_000;
/// Buckets of a full minute, and the one that is filling.
const BUCKETS: usize = 13;

/// Throughput of the last minute.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Throughput {
    /// Accepted events per second.
    pub events: f64,
    /// Billed bytes per second.
    pub bytes: f64,
    /// Deliveries of objects that succeeded in the last minute.
    pub objects: u64,
    /// Mean time from the S3 event to the acceptance of an object's last record; `None` if there was no object whose S3 event
    /// has a time.
    pub mean_freshness: Option<Duration>,
    /// The longest such time.
    pub worst_freshness: Option<Duration>,
}

/// Sums of the last minute, in buckets of five seconds.
#[derive(Debug, Default)]
pub(super) struct LastMinute {
    buckets: [Bucket; BUCKETS],
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// Number of this bucket's span since the start.
    span: i64,
    events: u64,
    bytes: u64,
    objects: u64,
    /// Objects whose event has a time.
    timed: u32,
    freshness: Duration,
    worst: Duration,
}

impl LastMinute {
    pub(super) fn accepted(&mut self, events: u64, bytes: u64, now: i64) {
        let bucket = self.bucket(now);
        bucket.events += events;
        bucket.bytes += bytes;
    }

    pub(super) fn delivered(&mut self, freshness: Option<Duration>, now: i64) {
        let bucket = self.bucket(now);
        bucket.objects += 1;
        if let Some(freshness) = freshness {
            bucket.timed += 1;
            bucket.freshness += freshness;
            bucket.worst = bucket.worst.max(freshness);
        }
    }

    /// Throughput over the last minute, or since the start if that is more recent. `now` is milliseconds since the start.
    pub(super) fn throughput(&self, now: i64) -> Throughput {
        let mut sum = Bucket::default();
        let recent = self.buckets.iter().filter(|bucket| now / SPAN - bucket.span < BUCKETS as i64);
        for bucket in recent {
            sum.events += bucket.events;
            sum.bytes += bucket.bytes;
            sum.objects += bucket.objects;
            sum.timed += bucket.timed;
            sum.freshness += bucket.freshness;
            sum.worst = sum.worst.max(bucket.worst);
        }
        // The last bucket is not full yet.
        let seconds = (now.min((BUCKETS as i64 - 1) * SPAN + now % SPAN).max(1_000)) as f64 / 1_000.0;
        Throughput {
            events: sum.events as f64 / seconds,
            bytes: sum.bytes as f64 / seconds,
            objects: sum.objects,
            mean_freshness: sum.freshness.checked_div(sum.timed),
            worst_freshness: (sum.timed > 0).then_some(sum.worst),
        }
    }

    fn bucket(&mut self, now: i64) -> &mut Bucket {
        let span = now / SPAN;
        let bucket = &mut self.buckets[span.rem_euclid(BUCKETS as i64) as usize];
        if bucket.span != span {
            *bucket = Bucket { span, ..Bucket::default() };
        }
        bucket
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_is_summed_and_then_forgotten() {
        let mut minute = LastMinute::default();
        let check = |minute: &LastMinute, now, events: f64| {
            let found = minute.throughput(now).events;
            assert!((found - events).abs() < 0.01, "{found} at {now}");
        };
        check(&minute, 0, 0.0);
        minute.accepted(100, 1_000, 500);
        check(&minute, 2_000, 50.0);
        for second in 1..=600 {
            minute.accepted(100, 1_000, second * 1_000);
        }
        check(&minute, 600_999, 100.0 * 61.0 / 60.999);
        assert_eq!(minute.throughput(600_999).mean_freshness, None);
        minute.delivered(Some(Duration::from_secs(2)), 600_999);
        minute.delivered(Some(Duration::from_secs(4)), 601_000);
        minute.delivered(None, 601_000);
        let Throughput { objects, mean_freshness, worst_freshness, .. } = minute.throughput(601_000);
        assert_eq!((objects, mean_freshness), (3, Some(Duration::from_secs(3))));
        assert_eq!(worst_freshness, Some(Duration::from_secs(4)));
        check(&minute, 630_000, 100.0 * 31.0 / 60.0);
        check(&minute, 700_000, 0.0);
    }
}
