//! Tests of the book by its own clock, and of the metrics.

use super::{
    book::{DEAD_LETTER_STOPS, MARGIN, MOST_WAITING_OF_ONE, OTHER, Sample},
    *,
};

const OBJECT: ObjectName<'_> = ObjectName { bucket: "b", key: "k", version: None };
const HOUR: Duration = Duration::from_secs(3_600);

/// A book, and a clock that the test moves.
struct World {
    book: StatusBook,
    ms: i64,
}

impl World {
    fn new(max_named: usize) -> Self {
        Self { book: StatusBook::new(max_named), ms: 0 }
    }

    fn now(&self) -> Now {
        Now { ms: self.ms, wall: Timestamp::from_millisecond(self.ms).expect("a time") }
    }

    fn pass(&mut self, time: Duration) {
        self.ms += i64::try_from(time.as_millis()).expect("a short time");
    }

    fn begin(&mut self, tenant_id: &str, object: u64, age: Duration) {
        self.book.begin(tenant_id, object, age, self.ms).expect("there is room");
    }

    fn retried(&mut self, tenant_id: &str, object: u64, reason: &'static str, again_in: Duration) {
        self.fails(tenant_id, None, reason, Some(again_in));
        self.book.leave(tenant_id, object, Some(Advice::on(reason)), again_in, self.ms);
    }

    fn fails(
        &mut self,
        tenant_id: &str,
        delivery: Option<&str>,
        reason: &'static str,
        again_in: Option<Duration>,
    ) {
        let tenant_id = Some(tenant_id);
        let failure = ObjectFailure { tenant_id, delivery, key: Some("k"), reason, text: "no", again_in };
        self.book.failed(&failure, self.now());
    }

    fn delivers(&mut self, tenant_id: &str, delivery: &str, object: u64) {
        self.book.accepted(tenant_id, 10, 1_000, self.ms);
        self.book.delivered(tenant_id, delivery, None, self.now());
        self.book.end(tenant_id, object);
    }

    fn tenant(&self, tenant_id: &str) -> TenantLine {
        let snapshot = self.book.snapshot(usize::MAX, self.ms);
        snapshot.tenants.into_iter().find(|line| *line.tenant_id == *tenant_id).expect("it is known")
    }

    /// State, reason, number of waiting objects, and age of the oldest in seconds.
    fn check(
        &self,
        tenant_id: &str,
        state: TenantState,
        reason: Option<&str>,
        waiting: usize,
        oldest: Option<u64>,
    ) {
        let line = self.tenant(tenant_id);
        let found = (line.state, line.advice.map(|advice| advice.reason), line.waiting);
        assert_eq!(found, (state, reason, waiting), "{line:?}");
        assert_eq!(line.oldest_waiting.map(|age| age.as_secs()), oldest, "{line:?}");
    }

    fn sample(&self, tenant: &str) -> Option<Sample> {
        self.book.samples(self.ms).into_iter().find(|sample| *sample.tenant == *tenant)
    }
}

#[test]
fn an_object_waits_from_its_first_receipt_until_it_is_delivered() {
    let mut world = World::new(9);
    world.begin("acme", 1, Duration::ZERO);
    world.pass(Duration::from_secs(2));
    world.check("acme", TenantState::Ok, None, 1, Some(2));
    world.retried("acme", 1, "role_denied", Duration::from_secs(30));
    world.pass(Duration::from_secs(30));
    world.check("acme", TenantState::Refused, Some("role_denied"), 1, Some(32));
    // A message that is sent anew has another id, but names the same object.
    world.begin("acme", 1, Duration::from_secs(32));
    world.check("acme", TenantState::Refused, Some("role_denied"), 1, Some(32));
    world.delivers("acme", "cloudwatch", 1);
    world.check("acme", TenantState::Ok, None, 0, None);
    assert_eq!(world.tenant("acme").last_success, Some(world.now().wall));
    // A worker that starts later knows the age from the message.
    world.begin("acme", 2, HOUR);
    world.check("acme", TenantState::Ok, None, 1, Some(3_600));
}

