use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use proptest::prelude::*;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::metrics::rendered;

const ON: ProtectionState = ProtectionState::Protected(LIFE);
const OFF: ProtectionState = ProtectionState::Unprotected;

/// What an answer of the fake agent is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Done,
    Refused,
    /// ECS acts, and the answer is lost.
    DoneInSilence,
    /// The call is lost.
    Lost,
}

/// An agent in memory, and ECS behind it.
#[derive(Clone, Debug)]
struct MemoryAgent(Arc<Mutex<Ecs>>);

#[derive(Debug)]
struct Ecs {
    began: Instant,
    /// Answers of the next calls; after the last one, calls succeed.
    fates: VecDeque<Fate>,
    /// The calls, with their seconds.
    calls: Vec<(u64, ProtectionState)>,
    protected_until: Option<Instant>,
}

impl Agent for MemoryAgent {
    async fn set(&self, wanted: ProtectionState) -> Result<(), AgentError> {
        let mut ecs = self.0.lock().expect("nothing panics while it is locked");
        let at = ecs.began.elapsed().as_secs();
        ecs.calls.push((at, wanted));
        let fate = ecs.fates.pop_front().unwrap_or(Fate::Done);
        if matches!(fate, Fate::Done | Fate::DoneInSilence) {
            ecs.protected_until = match wanted {
                ProtectionState::Protected(life) => Some(Instant::now() + life),
                ProtectionState::Unprotected => None,
            };
        }
        match fate {
            Fate::Done => Ok(()),
            Fate::Refused => Err(AgentError::Refused("DEPLOYMENT_BLOCKED".into())),
            Fate::DoneInSilence | Fate::Lost => Err(AgentError::NoAnswer("no answer".into())),
        }
    }
}

/// A protection that is kept.
struct World {
    agent: MemoryAgent,
    protection: Protection,
    metrics: Metrics,
    _keeping: AbortOnDropHandle<()>,
}

impl World {
    fn new(fates: &[Fate]) -> Self {
        let fates = fates.iter().copied().collect();
        let ecs = Ecs { began: Instant::now(), fates, calls: Vec::new(), protected_until: None };
        let agent = MemoryAgent(Arc::new(Mutex::new(ecs)));
        let (protection, metrics) = (Protection::default(), Metrics::default());
        let keeping = tokio::spawn(protection.keep(agent.clone(), metrics.clone()));
        Self { agent, protection, metrics, _keeping: AbortOnDropHandle::new(keeping) }
    }

    fn ecs(&self) -> std::sync::MutexGuard<'_, Ecs> {
        self.agent.0.lock().expect("nothing panics while it is locked")
    }

    fn calls(&self) -> Vec<(u64, ProtectionState)> {
        self.ecs().calls.clone()
    }

    /// Whether ECS protects the task.
    fn is_protected(&self) -> bool {
        self.ecs().protected_until.is_some_and(|until| until > Instant::now())
    }

    fn shows(&self, line: &str) {
        let text = rendered(|registry| self.metrics.register(registry));
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
}

/// Lets this time pass, and the background task act.
async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_busy_task_is_protected_and_an_idle_one_is_not() {
    let world = World::new(&[]);
    pass(100).await;
    assert_eq!(world.calls(), []);
    world.shows("logferry_task_protected 0");
    let (first, second) = (world.protection.hold(), world.protection.hold());
    pass(0).await;
    assert_eq!(world.calls(), [(100, ON)]);
    world.shows("logferry_task_protected 1");
    pass(900).await;
    drop(first);
    pass(50).await;
    assert_eq!(world.calls(), [(100, ON), (400, ON), (700, ON), (1_000, ON)]);
    assert!(world.is_protected());
    drop(second);
    pass(29).await;
    assert_eq!(world.calls().len(), 4);
    pass(1_000).await;
    assert_eq!(world.calls()[4..], [(1_080, OFF)]);
    world.shows("logferry_task_protected 0");
    for line in ["{result=\"protected\"} 1", "{result=\"renewed\"} 3", "{result=\"cleared\"} 1"] {
        world.shows(&format!("logferry_task_protection_calls_total{line}"));
    }
    let _again = world.protection.hold();
    pass(0).await;
    assert_eq!(world.calls().last().map(|(_, wanted)| *wanted), Some(ON));
}

#[tokio::test(start_paused = true)]
async fn short_pauses_of_the_work_cost_no_calls() {
    let world = World::new(&[]);
    for _ in 0..60 {
        let message = world.protection.hold();
        pass(1).await;
        drop(message);
        pass(9).await;
        assert!(world.is_protected());
    }
    assert_eq!(world.calls(), [(0, ON), (300, ON)]);
}

