//! Reads a dead-letter queue and moves letters back to the source queue.
//!
//! SQS shows messages only by receiving, which hides them from other receivers for a while. The sweep keeps all received
//! letters hidden until it has seen every letter, so that none is counted twice. Then it makes them visible again. A letter
//! is moved by sending its text to the source queue and then deleting it. If the process is killed in between, the message
//! is in both queues; it is never lost.
//!
//! If the answer of a send was lost, the worker has sent a message to the dead-letter queue twice. Such copies count as one
//! letter. If one of them is moved, the others are deleted.
//!
//! Letters that arrive during the sweep are left alone, so that a letter whose cause persists is not moved again and again.

pub mod letter;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::{BuildHasher, RandomState},
    num::NonZeroU32,
    time::Duration,
};

use futures_util::{StreamExt, future, stream};
use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::letter::{Filter, Letter, names_the_same_queue};
use crate::{
    queue::{
        MAX_BATCH, QueueError, Receipt,
        dead_letters::{DeadLetters, StoredLetter},
    },
    route::Rules,
};

/// How long letters are hidden. While the sweep runs, they are hidden again after half of this time. If the process is
/// killed, the letters stay hidden for up to this time.
pub const HOLD: Duration = Duration::from_secs(300);
/// Number of receives at the same time, to read a full queue in reasonable time.
const RECEIVERS: usize = 4;
/// Number of calls at the same time that give letters back.
const RETURNERS: usize = 8;
/// Number of attempts for an entry that SQS does not accept. The SDK retries whole calls, not entries.
const ENTRY_ATTEMPTS: u32 = 3;
/// Pause between these attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// What to do with the selected letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Only look at them.
    Look,
    /// Move them to the source queue, with at most this many per second.
    Move(Option<NonZeroU32>),
}

/// The instructions for a sweep.
#[derive(Clone, Debug)]
pub struct Order {
    /// Selects the letters.
    pub filter: Filter,
    /// Largest number of letters to look at or move.
    pub limit: Option<usize>,
    /// What to do with the selected letters.
    pub action: Action,
    /// URL of the source queue. Letters that SQS moved from another queue are left alone.
    pub source_url: String,
    /// What the objects' keys mean.
    pub key_rules: Rules,
    /// Start of the sweep. Letters that were sent later are left alone.
    pub now: Timestamp,
}

/// Progress of a sweep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Number of letters seen.
    pub seen: usize,
    /// Number of selected letters; when moving, number of moved letters.
    pub done: usize,
}

/// Result of a sweep.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The selected letters; when moving, those that were moved.
    pub letters: Vec<Letter>,
    /// Number of letters that were not selected.
    pub others: usize,
    /// Number of letters that another queue's redrive policy moved here. They are left alone.
    pub of_other_queues: usize,
    /// Number of letters that arrived during the sweep.
    pub newcomers: usize,
    /// Number of further copies of selected letters. A move deletes them with their letter.
    pub copies: usize,
    /// Number of letters with the text of a letter that was just moved: the letter came back at once, or existed twice.
    pub came_back: usize,
    /// Letters that the source queue did not accept. They stay in the dead-letter queue.
    pub unsent: Vec<(Letter, QueueError)>,
    /// Letters that were moved, but could not be deleted. Moving them again would repeat the message.
    pub undeleted: Vec<(Letter, QueueError)>,
    /// Number of letters that could not be given back. They become visible by themselves within [`HOLD`].
    pub unreturned: usize,
    /// Why the sweep ended before it saw every letter.
    pub broken_off: Option<BrokenOff>,
}