#[test]
fn an_object_that_does_not_come_back_expires() {
    let mut world = World::new(9);
    world.begin("acme", 1, Duration::ZERO);
    world.retried("acme", 1, "throttled", Duration::from_secs(60));
    world.pass(Duration::from_secs(60) + MARGIN - Duration::from_millis(1));
    world.check("acme", TenantState::Waiting, Some("throttled"), 1, Some(179));
    world.pass(Duration::from_millis(1));
    world.check("acme", TenantState::Ok, None, 0, None);
    // An object in work does not expire.
    world.begin("acme", 2, Duration::ZERO);
    world.pass(24 * HOUR);
    world.book.tidy(world.ms);
    world.check("acme", TenantState::Ok, None, 1, Some(86_400));
}

#[test]
fn a_success_clears_its_own_delivery_alone() {
    let mut world = World::new(9);
    world.begin("acme", 1, Duration::ZERO);
    world.fails("acme", Some("s3"), "bucket_denied", None);
    world.fails("acme", Some("cloudwatch"), "throttled", None);
    world.fails("acme", None, "corrupt_object", None);
    world.delivers("acme", "cloudwatch", 1);
    world.check("acme", TenantState::Refused, Some("bucket_denied"), 0, None);
    assert_eq!(world.tenant("acme").delivery.as_deref(), Some("s3"));
    assert_eq!(world.tenant("acme").last_success, None, "the other delivery has stopped");
    world.begin("acme", 2, Duration::ZERO);
    world.delivers("acme", "s3", 2);
    world.check("acme", TenantState::Ok, None, 0, None);
    assert_eq!(world.tenant("acme").last_success, Some(world.now().wall));
    world.fails("acme", Some("s3"), "unavailable", Some(Duration::ZERO));
    world.pass(MARGIN);
    world.begin("acme", 3, Duration::ZERO);
    world.delivers("acme", "cloudwatch", 3);
    assert_eq!(world.tenant("acme").last_success, Some(world.now().wall), "the trouble has expired");
}

#[test]
fn one_dead_letter_withholds_the_success_of_another_delivery_for_a_quarter_of_an_hour() {
    let mut world = World::new(9);
    world.begin("acme", 1, Duration::ZERO);
    world.fails("acme", Some("s3#audit"), "copy_collision", None);
    world.pass(DEAD_LETTER_STOPS - Duration::from_millis(1));
    world.delivers("acme", "cloudwatch", 1);
    assert_eq!(world.tenant("acme").last_success, None);
    world.pass(Duration::from_millis(1));
    world.begin("acme", 2, Duration::ZERO);
    world.delivers("acme", "cloudwatch", 2);
    assert_eq!(world.tenant("acme").last_success, Some(world.now().wall));
    world.check("acme", TenantState::Refused, Some("copy_collision"), 0, None);
}

#[test]
fn a_trouble_ends_when_the_rows_do_not_have_it_any_more() {
    let mut world = World::new(9);
    world.begin("acme", 1, Duration::ZERO);
    let judged = |world: &mut World, used: &[&str], unused: &[&str]| {
        world.book.judged("acme", Rows { used, unused, all_in_shadow: false });
        world.tenant("acme").advice.map(|advice| advice.reason)
    };
    world.fails("acme", Some("a"), "bad_tenant_row", None);
    assert_eq!(
        judged(&mut world, &["b"], &["a"]),
        Some("bad_tenant_row"),
        "it is bad still, or was not asked"
    );
    assert_eq!(judged(&mut world, &["a", "b"], &[]), None, "it is good");
    world.fails("acme", Some("a"), "role_denied", None);
    assert_eq!(
        judged(&mut world, &["a"], &[]),
        Some("role_denied"),
        "a good row may be refused all the same"
    );
    assert_eq!(judged(&mut world, &[], &["a"]), Some("role_denied"));
    assert_eq!(judged(&mut world, &["b"], &["c"]), None, "no enabled row has it");
    for (reason, left) in [("tenant_paused", None), ("unknown_tenant", None), ("bad_key", Some("bad_key"))] {
        world.fails("acme", None, reason, None);
        assert_eq!(judged(&mut world, &["a"], &[]), left);
    }
}

