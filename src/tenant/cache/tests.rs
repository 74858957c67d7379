//! Tests of fresh, stale and failed lookups, with a directory that answers, refuses or hangs as a test demands.

use super::*;

const TTL: Duration = Duration::from_secs(60);
const NEGATIVE_TTL: Duration = Duration::from_secs(20);
const MAX_STALE: Duration = Duration::from_secs(3600);

/// Behaviour of the directory.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Answers,
    Refuses,
    Hangs,
}

#[derive(Clone, Debug)]
struct Moody(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    mood: Mood,
    paused: bool,
    /// Whether the tenant "nobody" has been added.
    added: bool,
    asked: Vec<String>,
}

impl Directory for Moody {
    /// Finds every tenant except "nobody". A lookup takes one second, and answers with the state at its beginning.
    async fn find(&self, tenant_id: &str) -> Result<Found, LookupError> {
        let (mood, paused, added) = {
            let mut state = self.0.lock().expect("no test panics while it holds the lock");
            state.asked.push(tenant_id.to_owned());
            (state.mood, state.paused, state.added)
        };
        tokio::time::sleep(Duration::from_secs(1)).await;
        match mood {
            Mood::Answers if tenant_id == "nobody" && !added => Ok(None),
            Mood::Answers => Ok(Some(Arc::new(Tenant { paused, ..Tenant::default() }))),
            Mood::Refuses => Err(refusal(tenant_id)),
            Mood::Hangs => std::future::pending().await,
        }
    }
}

fn refusal(tenant_id: &str) -> LookupError {
    LookupError { tenant_id: tenant_id.into(), table: "tenants".into(), problem: "down".into() }
}

struct World {
    directory: Moody,
    cache: TenantCache<Moody>,
    metrics: Metrics,
}

impl World {
    fn new(max_stale: Duration) -> Self {
        let state = State { mood: Mood::Answers, paused: false, added: false, asked: Vec::new() };
        let directory = Moody(Arc::new(Mutex::new(state)));
        let settings = CacheSettings {
            table: "tenants".into(),
            capacity: 100,
            ttl: TTL,
            negative_ttl: NEGATIVE_TTL,
            max_stale,
        };
        let metrics = Metrics::default();
        let cache = TenantCache::new(directory.clone(), settings, metrics.clone());
        Self { directory, cache, metrics }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.directory.0.lock().expect("no test panics while it holds the lock")
    }

    fn is(&self, mood: Mood) {
        self.state().mood = mood;
    }

    /// Tenants that the directory looked up since the last call of this function.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state().asked)
    }

    /// `Some(true)`: found, `Some(false)`: no such tenant, `None`: an error.
    async fn find(&self, tenant_id: &str) -> Option<bool> {
        self.cache.find(tenant_id).await.ok().map(|found| found.is_some())
    }

    async fn check(&self, tenant_id: &str, expected: Option<bool>, asked: &[&str]) {
        assert_eq!((self.find(tenant_id).await, self.asked()), (expected, owned(asked)), "{tenant_id}");
    }

    fn counted(&self, expected: [u64; 4]) {
        let results = ["found", "none", "stale", "failed"];
        let counts =
            results.map(|result| self.metrics.tenant_lookups.get_or_create(&Ended::new(result)).get());
        assert_eq!(counts, expected, "{results:?}");
    }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

async fn after(time: Duration) {
    tokio::time::advance(time).await;
}

