//! Lets one at a time ask STS for sessions in a role, and spares the others a failure that one has just had.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::MutexGuard, time::Instant};

use super::AssumeError;

/// How long nobody asks after a failure: those who waited for it share it. Short, because a single lost answer should not
/// delay a renewal; each attempt behind it is several of the SDK's, with pauses in between.
const PAUSE: Duration = Duration::from_secs(2);
/// How long a failure is remembered: meanwhile nobody waits for another's attempt, which may end like the last one. Longer
/// than all attempts of a call that times out by the default configuration.
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
    /// STS did not answer a moment ago; or it did not when it was last asked, and another is asking now.
    pub async fn turn(&self) -> Result<MutexGuard<'_, ()>, AssumeError> {
        match self.failed(DOUBT) {
            Some(error) => self.turn_or(error),
            None => {
                let turn = self.turn.lock().await;
                self.failed(PAUSE).map_or(Ok(turn), Err)
            }
        }
    }

    /// The right to ask if nobody has it.
    ///
    /// # Errors
    /// Another is asking now: `otherwise`; or STS did not answer a moment ago.
    pub fn turn_or(&self, otherwise: AssumeError) -> Result<MutexGuard<'_, ()>, AssumeError> {
        match self.failed(PAUSE) {
            Some(error) => Err(error),
            None => self.turn.try_lock().map_err(|_| otherwise),
        }
    }

    /// STS did not answer whoever has the turn.
    pub fn fail(&self, error: &AssumeError) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), error.clone()));
    }

    /// STS answered, whatever it said.
    pub fn answer(&self) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The last failure, if it is no longer ago than that.
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
    async fn those_who_waited_share_the_failure() {
        let flight = Arc::new(Flight::default());
        let first = flight.turn().await.expect("nobody asks");
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
            assert_eq!(waiting.await.expect("it ends"), Err(unavailable("a time-out")));
        }
        assert_eq!(started.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_pause_one_asks_and_nobody_waits_for_it() {
        let flight = Flight::default();
        flight.fail(&unavailable("503"));
        tokio::time::advance(PAUSE - Duration::from_millis(1)).await;
        assert_eq!(flight.turn().await.map(drop), Err(unavailable("503")));
        tokio::time::advance(Duration::from_millis(1)).await;
        let turn = flight.turn().await.expect("the pause is over");
        assert_eq!(flight.turn().await.map(drop), Err(unavailable("503")), "nobody waits");
        flight.answer();
        let next = async {
            tokio::task::yield_now().await;
            drop(turn);
        };
        let (told, ()) = tokio::join!(flight.turn(), next);
        assert!(told.is_ok(), "STS answers again: worth waiting for");
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_failure_says_nothing() {
        let flight = Arc::new(Flight::default());
        flight.fail(&unavailable("503"));
        tokio::time::advance(DOUBT).await;
        let turn = flight.turn().await.expect("nobody asks");
        let other = tokio::spawn({
            let flight = Arc::clone(&flight);
            async move { flight.turn().await.map(drop) }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!other.is_finished());
        drop(turn);
        assert_eq!(other.await.expect("it ends"), Ok(()));
    }
}