#[test]
fn a_dead_letter_shows_for_a_day_and_a_pause_has_its_own_state() {
    let mut world = World::new(9);
    world.begin("acme", 1, Duration::ZERO);
    world.fails("acme", None, "tenant_paused", None);
    world.book.end("acme", 1);
    world.pass(23 * HOUR);
    world.check("acme", TenantState::Paused, Some("tenant_paused"), 0, None);
    world.pass(2 * HOUR);
    world.check("acme", TenantState::Ok, None, 0, None);
    // The worst of two deliveries counts.
    world.fails("acme", Some("a"), "role_denied", None);
    world.fails("acme", Some("b"), "throttled", None);
    world.check("acme", TenantState::Refused, Some("role_denied"), 0, None);
    world.book.switched_off("acme");
    world.check("acme", TenantState::Ok, None, 0, None);
}

#[test]
fn the_page_shows_the_worst_first_and_leaves_out_the_best() {
    let mut world = World::new(9);
    for (number, tenant_id) in ["e", "d", "c", "b", "a"].into_iter().enumerate() {
        world.pass(Duration::from_secs(1));
        world.begin(tenant_id, 1, Duration::ZERO);
        match number {
            0 | 3 => world.delivers(tenant_id, "cloudwatch", 1),
            1 => world.retried(tenant_id, 1, "throttled", HOUR),
            _ => world.retried(tenant_id, 1, "role_denied", HOUR),
        }
    }
    let order = |most| {
        let snapshot = world.book.snapshot(most, world.ms);
        assert_eq!((snapshot.states, snapshot.waiting), ([2, 0, 1, 0, 2], 3));
        snapshot.tenants.iter().map(|line| line.tenant_id.to_string()).collect::<Vec<_>>().concat()
    };
    for (most, expected) in [(usize::MAX, "cadeb"), (5, "cadeb"), (4, "cade"), (1, "c"), (0, "")] {
        assert_eq!(order(most), expected, "at most {most}");
    }
}

#[test]
fn one_object_that_waits_does_not_hide_that_others_are_delivered() {
    let mut world = World::new(9);
    world.begin("acme", 1, Duration::ZERO);
    world.retried("acme", 1, "batch_refused", Duration::from_secs(60));
    world.begin("acme", 2, Duration::ZERO);
    world.delivers("acme", "cloudwatch", 2);
    world.check("acme", TenantState::Waiting, Some("batch_refused"), 1, Some(0));
}

#[test]
fn the_oldest_of_many_waiting_objects_are_kept() {
    let mut world = World::new(9);
    for object in 0..5_000 {
        world.begin("acme", object, Duration::from_secs(object));
        world.retried("acme", object, "role_denied", HOUR);
    }
    world.check("acme", TenantState::Refused, Some("role_denied"), MOST_WAITING_OF_ONE, Some(4_999));
    for object in 4_000..5_000 {
        world.begin("acme", object, Duration::from_secs(object));
        world.delivers("acme", "cloudwatch", object);
    }
    // The others come back with their true age.
    world.begin("acme", 3_999, Duration::from_secs(3_999));
    world.check("acme", TenantState::Ok, None, 1, Some(3_999));
}

#[test]
fn ten_thousand_tenants_take_a_few_megabytes() {
    let mut world = World::new(50);
    let mut bytes = Vec::new();
    for number in 0..book::MOST_TENANTS {
        if number == 10_000 {
            bytes.push(world.book.heap_bytes());
        }
        let tenant_id = format!("a-tenant-with-an-ordinary-name-{number}");
        for object in 0..100 {
            world.begin(&tenant_id, object, Duration::ZERO);
            world.retried(&tenant_id, object, "role_denied", HOUR);
        }
        world.fails(&tenant_id, Some("cloudwatch#archive"), "throttled", Some(HOUR));
    }
    let waiting = world.book.snapshot(0, world.ms).waiting;
    assert!((65_536..=65_536 + 4 * book::MOST_TENANTS).contains(&waiting), "{waiting}");
    assert!((1 << 20..8 << 20).contains(&bytes[0]), "{bytes:?} bytes");
    assert!((1 << 20..MOST_BYTES).contains(&(world.book.heap_bytes() as u64)), "{bytes:?} bytes");
}