#[tokio::test(start_paused = true)]
async fn an_entry_is_looked_up_again_after_its_ttl() {
    let world = World::new(MAX_STALE);
    world.check("acme", Some(true), &["acme"]).await;
    world.check("nobody", Some(false), &["nobody"]).await;
    // Each of the two lookups took one second.
    after(NEGATIVE_TTL - Duration::from_secs(2)).await;
    world.check("nobody", Some(false), &[]).await;
    world.state().added = true;
    after(Duration::from_secs(1)).await;
    world.check("nobody", Some(true), &["nobody"]).await;
    after(TTL - NEGATIVE_TTL - Duration::from_secs(3)).await;
    world.check("acme", Some(true), &[]).await;
    world.state().paused = true;
    after(Duration::from_secs(1)).await;
    let found = world.cache.find("acme").await.expect("the table answers").expect("acme is a tenant");
    assert!(found.paused, "acme was looked up again");
    world.counted([3, 1, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn only_a_lookup_that_began_later_confirms() {
    let world = World::new(MAX_STALE);
    let confirm = async |tenant_id: &str, since| {
        let found = world.cache.confirm(tenant_id, since).await;
        (found.ok().map(|found| found.is_some()), world.asked())
    };
    let began = Instant::now();
    world.check("nobody", Some(false), &["nobody"]).await;
    assert_eq!(
        confirm("nobody", began).await,
        (Some(false), owned(&[])),
        "the lookup began at that time or later"
    );
    world.state().added = true;
    // The remembered absence does not confirm anything for a message that arrived after the lookup began.
    world.check("nobody", Some(false), &[]).await;
    let since = began + Duration::from_millis(1);
    assert_eq!(confirm("nobody", since).await, (Some(true), owned(&["nobody"])));
    world.check("nobody", Some(true), &[]).await;
    // The tenant was paused and is resumed.
    world.state().paused = true;
    world.check("acme", Some(true), &["acme"]).await;
    world.state().paused = false;
    let now = Instant::now();
    let found = world.cache.confirm("acme", now).await.expect("the table answers").expect("acme is a tenant");
    assert!(!found.paused);
    assert_eq!(world.asked(), ["acme"]);
    // During an outage no entry is confirmed, and only the first lookup asks the table.
    world.is(Mood::Refuses);
    after(Duration::from_secs(1)).await;
    assert_eq!(confirm("acme", Instant::now()).await, (None, owned(&["acme"])));
    assert_eq!(confirm("acme", Instant::now()).await, (None, owned(&[])));
    world.check("acme", Some(true), &[]).await;
}

/// A message that waits for a confirmation holds a slot, so the wait is short.
#[tokio::test(start_paused = true)]
async fn a_confirmation_waits_5_s_at_most() {
    let world = World::new(MAX_STALE);
    world.check("nobody", Some(false), &["nobody"]).await;
    world.is(Mood::Hangs);
    let began = Instant::now();
    let confirmed = world.cache.confirm("nobody", began).await;
    assert!(confirmed.is_err(), "{confirmed:?}");
    assert_eq!(began.elapsed(), PATIENCE);
    // The next confirmation fails at once.
    let confirmed = world.cache.confirm("nobody", Instant::now()).await;
    assert!(confirmed.is_err() && began.elapsed() == PATIENCE, "{confirmed:?}, {:?}", began.elapsed());
    world.is(Mood::Answers);
    after(PROBE_INTERVAL).await;
    let confirmed = world.cache.confirm("nobody", Instant::now()).await;
    assert!(matches!(confirmed, Ok(None)), "{confirmed:?}");
}

#[tokio::test(start_paused = true)]
async fn many_confirmations_of_one_tenant_share_lookups() {
    let world = World::new(MAX_STALE);
    let seconds = 10;
    let mut flood = tokio::task::JoinSet::new();
    for tenths in 0..seconds * 10 {
        let cache = world.cache.clone();
        flood.spawn(async move {
            tokio::time::sleep(Duration::from_millis(100 * tenths)).await;
            cache.confirm("nobody", Instant::now()).await
        });
    }
    let answers = flood.join_all().await;
    assert!(answers.iter().all(|answer| matches!(answer, Ok(None))), "{answers:?}");
    let asked = world.asked().len() as u64;
    // A lookup takes one second, and confirmations that arrive meanwhile share the next one.
    assert!((seconds..=seconds + 1).contains(&asked), "{asked} for 100 messages in {seconds} s");
}

#[tokio::test(start_paused = true)]
async fn simultaneous_lookups_share_one_answer_or_one_error() {
    for (mood, expected, counts) in
        [(Mood::Refuses, None, [0, 0, 0, 3]), (Mood::Answers, Some(true), [1, 0, 0, 0])]
    {
        let world = World::new(MAX_STALE);
        world.is(mood);
        let answers = tokio::join!(world.find("acme"), world.find("acme"), world.find("acme"));
        assert_eq!((answers, world.asked()), ((expected, expected, expected), owned(&["acme"])), "{mood:?}");
        world.counted(counts);
    }
}

#[tokio::test(start_paused = true)]
async fn tenants_found_before_are_served_during_an_outage() {
    let world = World::new(MAX_STALE);
    world.check("acme", Some(true), &["acme"]).await;
    world.check("globex", Some(true), &["globex"]).await;
    world.check("nobody", Some(false), &["nobody"]).await;
    world.is(Mood::Refuses);
    after(TTL).await;
    // The first lookup asks the table. After that no lookup does until the next probe.
    world.check("acme", Some(true), &["acme"]).await;
    world.check("acme", Some(true), &[]).await;
    world.check("globex", Some(true), &[]).await;
    // A tenant that was not found before gets an error, whether its absence is remembered or not.
    world.check("nobody", None, &[]).await;
    world.check("initech", None, &[]).await;
    world.counted([2, 1, 3, 2]);
    let error = world.cache.find("initech").await.expect_err("the table does not answer");
    assert_eq!((error.tenant_id.as_str(), error.problem.as_str()), ("initech", "down"));
    after(PROBE_INTERVAL).await;
    world.check("initech", None, &["initech"]).await;
    world.check("globex", Some(true), &[]).await;
    // Only one probe is made at a time, and other lookups do not wait for it.
    after(PROBE_INTERVAL).await;
    let began = Instant::now();
    let (probe, other) = tokio::join!(world.find("initech"), async {
        let other = world.find("globex").await;
        (other, began.elapsed())
    });
    assert_eq!((probe, other, world.asked()), (None, (Some(true), Duration::ZERO), owned(&["initech"])));
    // The table answers again. The next probe notices this, and ends the outage for all lookups.
    world.is(Mood::Answers);
    after(PROBE_INTERVAL).await;
    world.check("globex", Some(true), &["globex"]).await;
    world.check("acme", Some(true), &["acme"]).await;
    world.check("nobody", Some(false), &["nobody"]).await;
    assert!(world.cache.shared.outage().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_stale_entry_is_served_for_max_stale_at_most() {
    for (max_stale, bridged, expected) in [
        (MAX_STALE, MAX_STALE - Duration::from_secs(3), Some(true)),
        (MAX_STALE, MAX_STALE, None),
        (Duration::ZERO, Duration::ZERO, None),
    ] {
        let world = World::new(max_stale);
        world.check("acme", Some(true), &["acme"]).await;
        world.is(Mood::Refuses);
        after(TTL + bridged).await;
        world.check("acme", expected, &["acme"]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_hangs_delays_lookups_by_5_s_at_most() {
    let world = World::new(MAX_STALE);
    world.check("acme", Some(true), &["acme"]).await;
    world.check("globex", Some(true), &["globex"]).await;
    world.is(Mood::Hangs);
    after(TTL).await;
    let began = Instant::now();
    world.check("acme", Some(true), &["acme"]).await;
    assert_eq!(began.elapsed(), PATIENCE);
    // The outage is known now, so no lookup waits, not even one of an unknown tenant.
    for _ in 0..10 {
        world.check("acme", Some(true), &[]).await;
        world.check("globex", Some(true), &[]).await;
        world.check("initech", None, &[]).await;
    }
    assert_eq!(began.elapsed(), PATIENCE);
    // A probe also waits for 5 s at most.
    after(PROBE_INTERVAL).await;
    let began = Instant::now();
    world.check("initech", None, &["initech"]).await;
    assert_eq!(began.elapsed(), PATIENCE);
}

#[tokio::test(start_paused = true)]
async fn probes_of_readiness_begin_and_end_outages_too() {
    let world = World::new(MAX_STALE);
    world.check("acme", Some(true), &["acme"]).await;
    world.is(Mood::Refuses);
    assert!(world.cache.probe().await.is_err());
    assert_eq!(world.asked(), [NOBODY]);
    after(TTL - Duration::from_secs(2)).await;
    assert!(world.cache.probe().await.is_err());
    world.asked();
    world.check("acme", Some(true), &[]).await;
    world.is(Mood::Answers);
    world.cache.probe().await.expect("the table answers");
    world.asked();
    world.check("acme", Some(true), &["acme"]).await;
    world.counted([2, 0, 1, 0]);
}