#[tokio::test(start_paused = true)]
async fn a_protection_that_ecs_refuses_is_asked_for_less_and_less_often() {
    let world = World::new(&[Fate::Refused; 7]);
    let message = world.protection.hold();
    pass(0).await;
    world.shows("logferry_task_protected 0");
    pass(1_500).await;
    let times: Vec<_> = world.calls().iter().map(|(at, _)| *at).collect();
    assert_eq!(times, [0, 15, 45, 105, 225, 465, 765, 1_065, 1_365]);
    world.shows("logferry_task_protection_calls_total{result=\"failed\"} 7");
    // After a success, failures count anew.
    world.ecs().fates = [Fate::Refused; 1].into();
    pass(200).await;
    let times: Vec<_> = world.calls().iter().map(|(at, _)| *at).collect();
    assert_eq!(times[9..], [1_665, 1_680]);
    drop(message);
}

#[tokio::test(start_paused = true)]
async fn a_refused_protection_needs_no_end() {
    let world = World::new(&[Fate::Refused]);
    drop(world.protection.hold());
    let message = world.protection.hold();
    pass(1).await;
    drop(message);
    pass(1_000).await;
    assert_eq!(world.calls(), [(0, ON)]);
}

#[tokio::test(start_paused = true)]
async fn a_protection_whose_answer_is_lost_is_ended() {
    let world = World::new(&[Fate::DoneInSilence, Fate::Lost]);
    let message = world.protection.hold();
    pass(1).await;
    drop(message);
    world.shows("logferry_task_protected 0");
    assert!(world.is_protected());
    pass(1_000).await;
    assert_eq!(world.calls(), [(0, ON), (31, OFF), (61, OFF)]);
}

#[tokio::test(start_paused = true)]
async fn an_end_whose_answer_is_lost_leaves_nothing_to_rely_on() {
    let world = World::new(&[Fate::Done, Fate::DoneInSilence]);
    let message = world.protection.hold();
    pass(1).await;
    drop(message);
    pass(35).await;
    world.shows("logferry_task_protected 0");
    let _message = world.protection.hold();
    pass(20).await;
    assert_eq!(world.calls(), [(0, ON), (31, OFF), (46, ON)]);
}

#[tokio::test(start_paused = true)]
async fn a_protection_that_is_not_renewed_ends_by_itself_and_shows_it() {
    let world = World::new(&[&[Fate::Done][..], &[Fate::Refused; 99]].concat());
    let message = world.protection.hold();
    pass(599).await;
    world.shows("logferry_task_protected 1");
    pass(1).await;
    assert!(!world.is_protected());
    world.shows("logferry_task_protected 0");
    let calls = world.calls().len();
    drop(message);
    pass(5_000).await;
    assert_eq!(world.calls().len(), calls, "what has ended is not cleared");
}

/// Never answers.
struct Hanging;

impl Agent for Hanging {
    async fn set(&self, _wanted: ProtectionState) -> Result<(), AgentError> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn no_message_waits_for_an_agent_that_hangs() {
    let protection = Protection::default();
    let _keeping = AbortOnDropHandle::new(tokio::spawn(protection.keep(Hanging, Metrics::default())));
    let began = Instant::now();
    for _ in 0..10_000 {
        drop(protection.hold());
        tokio::task::yield_now().await;
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
}

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let fate = prop_oneof![
        3 => Just(Fate::Done),
        1 => Just(Fate::Refused),
        1 => Just(Fate::DoneInSilence),
        1 => Just(Fate::Lost),
    ];
    prop::collection::vec(fate, 0..12)
}

proptest! {
    /// Whatever the agent answered before: while it answers, a busy task is protected, an idle one is not, and calls have a
    /// bounded rate.
    #[test]
    fn the_protection_follows_the_work(
        fates in fates(),
        periods in prop::collection::vec((0_u64..400, 0_u64..400), 1..20),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(async {
            let world = World::new(&fates);
            for (busy, idle) in periods {
                let message = world.protection.hold();
                pass(busy).await;
                drop(message);
                pass(idle).await;
            }
            world.ecs().fates.clear();
            let message = world.protection.hold();
            pass(LONGEST_PAUSE.as_secs()).await;
            for _ in 0..100 {
                pass(17).await;
                prop_assert!(world.is_protected());
            }
            drop(message);
            pass(IDLE.as_secs()).await;
            prop_assert!(!world.is_protected());
            let calls = world.calls();
            for pair in calls.windows(2) {
                let ((one, before), (two, after)) = (pair[0], pair[1]);
                // A call that was done is followed by another one after an idle period, after a renewal's time, or because work
                // begins while the task is unprotected.
                let least = if (before, after) == (OFF, ON) { 0 } else { 15 };
                prop_assert!(two - one >= least, "{calls:?}");
            }
            Ok(())
        })?;
    }
}