#[test]
fn the_number_of_tenants_is_bounded_and_idle_ones_are_forgotten_first() {
    let mut world = World::new(9);
    for number in 0..book::MOST_TENANTS + 10 {
        world.pass(Duration::from_millis(1));
        world.begin(&number.to_string(), 1, Duration::ZERO);
        if number != 12 {
            world.book.end(&number.to_string(), 1);
        }
    }
    let snapshot = world.book.snapshot(usize::MAX, world.ms);
    assert_eq!(snapshot.tenants.len(), book::MOST_TENANTS);
    let known = |number: usize| snapshot.tenants.iter().any(|line| *line.tenant_id == *number.to_string());
    // The first nine have names in the metrics, and 12 has an object that waits.
    let forgotten: Vec<_> = (0..30).filter(|number| !known(*number)).collect();
    assert_eq!(forgotten, [9, 10, 11, 13, 14, 15, 16, 17, 18, 19]);
}

#[test]
fn ten_thousand_tenants_have_few_series() {
    let mut world = World::new(50);
    for number in 0..10_000 {
        let tenant_id = format!("t-{number}");
        world.begin(&tenant_id, 1, Duration::ZERO);
        match number % 10 {
            0 => world.retried(&tenant_id, 1, "role_denied", HOUR),
            _ => world.delivers(&tenant_id, "cloudwatch", 1),
        }
    }
    world.pass(Duration::from_secs(100));
    let check = |world: &World| {
        let samples = world.book.samples(world.ms);
        assert_eq!(samples.len(), 51);
        let sum = |of: fn(&Sample) -> u64| samples.iter().map(of).sum::<u64>();
        assert_eq!(sum(|sample| sample.series.events), 90_000);
        assert_eq!(sum(|sample| sample.series.bytes), 9_000_000);
        assert_eq!(sum(|sample| sample.waiting as u64), 1_000);
        let failures = samples.iter().flat_map(|sample| &sample.series.failures);
        assert_eq!(failures.map(|(_, count)| count).sum::<u64>(), 1_000);
    };
    check(&world);
    let other = world.sample(OTHER).expect("most tenants are others");
    assert_eq!((other.waiting, other.oldest_waiting), (995, Duration::from_secs(100)));
    assert_eq!(other.last_success, None, "no tenant among them that waits has had a success");
    world.book.tidy(world.ms);
    let waiting = |sample: &&Sample| sample.waiting > 0 && *sample.tenant != *OTHER;
    assert_eq!(world.book.samples(world.ms).iter().filter(waiting).count(), 25, "half are for trouble");
}

/// Adds what Prometheus adds: the increase of each series from scrape to scrape. A series that ends and begins again counts
/// from its last value.
#[test]
fn no_count_is_lost_or_doubled_when_names_change() {
    let mut world = World::new(3);
    let mut last = std::collections::HashMap::<String, u64>::new();
    let (mut seen, mut total) = (0, 0);
    let mut labels = std::collections::BTreeSet::new();
    for round in 0..300_u64 {
        for number in 0..10_u64 {
            // Each tenant has a time in which it is the largest.
            let events = if round / 30 == number { 1_000 } else { number };
            let tenant_id = if number == 0 { OTHER.to_owned() } else { format!("t-{number}") };
            world.begin(&tenant_id, 1, Duration::ZERO);
            world.book.accepted(&tenant_id, events, events * 100, world.ms);
            world.book.end(&tenant_id, 1);
            total += events;
        }
        for sample in world.book.samples(world.ms) {
            let before = last.insert(sample.tenant.to_string(), sample.series.events).unwrap_or_default();
            assert!(sample.series.events >= before, "{} went back", sample.tenant);
            seen += sample.series.events - before;
            labels.insert(sample.tenant);
        }
        assert!(world.book.samples(world.ms).len() <= 4);
        world.pass(Duration::from_secs(30));
        world.book.tidy(world.ms);
    }
    assert_eq!(seen, total);
    assert!(labels.len() > 6, "the names changed: {labels:?}");
}

fn rendered(status: &Arc<Status>) -> String {
    crate::metrics::rendered(|registry| register(status, registry))
}

