use proptest::prelude::*;

use super::*;

pub(super) const LIMITS: Limits =
    Limits { slots: 16, max_objects: None, max_bytes: None, longest_wait: Duration::from_secs(900) };

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Admits as many of the tenant's objects as possible, up to the number of slots. Returns how many the tenant holds then.
fn fill(book: &mut Book, tenant_id: &str, now: Instant) -> usize {
    while book.units < book.limits.slots as u64 * u64::from(UNITS)
        && book.enter(tenant_id, 1, UNITS, now, 0.0).is_ok()
    {}
    book.tenants[tenant_id].entered.len()
}

/// Makes the `shown` tenants active, then admits objects of the `greedy` ones in turns until none gets another slot.
fn check(slots: usize, shown: &[&str], greedy: &[&str], expected: &[usize]) {
    let (mut book, now) = (Book::new(Limits { slots, ..LIMITS }), Instant::now());
    for tenant_id in shown {
        book.enter(tenant_id, 1, UNITS, now, 0.0).expect("a tenant that holds none is admitted");
        book.leave(tenant_id, 1, UNITS, now, now);
    }
    // In turns, as if their messages alternated.
    while greedy.iter().filter(|tenant_id| book.enter(tenant_id, 1, UNITS, now, 0.0).is_ok()).count() > 0
        && book.units < slots as u64 * u64::from(UNITS)
    {}
    let held: Vec<_> = greedy.iter().map(|tenant_id| book.tenants[*tenant_id].entered.len()).collect();
    assert_eq!(held, expected, "{slots} slots, {shown:?}");
}

