use super::*;

const RATES: Rates = Rates { puts: 800, stream_creations: 50 };

fn budgets() -> Budgets {
    Budgets::new(RATES, Duration::from_secs(600), Metrics::default())
}

/// Takes turns as fast as possible, and checks how many there are within `time`.
fn check(per_second: u32, time: Duration, expected: u32) {
    let (mut pace, start) = (Pace::new(per_second), Instant::now());
    let (mut now, mut calls) = (start, 0);
    loop {
        now += pace.take(now);
        if now - start >= time {
            break;
        }
        calls += 1;
    }
    assert_eq!(calls, expected, "{per_second} a second for {time:?}");
}

#[test]
fn calls_keep_their_rate_with_a_burst_of_a_tenth_of_a_second() {
    let burst = |seconds: u64| Duration::from_secs(seconds);
    check(800, Duration::from_nanos(1), 81);
    check(800, burst(10), 8080);
    check(50, Duration::from_nanos(1), 6);
    check(50, burst(10), 505);
    check(1, burst(10), 11);
    check(3, burst(10), 31);
}

#[test]
fn after_a_rest_one_burst_is_available() {
    let (mut pace, now) = (Pace::new(50), Instant::now());
    (0..6).for_each(|_| assert_eq!(pace.take(now), Duration::ZERO));
    assert_eq!(pace.take(now), Duration::from_millis(20));
    let later = now + Duration::from_secs(3600);
    (0..6).for_each(|_| assert_eq!(pace.take(later), Duration::ZERO));
    assert_eq!(pace.take(later), Duration::from_millis(20));
}

#[tokio::test(start_paused = true)]
async fn a_budget_is_shared_within_one_account_and_region() {
    let budgets = budgets();
    let start = tokio::time::Instant::now();
    let one = budgets.enter("1", "r").expect("nothing is wrong");
    let two = budgets.enter("1", "r").expect("nothing is wrong");
    for _ in 0..28 {
        one.create_stream_turn().await;
        two.create_stream_turn().await;
    }
    assert_eq!(start.elapsed(), Duration::from_secs(1), "56 at 50 a second with 6 at once");
    assert_eq!(budgets.metrics.budget_waits.get_or_create(&Call::new("create_log_stream")).get(), 50);
    for (account, region) in [("1", "s"), ("2", "r")] {
        let other = budgets.enter(account, region).expect("nothing is wrong");
        other.create_stream_turn().await;
    }
    for _ in 0..81 {
        one.put_turn().await;
    }
    assert_eq!(start.elapsed(), Duration::from_secs(1), "both calls have a rate each");
    for _ in 0..80 {
        one.put_turn().await;
    }
    assert_eq!(start.elapsed(), Duration::from_millis(1100), "80 at 800 a second");
    assert_eq!(budgets.metrics.budget_waits.get_or_create(&Call::new("put_log_events")).get(), 80);
}

#[tokio::test(start_paused = true)]
async fn pauses_of_a_throttling_account_grow() {
    let budgets = budgets();
    let gauge = || budgets.metrics.throttled_accounts.get();
    let first: Vec<_> = (0..8).map(|_| budgets.enter("1", "r").expect("nothing is wrong yet")).collect();
    // All of them report the same answer.
    first.iter().for_each(|ticket| ticket.heed(Answer::Throttled));
    assert_eq!(gauge(), 1);
    for pause in [1, 2, 4, 8, 16, 30, 30] {
        let Err(Pausing::Throttled { retry_in: wait }) = budgets.enter("1", "r") else {
            panic!("the account is paused")
        };
        let pause = Duration::from_secs(pause);
        assert!(wait >= pause && wait <= pause * 5 / 4, "{wait:?} instead of {pause:?}");
        budgets.enter("1", "s").expect("another Region has its own quota");
        tokio::time::advance(wait).await;
        let probe = budgets.enter("1", "r").expect("a probe is due");
        budgets.enter("1", "r").expect_err("only one probe at a time");
        // The probe takes longer than its interval.
        tokio::time::advance(Duration::from_secs(40)).await;
        budgets.enter("1", "r").expect_err("only one probe at a time, however long it takes");
        probe.heed(Answer::Throttled);
    }
    assert_eq!(gauge(), 1);
    first[0].heed(Answer::Answered);
    assert_eq!(gauge(), 0);
    let after = budgets.enter("1", "r").expect("the account takes requests again");
    after.heed(Answer::Throttled);
    after.heed(Answer::Answered);
    budgets.enter("1", "r").expect("the answer ended the pause");
}

