//! SHA-256 of several bodies at once, for processors without instructions for it.
//!
//! Each step of SHA-256 needs the one before, so a processor's vectors are of no use to one body; but they can take a body
//! of its own in each lane, and eight take little longer than two one after the other. A body that is worth it waits for
//! others to come. Where the processor has the instructions, or no vectors wide enough, nobody waits.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::oneshot, time::timeout};

#[cfg(target_arch = "x86_64")]
use super::avx2::Kernel;
use super::{hex, sha256};

/// Shorter bodies are hashed at once, in less than 1 ms.
const WORTH_WAITING: usize = 256 * 1024;
/// Longest wait for others: twice what one busy core needs to fill eight. Waits in vain are rare, see [`ROUNDS`].
const PATIENCE: Duration = Duration::from_millis(250);
/// Fewer of the same length are hashed faster one after the other.
const FEWEST: usize = 3;
/// Rounds without a wait for more, after one waited in vain: at first, and at most, doubling in between.
const ROUNDS: (u32, u32) = (8, 64);

/// Brings together bodies that come at about the same time. Clones share them.
///
/// How many are worth waiting for shows by itself: after a round that waited in vain, the next ones wait for no more than
/// came. So bodies that come one by one, of one object or one stream, hardly ever wait.
#[derive(Clone, Debug)]
pub struct MultiBuffer {
    /// None where one after the other is best.
    kernel: Option<Kernel>,
    gathering: Arc<Mutex<Gathering>>,
}

/// A round that has not begun.
#[derive(Debug)]
struct Gathering {
    /// Rounds before.
    number: u64,
    bodies: Vec<Body>,
    /// Bodies that are waited for.
    wanted: usize,
    /// Rounds until as many are waited for as can be hashed at once, if it is fewer.
    rounds_left: u32,
    /// Rounds from the next failure to the next attempt.
    rounds: u32,
}

#[derive(Debug)]
struct Body {
    bytes: Bytes,
    digest: oneshot::Sender<String>,
}

impl Default for MultiBuffer {
    fn default() -> Self {
        Self::with(Kernel::if_useful())
    }
}

impl MultiBuffer {
    fn with(kernel: Option<Kernel>) -> Self {
        let gathering = Gathering {
            number: 0,
            bodies: Vec::new(),
            wanted: Kernel::LANES,
            rounds_left: 0,
            rounds: ROUNDS.0,
        };
        Self { kernel, gathering: Arc::new(Mutex::new(gathering)) }
    }

    /// Hashes a body into 64 lower-case digits, together with others if that is faster: then it waits until enough have come,
    /// 250 ms at most. A round takes the thread that it is called on, for some 10 ms.
    ///
    /// # Cancel safety
    /// Safe: the others get theirs.
    pub async fn sha256(&self, body: &Bytes) -> String {
        let Some(kernel) = self.kernel.filter(|_| body.len() >= WORTH_WAITING) else {
            return sha256(body);
        };
        // Dropped behind the channel's end, by which it knows the body of one who has given up.
        let _tidy = Tidy(self);
        let (digest, mut hashed) = oneshot::channel();
        let (round, complete) = self.lock().come(Body { bytes: body.clone(), digest });
        hash(kernel, complete);
        let digest = match timeout(PATIENCE, &mut hashed).await {
            Ok(digest) => digest,
            Err(_) => {
                let incomplete = self.lock().wait_no_longer(round);
                hash(kernel, incomplete);
                // It is there, or another thread is at it.
                hashed.await
            }
        };
        digest.unwrap_or_else(|_| sha256(body))
    }

    fn lock(&self) -> MutexGuard<'_, Gathering> {
        // Nothing that could panic happens while it is held.
        self.gathering.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gathering {
    /// Adds a body; says in which round it is, and gives the round's bodies out if it can begin.
    fn come(&mut self, body: Body) -> (u64, Vec<Body>) {
        let number = self.number;
        self.bodies.push(body);
        if self.bodies.len() < self.wanted {
            return (number, Vec::new());
        }
        if self.wanted == Kernel::LANES {
            self.rounds = ROUNDS.0;
        } else {
            self.rounds_left -= 1;
            if self.rounds_left == 0 {
                self.wanted = Kernel::LANES;
            }
        }
        (number, self.begin())
    }

    /// Gives the bodies of a round out that has waited in vain; none if it has begun meanwhile.
    fn wait_no_longer(&mut self, number: u64) -> Vec<Body> {
        if self.number != number {
            return Vec::new();
        }
        let came = self.bodies.len();
        self.wanted = if came < FEWEST { 1 } else { came };
        (self.rounds_left, self.rounds) = (self.rounds, (2 * self.rounds).min(ROUNDS.1));
        self.begin()
    }

    fn begin(&mut self) -> Vec<Body> {
        self.number += 1;
        std::mem::take(&mut self.bodies)
    }
}

/// Removes bodies whose digests nobody waits for any more.
struct Tidy<'a>(&'a MultiBuffer);

