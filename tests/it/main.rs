//! The black-box suite: the real program, in a process of its own, against an AWS double, read back from the customers'
//! side.
//!
//! `LOGFERRY_TEST_TARGET` picks the double: `sandbox` (the default, in process) or `ministack` (a public emulator in
//! Python, which the suite installs under `target/` and starts by itself). The tests are the same on both; those that
//! need faults injected say so and skip themselves elsewhere.

mod eventually;
mod gate;
mod operator;
mod samples;
mod setup;
mod target;
mod worker;

mod chaos;
mod config;
mod conformance;
mod content;
mod copies;
mod cpu;
mod deliver;
#[cfg(feature = "demo")]
mod demo;
mod docs;
mod doctor;
mod endpoint;
mod fairness;
mod faults;
mod field;
mod fuzz;
mod hostile;
mod isolation;
mod layers;
mod ledger_command;
mod lifecycle;
mod many_tenants;
mod memory;
mod never_lost;
mod outages;
mod outbound;
mod profiles;
mod promises;
mod quarantine;
mod redrive;
mod refusals;
mod rows;
mod table;
mod tenant;
mod verdicts;
mod waiting;
