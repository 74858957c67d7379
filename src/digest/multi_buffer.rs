//! SHA-256 of several bodies at once, for processors without instructions for it.
//!
//! Each step of SHA-256 needs the one before, so a processor's vectors are of no use to one body; but they can take a body
//! of its own in each lane, and eight take as long as three take one after the other. A body that is worth it waits for
//! others to come, never for long. Where the processor has the instructions, or no vectors wide enough, nobody waits.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::oneshot, time::timeout};

#[cfg(target_arch = "x86_64")]
use super::avx2::Kernel;
use super::{hex, sha256};

/// Shorter bodies are hashed at once, in less than 1 ms.
const WORTH_WAITING: usize = 256 * 1024;
/// Longest wait for others: about what PutLogEvents takes for a full body, and what two busy cores need to fill eight.
const PATIENCE: Duration = Duration::from_millis(100);
/// Fewer of the same length are hashed faster one after the other.
const FEWEST: usize = 3;

/// Brings together the bodies of all who [join](Self::join).
#[derive(Clone, Debug)]
pub struct MultiBuffer {
    shared: Arc<Shared>,
}

/// One who may come with a body; as long as it lives, others may wait for it.
#[derive(Debug)]
pub struct Member {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// None where one after the other is best.
    kernel: Option<Kernel>,
    members: AtomicUsize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Groups that have left before.
    round: u64,
    bodies: Vec<Body>,
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
        let shared = Shared { kernel, members: AtomicUsize::new(0), waiting: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    /// Lets somebody come with bodies.
    pub fn join(&self) -> Member {
        self.shared.members.fetch_add(1, Ordering::Relaxed);
        Member { shared: self.shared.clone() }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.shared.members.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Member {
    /// Hashes a body into 64 lower-case digits, together with those of other members if that is faster: then it waits until
    /// each has come with one, as many have as are hashed at once, or 100 ms have gone by.
    ///
    /// # Cancel safety
    /// Safe: the others get theirs.
    pub async fn sha256(&self, body: &Bytes) -> String {
        // One body of each is what may come.
        let full = self.shared.members.load(Ordering::Relaxed).min(Kernel::LANES);
        let Some(kernel) = self.shared.kernel.filter(|_| full >= FEWEST && body.len() >= WORTH_WAITING)
        else {
            return sha256(body);
        };
        let (digest, mut hashed) = oneshot::channel();
        let round = {
            let mut waiting = self.shared.lock();
            let round = waiting.round;
            waiting.bodies.push(Body { bytes: body.clone(), digest });
            if waiting.bodies.len() >= full {
                waiting.leave(kernel);
            }
            round
        };
        let digest = match timeout(PATIENCE, &mut hashed).await {
            Ok(digest) => digest,
            Err(_) => {
                self.shared.leave_if_still(round, kernel);
                hashed.await
            }
        };
        // Only a runtime that is shutting down hashes no more.
        digest.unwrap_or_else(|_| sha256(body))
    }
}

impl Shared {
    fn leave_if_still(&self, round: u64, kernel: Kernel) {
        let mut waiting = self.lock();
        if waiting.round == round {
            waiting.leave(kernel);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        // Nothing that could panic happens while it is held.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Hashes those that are here, on a thread that nobody waits for: it takes some 10 ms.
    fn leave(&mut self, kernel: Kernel) {
        self.round += 1;
        let bodies = std::mem::take(&mut self.bodies);
        tokio::task::spawn_blocking(move || hash(kernel, bodies));
    }
}

fn hash(kernel: Kernel, bodies: Vec<Body>) {
    let messages: Vec<&[u8]> = bodies.iter().map(|body| &body.bytes[..]).collect();
    let (all, longest) =
        messages.iter().fold((0, 0), |(all, longest), it| (all + it.len(), longest.max(it.len())));
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
    use std::iter;

    use tokio::time::Instant;

    use super::*;

    /// Different ones, of slightly different lengths, all worth waiting for.
    fn bodies(count: usize) -> Vec<Bytes> {
        let body = |index: usize| {
            (0..WORTH_WAITING + 37 * index).map(|at| (at * 7 + index * 31) as u8).collect::<Vec<_>>().into()
        };
        (0..count).map(body).collect()
    }

    /// Lets members come with a body each; says how long that took.
    async fn hashed(kernel: Option<Kernel>, members: usize, bodies: &[Bytes]) -> Duration {
        let buffer = MultiBuffer::with(kernel);
        let mut idle: Vec<Member> = iter::repeat_with(|| buffer.join()).take(members).collect();
        let start = Instant::now();
        let busy = idle.drain(..bodies.len()).zip(bodies.to_vec());
        let busy: Vec<_> = busy
            .map(|(member, body)| tokio::spawn(async move { (member.sha256(&body).await, member) }))
            .collect();
        for (busy, body) in busy.into_iter().zip(bodies) {
            let (digest, member) = busy.await.expect("hashing does not panic");
            assert_eq!(digest, sha256(body), "{kernel:?}, {members} members");
            idle.push(member);
        }
        assert!(bodies.iter().all(Bytes::is_unique), "somebody holds a body still");
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn each_gets_the_digest_of_its_own() {
        let bodies = bodies(12);
        for kernel in [None, Kernel::new()] {
            for members in [2, 3, 8, 12] {
                hashed(kernel, members, &bodies[..members]).await;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_without_need() {
        let Some(kernel) = Kernel::new() else { return };
        let bodies = bodies(16);
        // All have come, or as many as are hashed at once.
        assert_eq!(hashed(Some(kernel), 5, &bodies[..5]).await, Duration::ZERO);
        assert_eq!(hashed(Some(kernel), 20, &bodies).await, Duration::ZERO);
        // There is nobody to wait for, or it would be no faster.
        assert_eq!(hashed(Some(kernel), 2, &bodies[..1]).await, Duration::ZERO);
        assert_eq!(hashed(None, 16, &bodies[..1]).await, Duration::ZERO);
        assert_eq!(hashed(Some(kernel), 16, &[Bytes::copy_from_slice(b"short")]).await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_long() {
        let Some(kernel) = Kernel::new() else { return };
        for came in [1, 5] {
            let took = hashed(Some(kernel), 8, &bodies(came)).await;
            assert!(took >= PATIENCE && took < PATIENCE * 2, "{took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_keeps_nobody() {
        let Some(kernel) = Kernel::new() else { return };
        let bodies = bodies(3);
        let buffer = MultiBuffer::with(Some(kernel));
        let [first, second, third] = [(); 3].map(|()| buffer.join());
        timeout(PATIENCE / 2, first.sha256(&bodies[0])).await.expect_err("two are missing");
        let (second, third) = tokio::join!(second.sha256(&bodies[1]), third.sha256(&bodies[2]));
        assert_eq!((second, third), (sha256(&bodies[1]), sha256(&bodies[2])));
        assert!(buffer.shared.lock().bodies.is_empty());
    }
}