/// Why a sweep ended early.
#[derive(Debug, thiserror::Error)]
pub enum BrokenOff {
    /// The operator stopped the sweep.
    #[error("interrupted")]
    Interrupted,
    /// The dead-letter queue cannot be read.
    #[error("the dead-letter queue cannot be read: {0}")]
    Unreadable(#[source] QueueError),
    /// The source queue accepts no letter.
    #[error("the source queue accepts no letter")]
    Unwritable,
}

/// Looks at every letter, does what the order says, and gives back the held letters. Calls `progress` from time to time.
///
/// # Cancel safety
/// Not safe: held letters would stay hidden for up to [`HOLD`]. Cancel `stop` instead.
pub async fn sweep<D: DeadLetters>(
    queue: &D,
    order: Order,
    stop: CancellationToken,
    mut progress: impl FnMut(Progress),
) -> Outcome {
    let mut sweep = Sweep {
        queue,
        order,
        stop,
        held: Held::default(),
        seen: HashSet::new(),
        moved: HashSet::new(),
        sources: HashMap::new(),
        bodies: HashSet::new(),
        hasher: RandomState::new(),
        next_at: Instant::now(),
        outcome: Outcome::default(),
    };
    if let Err(broken_off) = sweep.run(&mut progress).await {
        sweep.outcome.broken_off = Some(broken_off);
    }
    sweep.outcome.unreturned = give_back(queue, sweep.held).await;
    sweep.outcome
}

struct Sweep<'a, D> {
    queue: &'a D,
    order: Order,
    stop: CancellationToken,
    held: Held,
    /// The ids of all letters seen.
    seen: HashSet<String>,
    /// The ids of the letters that were sent to the source queue.
    moved: HashSet<String>,
    /// The selected letters, by the id that their message had in the source queue.
    sources: HashMap<String, Copies>,
    /// Hashes of the moved texts.
    bodies: HashSet<u64>,
    hasher: RandomState,
    /// When the rate allows the next batch.
    next_at: Instant,
    outcome: Outcome,
}

/// Further copies of a selected letter.
#[derive(Default)]
struct Copies {
    /// Whether the selected letter was moved.
    moved: bool,
    /// The copies, which are held.
    others: Vec<Letter>,
}

/// A selected letter, with what is needed to move it.
struct Candidate {
    letter: Letter,
    receipt: Receipt,
    body: String,
}

