//! Chaos: seeded runs of real workers on a sandbox that misbehaves.
//!
//! Calls fail, answers break off, notifications come twice, and workers are killed or paused. Then all faults end, and
//! once the queue is empty the run compares, record by record, what went in with what arrived in every account, in the
//! quarantine, in the customers' buckets and lakes, and in the dead-letter queue.
//!
//! A [`Plan`] follows from its seed alone: the same seed gives the same objects, faults and kills. The interleaving
//! differs from run to run.
//!
//! `tests/it/chaos.rs` runs a few seeds, `loadtest/run chaos` as many as asked for.

mod comparison;
mod content;
mod copies;
mod lake;
mod letters;
mod notice;
mod outcome;
mod plan;
mod quarantine;
mod run;
mod stage;
mod workers;

pub use outcome::{Outcome, Summary};
pub use plan::{Kind, Outage, Plan};
pub use run::{Setting, run};
