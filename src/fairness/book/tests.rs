use proptest::prelude::*;

use super::*;

pub(super) const LIMITS: Limits =
    Limits { slots: 16, max_objects: None, max_bytes: None, longest_wait: Duration::from_secs(900) };

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Lets the tenant have as many as it may get, up to the slots; says how many it holds then.
fn fill(book: &mut Book, tenant_id: &str, now: Instant) -> usize {
    while book.objects < book.limits.slots && book.enter(tenant_id, 1, now, 0.0).is_ok() {}
    book.tenants[tenant_id].entered.len()
}

/// Shows the tenants, then lets those at the front have all they can get, one after the other.
fn check(slots: usize, shown: &[&str], greedy: &[&str], expected: &[usize]) {
    let (mut book, now) = (Book::new(Limits { slots, ..LIMITS }), Instant::now());
    for tenant_id in shown {
        book.enter(tenant_id, 1, now, 0.0).expect("who holds none may enter");
        book.leave(tenant_id, 1, now, now);
    }
    // In turns, as their messages would come.
    while greedy.iter().filter(|tenant_id| book.enter(tenant_id, 1, now, 0.0).is_ok()).count() > 0
        && book.objects < slots
    {}
    let held: Vec<_> = greedy.iter().map(|tenant_id| book.tenants[*tenant_id].entered.len()).collect();
    assert_eq!(held, expected, "{slots} slots, {shown:?}");
}

#[test]
fn one_alone_may_have_all_and_among_others_they_share_with_the_next_one() {
    check(16, &["a"], &["a"], &[16]);
    check(16, &["a", "b"], &["a"], &[8]);
    check(15, &["a", "b"], &["a"], &[8]);
    check(16, &["a", "b", "c", "d"], &["a", "b"], &[6, 5]);
    check(16, &["a", "b", "c", "d"], &["a", "b", "c"], &[4, 4, 4]);
    check(4, &["a", "b", "c", "d", "e"], &["a", "b", "c", "d"], &[1, 1, 1, 1]);
    check(3, &["a", "b"], &["a"], &[2]);
    check(2, &["a", "b"], &["a"], &[1]);
    check(1, &["a", "b"], &["a"], &[1]);
}

#[test]
fn who_holds_none_enters_even_when_all_is_taken() {
    let (mut book, now) = (Book::new(LIMITS), Instant::now());
    // It was alone when it came.
    (0..16).for_each(|_| book.enter("a", 1, now, 0.0).expect("nobody else is there"));
    book.enter("b", 1, now, 0.0).expect("its message has a slot of the worker's");
    book.enter("a", 1, now, 0.0).expect_err("not any more");
    book.enter("b", 1, now, 0.0).expect_err("none is free");
}

#[test]
fn others_are_there_for_as_long_as_they_were_seen_lately() {
    let (mut book, mut now) = (Book::new(LIMITS), Instant::now());
    book.enter("b", 1, now, 0.0).expect("it holds none");
    book.leave("b", 1, now, now);
    assert_eq!(fill(&mut book, "a", now), 8);
    now += ACTIVE - Duration::from_millis(1);
    assert_eq!(fill(&mut book, "a", now), 8);
    for since in book.tenants["a"].entered.clone() {
        book.leave("a", 1, since, since + seconds(1));
    }
    now += SWEEP;
    assert_eq!(fill(&mut book, "a", now), 16, "alone again");
}

#[test]
fn caps_hold_whoever_is_there() {
    let now = Instant::now();
    let mut book = Book::new(Limits { max_objects: Some(3), ..LIMITS });
    assert_eq!(fill(&mut book, "a", now), 3);
    let mut book = Book::new(Limits { max_bytes: Some(100), ..LIMITS });
    book.enter("a", 500, now, 0.0).expect("larger than the cap, and alone");
    book.enter("a", 0, now, 0.0).expect_err("the cap is more than full");
    book.leave("a", 500, now, now);
    book.enter("a", 60, now, 0.0).expect("it fits");
    book.enter("a", 41, now, 0.0).expect_err("by one byte");
    book.enter("a", 40, now, 0.0).expect("exactly");
    book.enter("b", 100, now, 0.0).expect("another tenant's");
}

