//! Allows one call to STS at a time for the sessions of a role, and shares a failure with the callers that waited.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::MutexGuard, time::Instant};

use super::AssumeError;

/// Pause after a failure, during which callers get the same failure without a call. Short, so that one lost answer does not
/// delay a renewal; each failure comes after several attempts of the SDK, with pauses between them.
const PAUSE: Duration = Duration::from_secs(2);
/// How long a failure is remembered. Meanwhile callers do not wait for a running attempt, which may fail like the last one.
/// Longer than all attempts of a call that times out with the default configuration.
const DOUBT: Duration = Duration::from_secs(180);

/// The right to ask STS, shared by all sessions in a role.
#[derive(Debug, Default)]
pub struct Flight {
    turn: tokio::sync::Mutex<()>,
    failed: Mutex<Option<(Instant, AssumeError)>>,
}

impl Flight {
    /// Waits for the right to ask, which lasts as long as the guard.
    ///
    /// # Errors
    /// STS did not answer a moment ago, or it did not answer the last call and another call is running.
    pub async fn turn(&self) -> Result<MutexGuard<'_, ()>, AssumeError> {
        match self.failed(DOUBT) {
            Some(error) => self.turn_or(error),
            None => {
                let turn = self.turn.lock().await;
                self.failed(PAUSE).map_or(Ok(turn), Err)
            }
        }
    }

    /// Takes the right to ask, without waiting for it.
    ///
    /// # Errors
    /// `otherwise` if another caller has the right; or STS did not answer a moment ago.
    pub fn turn_or(&self, otherwise: AssumeError) -> Result<MutexGuard<'_, ()>, AssumeError> {
        match self.failed(PAUSE) {
            Some(error) => Err(error),
            None => self.turn.try_lock().map_err(|_| otherwise),
        }
    }

    /// Records that STS did not answer the caller that has the turn.
    pub fn fail(&self, error: &AssumeError) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), error.clone()));
    }

    /// Records that STS answered, even with a refusal.
    pub fn answer(&self) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The last failure, if it is not older than `ago`.
    fn failed(&self, ago: Duration) -> Option<AssumeError> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.as_ref().filter(|(at, _)| at.elapsed() < ago).map(|(_, error)| error.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn unavailable(problem: &str) -> AssumeError {
        AssumeError::Unavailable { role: "r".into(), problem: problem.into() }
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_callers_share_the_failure() {
        let flight = Arc::new(Flight::default());
        let first = flight.turn().await.expect("no caller has the turn");
        let waiting: Vec<_> = (0..5)
            .map(|_| {
                let flight = Arc::clone(&flight);
                tokio::spawn(async move { flight.turn().await.map(drop) })
            })
            .collect();
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
        flight.fail(&unavailable("a time-out"));
        drop(first);
        let started = Instant::now();
        for waiting in waiting {
            assert_eq!(waiting.await.expect("the task ends"), Err(unavailable("a time-out")));
        }
        assert_eq!(started.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_pause_one_caller_asks_and_the_others_fail_at_once() {
        let flight = Flight::default();
        flight.fail(&unavailable("503"));
        tokio::time::advance(PAUSE - Duration::from_millis(1)).await;
        assert_eq!(flight.turn().await.map(drop), Err(unavailable("503")));
        tokio::time::advance(Duration::from_millis(1)).await;
        let turn = flight.turn().await.expect("the pause is over");
        assert_eq!(flight.turn().await.map(drop), Err(unavailable("503")), "no caller waits");
        flight.answer();
        let next = async {
            tokio::task::yield_now().await;
            drop(turn);
        };
        let (told, ()) = tokio::join!(flight.turn(), next);
        assert!(told.is_ok(), "STS answers again: worth waiting for");
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_failure_is_ignored() {
        let flight = Arc::new(Flight::default());
        flight.fail(&unavailable("503"));
        tokio::time::advance(DOUBT).await;
        let turn = flight.turn().await.expect("no caller has the turn");
        let other = tokio::spawn({
            let flight = Arc::clone(&flight);
            async move { flight.turn().await.map(drop) }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!other.is_finished());
        drop(turn);
        assert_eq!(other.await.expect("the task ends"), Ok(()));
    }
}