#[test]
fn a_tenant_alone_gets_all_slots_and_busy_tenants_leave_some_free() {
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
fn a_tenant_that_holds_none_is_admitted_even_if_no_slot_is_free() {
    let (mut book, now) = (Book::new(LIMITS), Instant::now());
    // The tenant was alone when its objects came.
    (0..16).for_each(|_| book.enter("a", 1, UNITS, now, 0.0).expect("no other tenant is active"));
    book.enter("b", 1, UNITS, now, 0.0).expect("its message has one of the worker's slots");
    book.enter("a", 1, UNITS, now, 0.0).expect_err("tenant a is no longer alone");
    book.enter("b", 1, UNITS, now, 0.0).expect_err("no slot is free");
}

#[test]
fn a_tenant_counts_as_active_for_a_while_after_it_was_seen() {
    let (mut book, mut now) = (Book::new(LIMITS), Instant::now());
    book.enter("b", 1, UNITS, now, 0.0).expect("the tenant holds none");
    book.leave("b", 1, UNITS, now, now);
    assert_eq!(fill(&mut book, "a", now), 8);
    now += ACTIVE - Duration::from_millis(1);
    assert_eq!(fill(&mut book, "a", now), 8);
    for since in book.tenants["a"].entered.clone() {
        book.leave("a", 1, UNITS, since, since + seconds(1));
    }
    now += SWEEP;
    assert_eq!(fill(&mut book, "a", now), 16, "alone again");
}

#[test]
fn limits_per_tenant_hold_even_if_it_is_alone() {
    let now = Instant::now();
    let mut book = Book::new(Limits { max_objects: Some(3), ..LIMITS });
    assert_eq!(fill(&mut book, "a", now), 3);
    let mut book = Book::new(Limits { max_bytes: Some(100), ..LIMITS });
    book.enter("a", 500, UNITS, now, 0.0).expect("larger than the limit, but its only object");
    book.enter("a", 0, UNITS, now, 0.0).expect_err("the limit is exceeded");
    book.leave("a", 500, UNITS, now, now);
    book.enter("a", 60, UNITS, now, 0.0).expect("the object fits");
    book.enter("a", 41, UNITS, now, 0.0).expect_err("one byte too many");
    book.enter("a", 40, UNITS, now, 0.0).expect("exactly the limit");
    book.enter("b", 100, UNITS, now, 0.0).expect("another tenant has its own limit");
}

#[test]
fn turns_are_spread_over_the_time_that_the_backlog_needs() {
    let (mut book, start) = (Book::new(LIMITS), Instant::now());
    book.enter("b", 1, UNITS, start, 0.0).expect("the tenant holds none");
    book.enter("a", 1, UNITS, start, 0.0).expect("the tenant holds none");
    let now = start + seconds(14);
    book.leave("a", 1, UNITS, start, now);
    assert_eq!(fill(&mut book, "a", now), 8);
    // An object takes 14 s, eight are in flight, and the last attempt of `fill` has taken the first place.
    let waits: Vec<_> =
        (0..3).map(|_| book.enter("a", 1, UNITS, now, 1.0).expect_err("its share is full")).collect();
    assert_eq!(waits, [2, 3, 4].map(|place| Duration::from_millis(1750) * place));
    // The queue becomes shorter while time passes.
    let later = now + seconds(5);
    let wait = book.enter("a", 1, UNITS, later, 1.0).expect_err("its share is still full");
    assert_eq!(wait, Duration::from_millis(1750) * 5 - seconds(5));
    let end = later + seconds(100);
    // The objects in flight are 105 s old now, so that is the expected duration.
    assert_eq!(book.enter("a", 1, UNITS, end, 1.0), Err(seconds(105) / 8));
}

#[test]
fn waits_are_between_a_second_and_the_longest_wait() {
    let (mut book, now) = (Book::new(LIMITS), Instant::now());
    book.enter("b", 1, UNITS, now, 0.0).expect("the tenant holds none");
    book.enter("a", 1, UNITS, now, 0.0).expect("the tenant holds none");
    book.leave("a", 1, UNITS, now, now + Duration::from_millis(8));
    let now = now + Duration::from_millis(8);
    assert_eq!(fill(&mut book, "a", now), 8);
    assert_eq!(book.enter("a", 1, UNITS, now, 0.5), Err(SHORTEST_WAIT), "a place lasts a millisecond");
    let late = now + seconds(8000);
    assert_eq!(book.enter("a", 1, UNITS, late, 0.0), Err(seconds(900)));
    assert_eq!(book.enter("a", 1, UNITS, late, 1.0), Err(seconds(675)), "chance takes off a quarter");
    let mut impatient = Book::new(Limits { longest_wait: seconds(1), max_objects: Some(1), ..LIMITS });
    impatient.enter("a", 1, UNITS, now, 0.0).expect("the tenant holds none");
    assert_eq!(impatient.enter("a", 1, UNITS, now, 0.0), Err(seconds(1)));
}

#[test]
fn inactive_tenants_are_forgotten() {
    let (mut book, mut now) = (Book::new(LIMITS), Instant::now());
    for number in 0..10_000 {
        let tenant_id = format!("tenant-{number}");
        book.enter(&tenant_id, 1, UNITS, now, 0.0).expect("the tenant holds none");
        let entered = now;
        now += Duration::from_millis(10);
        book.leave(&tenant_id, 1, UNITS, entered, now);
    }
    let active = (ACTIVE + SWEEP).as_millis() / 10 + 1;
    assert!(book.tenants.len() as u128 <= active, "{} of {active}", book.tenants.len());
    assert_eq!(book.units, 0);
}

proptest! {
    /// For random arrivals and departures: the counts match the objects in flight, a tenant that holds none is never refused,
    /// a tenant that is not alone gets no more than is free, and waits keep their bounds.
    #[test]
    fn the_rule_holds_for_random_arrivals(
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
                book.leave(&format!("tenant-{tenant}"), bytes, UNITS, since, now);
            } else {
                let of_tenant = |entry: &&(usize, u64, Instant)| entry.0 == tenant;
                let held = in_flight.iter().filter(of_tenant).count();
                let held_bytes: u64 = in_flight.iter().filter(of_tenant).map(|entry| entry.1).sum();
                match book.enter(&name, bytes, UNITS, now, chance) {
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
            prop_assert_eq!(book.units, in_flight.len() as u64 * u64::from(UNITS));
            let bytes: u64 = book.tenants.values().map(|account| account.bytes).sum();
            prop_assert_eq!(bytes, in_flight.iter().map(|entry| entry.1).sum::<u64>());
        }
    }
}