#[test]
fn turns_are_spread_over_the_time_that_the_objects_need() {
    let (mut book, start) = (Book::new(LIMITS), Instant::now());
    book.enter("b", 1, start, 0.0).expect("it holds none");
    book.enter("a", 1, start, 0.0).expect("it holds none");
    let now = start + seconds(14);
    book.leave("a", 1, start, now);
    assert_eq!(fill(&mut book, "a", now), 8);
    // 14 s for seven or eight at once, and a place is taken already.
    let waits: Vec<_> =
        (0..3).map(|_| book.enter("a", 1, now, 1.0).expect_err("its share is full")).collect();
    assert_eq!(waits, [2, 3, 4].map(|place| Duration::from_millis(1750) * place));
    // Time passes, and the queue with it.
    let later = now + seconds(5);
    let wait = book.enter("a", 1, later, 1.0).expect_err("its share is still full");
    assert_eq!(wait, Duration::from_millis(1750) * 5 - seconds(5));
    let end = later + seconds(100);
    // Those in flight are 105 s old now, so that is what an object takes.
    assert_eq!(book.enter("a", 1, end, 1.0), Err(seconds(105) / 8));
}

#[test]
fn waits_are_at_least_a_second_and_at_most_the_longest() {
    let (mut book, now) = (Book::new(LIMITS), Instant::now());
    book.enter("b", 1, now, 0.0).expect("it holds none");
    book.enter("a", 1, now, 0.0).expect("it holds none");
    book.leave("a", 1, now, now + Duration::from_millis(8));
    let now = now + Duration::from_millis(8);
    assert_eq!(fill(&mut book, "a", now), 8);
    assert_eq!(book.enter("a", 1, now, 0.5), Err(SHORTEST_WAIT), "a millisecond a place");
    let late = now + seconds(8000);
    assert_eq!(book.enter("a", 1, late, 0.0), Err(seconds(900)));
    assert_eq!(book.enter("a", 1, late, 1.0), Err(seconds(675)), "a quarter less by chance");
    let mut impatient = Book::new(Limits { longest_wait: seconds(1), max_objects: Some(1), ..LIMITS });
    impatient.enter("a", 1, now, 0.0).expect("it holds none");
    assert_eq!(impatient.enter("a", 1, now, 0.0), Err(seconds(1)));
}

#[test]
fn who_is_gone_is_forgotten() {
    let (mut book, mut now) = (Book::new(LIMITS), Instant::now());
    for number in 0..10_000 {
        let tenant_id = format!("tenant-{number}");
        book.enter(&tenant_id, 1, now, 0.0).expect("it holds none");
        let entered = now;
        now += Duration::from_millis(10);
        book.leave(&tenant_id, 1, entered, now);
    }
    let active = (ACTIVE + SWEEP).as_millis() / 10 + 1;
    assert!(book.tenants.len() as u128 <= active, "{} of {active}", book.tenants.len());
    assert_eq!(book.objects, 0);
}

proptest! {
    /// Whatever comes and goes: counts are those of what is in flight, nobody who holds none is refused, among others nobody
    /// enters beyond what is free, and waits keep their bounds.
    #[test]
    fn the_book_is_right(
        slots in 1_usize..20,
        steps in prop::collection::vec((0_u64..3000, 0_usize..5, 0_u64..100, 0.0..1.0, any::<bool>()), 1..300),
    ) {
        let limits = Limits { slots, max_bytes: Some(200), ..LIMITS };
        let (mut book, mut now) = (Book::new(limits), Instant::now());
        let mut in_flight: Vec<(usize, u64, Instant)> = Vec::new();
        for (millis, tenant, bytes, chance, leaves) in steps {
            now += Duration::from_millis(millis);
            let name = format!("tenant-{tenant}");
            if leaves && !in_flight.is_empty() {
                let (tenant, bytes, since) = in_flight.swap_remove(tenant % in_flight.len());
                book.leave(&format!("tenant-{tenant}"), bytes, since, now);
            } else {
                let of_tenant = |entry: &&(usize, u64, Instant)| entry.0 == tenant;
                let held = in_flight.iter().filter(of_tenant).count();
                let held_bytes: u64 = in_flight.iter().filter(of_tenant).map(|entry| entry.1).sum();
                match book.enter(&name, bytes, now, chance) {
                    Ok(()) => {
                        let others = in_flight.iter().any(|entry| entry.0 != tenant);
                        prop_assert!(held == 0 || !others || held < slots - in_flight.len().min(slots));
                        prop_assert!(held == 0 || held_bytes + bytes <= 200);
                        in_flight.push((tenant, bytes, now));
                    }
                    Err(wait) => {
                        prop_assert!(held > 0);
                        prop_assert!(wait >= SHORTEST_WAIT && wait <= limits.longest_wait, "{wait:?}");
                    }
                }
            }
            prop_assert_eq!(book.objects, in_flight.len());
            let bytes: u64 = book.tenants.values().map(|account| account.bytes).sum();
            prop_assert_eq!(bytes, in_flight.iter().map(|entry| entry.1).sum::<u64>());
        }
    }
}