#[tokio::test(start_paused = true)]
async fn a_tenants_metrics_tell_its_state() {
    let status = Arc::new(Status::new(50));
    assert!(!rendered(&status).contains("tenant"), "no tenant is known");
    let waiting = status.begin("acme", OBJECT, Duration::from_secs(100));
    let text = rendered(&status);
    assert!(text.contains("tenant_waiting_objects"), "{text}");
    for without in ["tenant_failures", "tenant_last_success"] {
        assert!(!text.contains(without), "a metric without samples has no head: {text}");
    }
    status.begin("globex", OBJECT, Duration::ZERO).end();
    status.accepted("globex", 7, 700);
    status.delivered("globex", "cloudwatch", None);
    let failure = ObjectFailure {
        tenant_id: Some("acme"),
        delivery: Some("cloudwatch"),
        key: Some("k"),
        reason: "role_denied",
        text: "no",
        again_in: Some(Duration::from_secs(15)),
    };
    status.failed(&failure);
    status.failed(&ObjectFailure { tenant_id: Some("stranger"), ..failure });
    waiting.comes_again(Duration::from_secs(15));
    tokio::time::advance(Duration::from_secs(20)).await;
    let text = rendered(&status);
    for line in [
        "logferry_tenant_oldest_waiting_seconds{tenant=\"acme\"} 120.0",
        "logferry_tenant_oldest_waiting_seconds{tenant=\"globex\"} 0.0",
        "logferry_tenant_waiting_objects{tenant=\"acme\"} 1.0",
        "logferry_tenant_events_total{tenant=\"acme\"} 0",
        "logferry_tenant_events_total{tenant=\"globex\"} 7",
        "logferry_tenant_event_bytes_total{tenant=\"globex\"} 700",
        "logferry_tenant_failures_total{tenant=\"acme\",reason=\"role_denied\"} 1",
        "# TYPE logferry_tenant_last_success_timestamp_seconds gauge",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
    let successes: Vec<_> =
        text.lines().filter(|line| line.starts_with("logferry_tenant_last_success")).collect();
    assert!(successes.len() == 1 && successes[0].contains("globex"), "{successes:?}");
    assert!(!text.contains("stranger") && !text.contains("\"other\""), "{text}");
    let failures = status.snapshot(9).failures;
    assert_eq!(failures.len(), 2, "the failures of tenants without rows are shown all the same");
}

/// Keys come from outside, and so do the names of tenants.
#[test]
fn a_name_cannot_break_out_of_its_label() {
    let status = Arc::new(Status::new(50));
    let evil = "a\"} 1\n# EOF\nx{y=\"\\";
    for name in [evil, "ü-日本-🦀", OTHER] {
        status.begin(name, OBJECT, Duration::ZERO).end();
        status.accepted(name, 1, 10);
    }
    let text = rendered(&status);
    for label in ["a\\\"} 1\\n# EOF\\nx{y=\\\"\\\\", "ü-日本-🦀", "other"] {
        let line = format!("logferry_tenant_events_total{{tenant=\"{label}\"}} 1");
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
    assert_eq!(text.matches("\n# EOF").count(), 1);
    assert_eq!(status.book().samples(0).len(), 3, "a tenant of this name is one of the others");
}

#[tokio::test(start_paused = true)]
async fn work_that_is_dropped_leaves_its_object_waiting() {
    let status = Arc::new(Status::new(50));
    let object = ObjectName { bucket: "b", key: "k", version: Some("v") };
    let mut waiting = status.begin("acme", object, Duration::ZERO);
    waiting.failed_for("throttled");
    let found = status.snapshot(9);
    assert_eq!((found.in_work, found.waiting, found.states), (1, 1, [1, 0, 0, 0, 0]));
    drop(waiting);
    let found = status.snapshot(9);
    assert_eq!((found.in_work, found.waiting, found.states), (0, 1, [0, 0, 1, 0, 0]));
    tokio::time::advance(MARGIN).await;
    assert_eq!(status.snapshot(9).waiting, 0);
}

#[test]
fn work_that_panics_shows_at_its_tenant() {
    let status = Arc::new(Status::new(50));
    let work = || {
        let _waiting = status.begin("acme", OBJECT, Duration::ZERO);
        // Does not call the panic hook, which would print.
        std::panic::resume_unwind(Box::new("a record"));
    };
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err());
    let found = status.snapshot(9);
    assert_eq!((found.in_work, found.waiting, found.states), (0, 1, [0, 0, 1, 0, 0]));
    assert_eq!(found.tenants[0].advice.map(|advice| advice.reason), Some("panic"));
    assert_eq!(found.failures[0].text, PANIC_TEXT);
    status.begin("acme", OBJECT, Duration::ZERO).end();
    status.delivered("acme", "cloudwatch", None);
    assert_eq!(status.snapshot(9).states, [1, 0, 0, 0, 0]);
}
