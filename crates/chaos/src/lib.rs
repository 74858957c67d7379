//! Chaos: real workers as processes of their own, on a sandbox whose calls fail, whose answers break and whose
//! notifications come twice, killed or paused at bad moments; then everything is left in peace, and what went in is compared,
//! record by record, with what every account got, with the quarantine, with the copies and with the dead letters.
//!
//! A [`Plan`] follows from its seed alone. What the machine makes of it does not: the same seed gives the same objects,
//! faults and kills, not the same interleaving.
//!
//! Used by `tests/it/chaos.rs` (a few seeds) and by `loadtest/run chaos` (as many as asked for).

mod comparison;
mod content;
mod copies;
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