impl Drop for Tidy<'_> {
    fn drop(&mut self) {
        self.0.lock().bodies.retain(|body| !body.digest.is_closed());
    }
}

/// Hashes a round's bodies, if there are any.
fn hash(kernel: Kernel, bodies: Vec<Body>) {
    let messages: Vec<&[u8]> = bodies.iter().map(|body| &body.bytes[..]).collect();
    let all: usize = messages.iter().map(|message| message.len()).sum();
    let longest = messages.iter().map(|message| message.len()).max().unwrap_or_default();
    let digests: Vec<String> = if all < FEWEST * longest {
        messages.iter().map(|message| sha256(message)).collect()
    } else {
        kernel.hash(&messages).iter().map(|digest| hex(digest)).collect()
    };
    for (Body { bytes, digest: to }, digest) in bodies.into_iter().zip(digests) {
        // First, so that who waits for the digest has its body to itself again.
        drop(bytes);
        // Somebody who has given up needs none.
        let _ = to.send(digest);
    }
}

/// There is none for other processors: servers that have them can hash.
#[cfg(not(target_arch = "x86_64"))]
#[derive(Clone, Copy, Debug)]
enum Kernel {}

#[cfg(not(target_arch = "x86_64"))]
impl Kernel {
    const LANES: usize = 0;

    fn if_useful() -> Option<Self> {
        None
    }

    fn hash(self, _: &[&[u8]]) -> Vec<[u8; 32]> {
        match self {}
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use tokio::{task::JoinSet, time::Instant};

    use super::*;

    fn buffer() -> Option<MultiBuffer> {
        Kernel::new().map(|kernel| MultiBuffer::with(Some(kernel)))
    }

    /// Different ones, of slightly different lengths, all worth waiting for.
    fn bodies(count: usize) -> Vec<Bytes> {
        let body = |index: usize| {
            (0..WORTH_WAITING + 37 * index).map(|at| (at * 7 + index * 31) as u8).collect::<Vec<_>>().into()
        };
        (0..count).map(body).collect()
    }

    /// Lets bodies come at once; says how long they took.
    async fn hashed(buffer: &MultiBuffer, bodies: &[Bytes]) -> Duration {
        let start = Instant::now();
        let mut running = JoinSet::new();
        for (body, expected) in bodies.iter().map(|body| (body.clone(), sha256(body))) {
            let buffer = buffer.clone();
            running.spawn(async move { assert_eq!(buffer.sha256(&body).await, expected) });
        }
        running.join_all().await;
        assert!(bodies.iter().all(Bytes::is_unique), "somebody holds a body still");
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn each_gets_the_digest_of_its_own() {
        let Some(buffer) = buffer() else { return };
        let bodies = bodies(12);
        for count in [1, 2, 3, 8, 12, 7, 12] {
            hashed(&buffer, &bodies[..count]).await;
            hashed(&MultiBuffer::with(None), &bodies[..count]).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_without_need() {
        let Some(buffer) = buffer() else { return };
        let bodies = bodies(16);
        assert_eq!(hashed(&buffer, &bodies).await, Duration::ZERO, "two full rounds");
        assert_eq!(hashed(&buffer, &[Bytes::copy_from_slice(b"short")]).await, Duration::ZERO);
        assert_eq!(hashed(&MultiBuffer::with(None), &bodies[..1]).await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_shows_how_many_are_worth_waiting_for() {
        let Some(buffer) = buffer() else { return };
        let (five, eight) = (bodies(5), bodies(8));
        let waited = hashed(&buffer, &five).await;
        assert!(waited >= PATIENCE && waited < 2 * PATIENCE, "{waited:?}");
        for _ in 0..ROUNDS.0 {
            assert_eq!(hashed(&buffer, &five).await, Duration::ZERO);
        }
        // Are there more now? There are.
        for _ in 0..3 {
            assert_eq!(hashed(&buffer, &eight).await, Duration::ZERO);
            assert_eq!(buffer.lock().wanted, Kernel::LANES);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_that_come_one_by_one_hardly_wait() {
        let Some(buffer) = buffer() else { return };
        let body = bodies(1);
        let mut waited = Duration::ZERO;
        for _ in 0..100 {
            waited += hashed(&buffer, &body).await;
        }
        // The first, and one after 8, 16 and 32 more.
        assert!(waited < 5 * PATIENCE, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_leaves_nothing_behind() {
        let Some(buffer) = buffer() else { return };
        let bodies = bodies(3);
        timeout(PATIENCE / 2, buffer.sha256(&bodies[0])).await.expect_err("seven are missing");
        assert!(buffer.lock().bodies.is_empty() && bodies[0].is_unique());
        hashed(&buffer, &bodies[1..]).await;
    }
}
