//! Paces a replay: objects begin at a steady rate, without bursts. Pure: time is an argument.

use std::time::Duration;

use tokio::time::Instant;

/// How late an object may begin without slowing the following ones down. Timers and full slots delay objects; without this
/// allowance, every delay would lower the rate. At most this time's objects begin at once.
const ALLOWANCE: Duration = Duration::from_millis(100);
/// An object that turned out to be delivered before costs this part of an object's turn, and no bytes: it costs S3 a HeadObject
/// and the ledger a write, but no reading and no put.
const LOOK: f64 = 0.1;

/// Most objects and bytes per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Caps {
    /// Objects that begin per second, above 0.
    pub objects_per_second: f64,
    /// Stored bytes of the objects that begin per second, above 0.
    pub bytes_per_second: f64,
}

/// Says when the next object may begin.
#[derive(Debug)]
pub struct Pacer {
    caps: Caps,
    /// When the turns so far are over.
    over: Option<Instant>,
}

impl Pacer {
    /// The first object may begin at once.
    pub fn new(caps: Caps) -> Self {
        Self { caps, over: None }
    }

    /// When the next object may begin. The time may be in the past.
    pub fn next(&self, now: Instant) -> Instant {
        self.over.unwrap_or(now)
    }

    /// Begins an object: the next one may begin when its turn is over.
    pub fn take(&mut self, bytes: u64, now: Instant) {
        let from = self.over.unwrap_or(now).max(now.checked_sub(ALLOWANCE).unwrap_or(now));
        self.over = Some(from + self.turn(bytes));
    }

    /// Takes back most of the turn of an object that needed no reading.
    pub fn give_back(&mut self, bytes: u64) {
        let look = Duration::from_secs_f64(LOOK / self.caps.objects_per_second);
        let most = self.turn(bytes).saturating_sub(look);
        self.over = self.over.map(|over| over.checked_sub(most).unwrap_or(over));
    }

    /// Duration of an object's turn: the longer one of both caps.
    fn turn(&self, bytes: u64) -> Duration {
        let Caps { objects_per_second, bytes_per_second } = self.caps;
        Duration::from_secs_f64((1.0 / objects_per_second).max(bytes as f64 / bytes_per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caps(objects_per_second: f64, bytes_per_second: f64) -> Caps {
        Caps { objects_per_second, bytes_per_second }
    }

    /// Runs objects through a pacer, each `late` after its turn. Returns the seconds until the last one's turn is over.
    async fn run(pacer: &mut Pacer, sizes: impl IntoIterator<Item = u64>, late: Duration) -> f64 {
        let began = Instant::now();
        for bytes in sizes {
            tokio::time::sleep_until(pacer.next(Instant::now()) + late).await;
            pacer.take(bytes, Instant::now());
        }
        (pacer.next(began) - began).as_secs_f64()
    }

    #[track_caller]
    fn close(seconds: f64, expected: f64) {
        assert!((seconds / expected - 1.0).abs() < 0.01, "{seconds} s instead of {expected} s");
    }

    #[tokio::test(start_paused = true)]
    async fn both_caps_hold() {
        close(run(&mut Pacer::new(caps(50.0, 1e9)), vec![1000; 500], Duration::ZERO).await, 10.0);
        close(run(&mut Pacer::new(caps(1e6, 5000.0)), vec![1000; 500], Duration::ZERO).await, 100.0);
        // Half of the objects are limited by their bytes, and half by their number.
        let mixed = (0..100).map(|number| if number % 2 == 0 { 10 } else { 1000 });
        close(run(&mut Pacer::new(caps(10.0, 1000.0)), mixed, Duration::ZERO).await, 50.0 * 0.1 + 50.0);
    }

    #[tokio::test(start_paused = true)]
    async fn timers_that_are_late_do_not_lower_the_rate() {
        let late = Duration::from_millis(3);
        close(run(&mut Pacer::new(caps(200.0, 1e9)), vec![1; 2000], late).await, 10.0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_time_is_not_made_up_for() {
        let mut pacer = Pacer::new(caps(10.0, 1e9));
        pacer.take(1, Instant::now());
        tokio::time::sleep(Duration::from_secs(60)).await;
        let at_once = std::iter::from_fn(|| {
            let now = Instant::now();
            (pacer.next(now) <= now).then(|| pacer.take(1, now))
        });
        assert_eq!(at_once.take(100).count(), 2, "the one that is due, and a tenth of a second's");
    }

    #[tokio::test(start_paused = true)]
    async fn objects_that_were_delivered_before_cost_a_tenth_and_no_bytes() {
        let (mut pacer, began) = (Pacer::new(caps(10.0, 1000.0)), Instant::now());
        for _ in 0..100 {
            tokio::time::sleep_until(pacer.next(Instant::now())).await;
            pacer.take(1_000_000, Instant::now());
            pacer.give_back(1_000_000);
        }
        close((pacer.next(began) - began).as_secs_f64(), 1.0);
    }
}