impl<D: DeadLetters> Sweep<'_, D> {
    async fn run(&mut self, progress: &mut impl FnMut(Progress)) -> Result<(), BrokenOff> {
        loop {
            self.unless_stopped()?;
            if self.is_full() {
                return Ok(());
            }
            self.held.keep(self.queue).await;
            // Receives are not cancelled, because the letters of a cancelled one would stay hidden.
            let received = future::join_all((0..RECEIVERS).map(|_| self.queue.receive(HOLD))).await;
            let (mut anything_old, before) = (false, self.outcome.newcomers);
            let (mut candidates, mut ran_dry, mut failure) = (VecDeque::new(), false, None);
            for received in received {
                match received {
                    Ok(letters) => {
                        ran_dry |= letters.is_empty();
                        for stored in letters {
                            let (is_new, candidate) = self.sort(stored).await;
                            anything_old |= is_new;
                            candidates.extend(candidate);
                        }
                    }
                    Err(error) => failure = Some(error),
                }
            }
            // SQS keeps no order, so old letters may follow newcomers, and newcomers alone do not end the sweep. But a receive
            // that got nothing shows that no old letter is left. Without this second condition, the sweep of a queue that gets
            // new letters all the time would never end.
            let only_newcomers = self.outcome.newcomers > before && !ran_dry;
            self.act(candidates, progress).await?;
            progress(self.progress());
            if let Some(error) = failure {
                return Err(BrokenOff::Unreadable(error));
            }
            if !anything_old && !only_newcomers {
                return Ok(());
            }
        }
    }

    fn progress(&self) -> Progress {
        Progress { seen: self.seen.len(), done: self.outcome.letters.len() }
    }

    fn unless_stopped(&self) -> Result<(), BrokenOff> {
        if self.stop.is_cancelled() { Err(BrokenOff::Interrupted) } else { Ok(()) }
    }

    fn is_full(&self) -> bool {
        self.order.limit.is_some_and(|limit| self.outcome.letters.len() >= limit)
    }

    /// Returns whether the letter is seen for the first time and is older than the sweep; and the letter itself, if it is
    /// selected. A letter that is not selected is held, or deleted if it was moved already.
    async fn sort(&mut self, stored: StoredLetter) -> (bool, Option<Candidate>) {
        let letter = Letter::read(&stored, &self.order.key_rules);
        if self.moved.contains(&stored.id) {
            // The letter is in the source queue, but could not be deleted here, or SQS delivered it again.
            self.delete(vec![(letter, stored.receipt)]).await;
            return (false, None);
        }
        let is_new = self.seen.insert(stored.id.clone());
        let of_ours = |arn: &String| names_the_same_queue(&self.order.source_url, arn);
        let count = if !is_new {
            // Received again, because its hold ended before it was renewed.
            None
        } else if !stored.source_arn.as_ref().is_none_or(of_ours) {
            Some(&mut self.outcome.of_other_queues)
        } else if stored.sent_at.is_some_and(|sent_at| sent_at > self.order.now) {
            self.outcome.newcomers += 1;
            self.held.add(stored.id, stored.receipt);
            return (false, None);
        } else if let Some(copies) = letter.message_id.as_ref().and_then(|id| self.sources.get_mut(id)) {
            self.outcome.copies += 1;
            if copies.moved {
                self.delete(vec![(letter, stored.receipt)]).await;
                return (true, None);
            }
            copies.others.push(letter);
            None
        } else if self.bodies.contains(&self.hasher.hash_one(&stored.body)) {
            Some(&mut self.outcome.came_back)
        } else if !self.order.filter.matches(&letter) {
            Some(&mut self.outcome.others)
        } else {
            if let Some(id) = &letter.message_id {
                self.sources.insert(id.clone(), Copies::default());
            }
            return (true, Some(Candidate { letter, receipt: stored.receipt, body: stored.body }));
        };
        if let Some(count) = count {
            *count += 1;
        }
        self.held.add(stored.id, stored.receipt);
        (is_new, None)
    }

    /// Does what the order says with the selected letters. If that fails or the limit is reached, holds the rest.
    async fn act(
        &mut self,
        mut candidates: VecDeque<Candidate>,
        progress: &mut impl FnMut(Progress),
    ) -> Result<(), BrokenOff> {
        let mut result = Ok(());
        while result.is_ok() && !candidates.is_empty() && !self.is_full() {
            let room = self.order.limit.map_or(usize::MAX, |limit| limit - self.outcome.letters.len());
            match self.order.action {
                Action::Look => {
                    let found = candidates.drain(..room.min(candidates.len()));
                    for Candidate { letter, receipt, .. } in found {
                        self.held.add(letter.id.clone(), receipt);
                        self.outcome.letters.push(letter);
                    }
                }
                Action::Move(rate) => {
                    let per_batch = rate.map_or(MAX_BATCH, |rate| MAX_BATCH.min(rate.get() as usize));
                    let batch = candidates.drain(..room.min(per_batch).min(candidates.len()));
                    let batch = batch.collect();
                    result = self.move_batch(batch, rate).await;
                    progress(self.progress());
                }
            }
        }
        for Candidate { letter, receipt, .. } in candidates {
            self.held.add(letter.id, receipt);
        }
        result
    }

    async fn move_batch(&mut self, batch: Vec<Candidate>, rate: Option<NonZeroU32>) -> Result<(), BrokenOff> {
        if let Err(interrupted) = self.pace(batch.len(), rate).await {
            for Candidate { letter, receipt, .. } in batch {
                self.held.add(letter.id, receipt);
            }
            return Err(interrupted);
        }
        let count = batch.len();
        let (sent, unsent) = with_attempts(batch, async |batch: &[Candidate]| {
            let bodies: Vec<_> = batch.iter().map(|candidate| candidate.body.as_str()).collect();
            self.queue.send_back(&bodies).await
        })
        .await;
        let took_nothing = unsent.len() == count;
        for (Candidate { letter, receipt, .. }, error) in unsent {
            self.held.add(letter.id.clone(), receipt);
            self.outcome.unsent.push((letter, error));
        }
        self.moved.extend(sent.iter().map(|candidate| candidate.letter.id.clone()));
        self.bodies.extend(sent.iter().map(|candidate| self.hasher.hash_one(&candidate.body)));
        self.outcome.letters.extend(sent.iter().map(|candidate| candidate.letter.clone()));
        let mut done = Vec::new();
        for Candidate { letter, receipt, .. } in sent {
            let copies = letter.message_id.as_ref().and_then(|id| self.sources.get_mut(id));
            if let Some(copies) = copies {
                copies.moved = true;
                let others = copies.others.drain(..);
                done.extend(others.filter_map(|copy| {
                    let receipt = self.held.take(&copy.id)?;
                    Some((copy, receipt))
                }));
            }
            done.push((letter, receipt));
        }
        for batch in done.chunks(MAX_BATCH) {
            self.delete(batch.to_vec()).await;
        }
        if took_nothing { Err(BrokenOff::Unwritable) } else { Ok(()) }
    }

    /// Waits until the rate allows `count` more letters.
    async fn pace(&mut self, count: usize, rate: Option<NonZeroU32>) -> Result<(), BrokenOff> {
        let Some(rate) = rate else { return self.unless_stopped() };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err(BrokenOff::Interrupted),
            () = tokio::time::sleep_until(self.next_at) => {}
        }
        self.next_at = Instant::now() + Duration::from_secs_f64(count as f64 / f64::from(rate.get()));
        Ok(())
    }

    async fn delete(&mut self, letters: Vec<(Letter, Receipt)>) {
        let (deleted, undeleted) = with_attempts(letters, async |letters: &[(Letter, Receipt)]| {
            let receipts: Vec<_> = letters.iter().map(|(_, receipt)| receipt.clone()).collect();
            self.queue.delete(&receipts).await
        })
        .await;
        let tried = deleted.iter().chain(undeleted.iter().map(|(entry, _)| entry));
        let tried: HashSet<_> = tried.map(|(letter, _)| letter.id.as_str()).collect();
        self.outcome.undeleted.retain(|(letter, _)| !tried.contains(letter.id.as_str()));
        let undeleted = undeleted.into_iter().map(|((letter, _), error)| (letter, error));
        self.outcome.undeleted.extend(undeleted);
    }
}

