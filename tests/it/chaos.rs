//! Chaos runs of a few seeds: faults of every call, duplicate notifications, SIGKILL, SIGSTOP. Nothing is lost, altered
//! or in a wrong account. `loadtest/run chaos` runs as many seeds as asked for.

use std::{path::Path, time::Duration};

use logferry_chaos::{Kind, Plan, Setting, run};

/// Shorter than the time for which a killed worker's messages stay hidden.
const LEASE: Duration = Duration::from_secs(10);

/// Carries out the plan of a seed. Skips itself on other targets than the sandbox, which cannot inject faults.
async fn chaos(seed: u64, kind: Kind, workers: usize) {
    if !matches!(std::env::var("LOGFERRY_TEST_TARGET").as_deref(), Err(_) | Ok("" | "sandbox")) {
        eprintln!("skipped: only the sandbox injects faults");
        return;
    }
    let setting = Setting { program: Path::new(env!("CARGO_BIN_EXE_logferry")), lease: Some(LEASE) };
    let outcome = run(&Plan::new(seed, kind, workers), setting).await.expect("the plan can be carried out");
    let complaints = outcome.complaints();
    assert!(complaints.is_empty(), "seed {seed}, {kind:?}, {workers} workers: {complaints:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_worker_with_faults() {
    chaos(1, Kind::Faults, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_worker_that_is_killed() {
    chaos(2, Kind::Kills, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_workers_of_which_some_are_killed() {
    chaos(3, Kind::Kills, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_workers_of_which_some_are_paused() {
    chaos(5, Kind::Pauses, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_workers_with_lost_answers() {
    chaos(4, Kind::LostAnswers, 3).await;
}