/// How long an account in Region `r` is paused because it did not answer.
#[track_caller]
fn unreached(budgets: &Budgets, account: &str) -> Duration {
    let checked = budgets.check(account, "r");
    assert_eq!(checked.as_ref().err(), budgets.enter(account, "r").as_ref().err());
    match checked {
        Err(Pausing::Unanswered { retry_in }) => retry_in,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_account_without_an_answer_takes_one_slot() {
    let budgets = budgets();
    let first: Vec<_> = (0..8).map(|_| budgets.enter("1", "r").expect("nothing is wrong yet")).collect();
    first.iter().for_each(|ticket| ticket.heed(Answer::Unanswered));
    assert_eq!(budgets.metrics.throttled_accounts.get(), 0);
    for pause in [1, 2, 4] {
        let wait = unreached(&budgets, "1");
        assert!(wait >= Duration::from_secs(pause) && wait <= Duration::from_secs(pause) * 5 / 4, "{wait:?}");
        budgets.enter("2", "r").expect("only one account is paused");
        tokio::time::advance(wait).await;
        budgets.check("1", "r").expect("a probe is due");
        let probe = budgets.enter("1", "r").expect("a probe is due");
        for _ in 0..10 {
            tokio::time::advance(Duration::from_secs(30)).await;
            assert!(unreached(&budgets, "1") >= Duration::from_secs(1));
        }
        probe.heed(Answer::Unanswered);
    }
    // A probe that makes no call, as for an object without records, still uses up the interval.
    tokio::time::advance(unreached(&budgets, "1")).await;
    drop(budgets.enter("1", "r").expect("a probe is due"));
    tokio::time::advance(unreached(&budgets, "1")).await;
    budgets.enter("1", "r").expect("a probe is due").heed(Answer::Answered);
    budgets.enter("1", "r").expect("the answer ended the pause");
}

#[tokio::test(start_paused = true)]
async fn a_region_without_an_answer_takes_one_slot_for_all_accounts() {
    let budgets = budgets();
    let accounts = ["1", "2", "3"];
    let tickets = accounts.map(|account| budgets.enter(account, "r").expect("nothing is wrong yet"));
    let [one, two, three] = &tickets;
    one.heed(Answer::Unanswered);
    two.heed(Answer::Unanswered);
    budgets.enter("4", "r").expect("two silent accounts do not pause the Region").heed(Answer::Answered);
    for ticket in [three, two] {
        ticket.heed(Answer::Unanswered);
        budgets.enter("5", "r").expect("account 4 has answered meanwhile");
    }
    one.heed(Answer::Unanswered);
    for _ in 0..3 {
        let wait = unreached(&budgets, "5");
        budgets.enter("5", "s").expect("only one Region is paused");
        tokio::time::advance(wait).await;
        let probe = budgets.enter("5", "r").expect("a probe is due");
        tokio::time::advance(Duration::from_secs(60)).await;
        for account in ["1", "5", "6"] {
            unreached(&budgets, account);
        }
        probe.heed(Answer::Unanswered);
    }
    tokio::time::advance(Duration::from_secs(60)).await;
    budgets.enter("6", "r").expect("a probe is due").heed(Answer::Answered);
    budgets.enter("7", "r").expect("the Region answers");
    let _probe = budgets.enter("1", "r").expect("account 1's own probe is due");
    unreached(&budgets, "1");
}

#[tokio::test(start_paused = true)]
async fn a_pause_is_remembered_until_the_last_message_came_again() {
    let budgets = budgets();
    budgets.enter("1", "r").expect("nothing is wrong").heed(Answer::Throttled);
    tokio::time::advance(Duration::from_secs(700)).await;
    let _probe = budgets.enter("1", "r").expect("a probe is due");
    budgets.enter("1", "r").expect_err("only one probe at a time");
    assert_eq!(budgets.metrics.throttled_accounts.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn idle_budgets_are_forgotten() {
    let budgets = budgets();
    budgets.enter("0", "r").expect("nothing is wrong").heed(Answer::Throttled);
    for account in 1..1000 {
        budgets.enter(&account.to_string(), "r").expect("nothing is wrong");
        tokio::time::advance(Duration::from_secs(2)).await;
    }
    assert!(budgets.lock().budgets.len() <= 2 * IDLE.as_secs() as usize + 1);
    assert_eq!(budgets.metrics.throttled_accounts.get(), 0);
    tokio::time::advance(2 * IDLE).await;
    budgets.enter("1", "r").expect("nothing is wrong");
    assert_eq!(budgets.lock().budgets.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_pause_is_kept_longer_than_an_idle_budget() {
    let longest_delay = Duration::from_secs(600);
    let budgets = Budgets::new(RATES, longest_delay, Metrics::default());
    budgets.enter("1", "r").expect("nothing is wrong").heed(Answer::Answered);
    budgets.enter("2", "s").expect("nothing is wrong").heed(Answer::Unanswered);
    let instant = Duration::from_nanos(1);
    for (age, kept) in [
        (IDLE - instant, (2, 1)),
        (IDLE, (1, 1)),
        (2 * longest_delay - instant, (1, 1)),
        (2 * longest_delay, (0, 0)),
    ] {
        let mut state = budgets.lock();
        budgets.sweep(&mut state, now() + age);
        assert_eq!((state.budgets.len(), state.silent.len()), kept, "after {age:?}");
    }
}