/// Repeats a call for the entries that failed. Returns the entries that succeeded, and those that did not.
async fn with_attempts<T>(
    entries: Vec<T>,
    mut call: impl AsyncFnMut(&[T]) -> Vec<Result<(), QueueError>>,
) -> (Vec<T>, Vec<(T, QueueError)>) {
    let (mut good, mut left) = (Vec::new(), entries);
    for attempt in 1.. {
        if left.is_empty() {
            break;
        }
        let results = call(&left).await;
        let mut failed = Vec::new();
        for (entry, result) in left.into_iter().zip(results) {
            match result {
                Ok(()) => good.push(entry),
                Err(error) => failed.push((entry, error)),
            }
        }
        if attempt == ENTRY_ATTEMPTS || failed.is_empty() {
            return (good, failed);
        }
        left = failed.into_iter().map(|(entry, _)| entry).collect();
        tokio::time::sleep(PAUSE).await;
    }
    (good, Vec::new())
}

/// The hidden letters, longest held first.
#[derive(Default)]
struct Held {
    receipts: HashMap<String, Receipt>,
    since: VecDeque<(Instant, String)>,
}

impl Held {
    fn add(&mut self, id: String, receipt: Receipt) {
        self.since.push_back((Instant::now(), id.clone()));
        self.receipts.insert(id, receipt);
    }

    /// Removes a letter that will be deleted.
    fn take(&mut self, id: &str) -> Option<Receipt> {
        self.since.retain(|(_, held)| held != id);
        self.receipts.remove(id)
    }

    /// Renews the hiding of letters whose time is half over.
    async fn keep<D: DeadLetters>(&mut self, queue: &D) {
        while self.since.front().is_some_and(|(since, _)| since.elapsed() >= HOLD / 2) {
            let count = self.since.len().min(MAX_BATCH);
            let batch: Vec<_> = self.since.drain(..count).map(|(_, id)| id).collect();
            let receipts: Vec<_> = batch.iter().filter_map(|id| self.receipts.get(id).cloned()).collect();
            // A letter that cannot be hidden is received again, and recognised by its id.
            queue.hide(&receipts, HOLD).await;
            self.since.extend(batch.into_iter().map(|id| (Instant::now(), id)));
        }
    }
}

/// Makes all held letters visible. Returns the number of letters that could not be made visible.
async fn give_back<D: DeadLetters>(queue: &D, held: Held) -> usize {
    let receipts: Vec<_> = held.receipts.into_values().collect();
    let batches = receipts.chunks(MAX_BATCH).map(async |batch| {
        let hide = async |left: &[Receipt]| {
            let results = queue.hide(left, Duration::ZERO).await.into_iter();
            // Other errors mean that the letter is visible already, or held by another receiver.
            let failed = |result: &_| matches!(result, Err(QueueError::Unavailable(_)));
            results.map(|result| if failed(&result) { result } else { Ok(()) }).collect()
        };
        with_attempts(batch.to_vec(), hide).await.1.len()
    });
    stream::iter(batches).buffer_unordered(RETURNERS).collect::<Vec<_>>().await.into_iter().sum()
}

#[cfg(test)]
mod tests;
