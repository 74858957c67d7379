//! The black-box suite: runs the real program as a process of its own against an AWS double, and reads back what
//! customers received.
//!
//! `LOGFERRY_TEST_TARGET` selects the double: `sandbox` (the default, in process) or `ministack` (a public emulator in
//! Python, which the suite installs under `target/` and starts itself). Both run the same tests; tests that need
//! injected faults skip themselves on ministack and print that.

mod eventually;
mod gate;
mod operator;
mod optional;
mod samples;
mod setup;
mod target;
mod worker;

mod browser;
mod chaos;
mod compact;
mod config;
mod conformance;
mod content;
mod copies;
mod costs;
mod cpu;
mod deliver;
mod demo;
mod docs;
mod doctor;
mod endpoint;
mod fairness;
mod faults;
mod field;
mod formats;
mod fuzz;
mod healthcheck;
mod hostile;
mod isolation;
mod lake_tables;
mod lakes;
mod lambda;
mod layers;
mod ledger_command;
mod lifecycle;
mod log;
mod manual;
mod many_tenants;
mod memory;
mod never_lost;
mod observability;
mod outages;
mod outbound;
mod outputs;
mod profiles;
mod promises;
mod protection;
mod quarantine;
mod redrive;
mod refusals;
mod replay;
mod rows;
mod secrets;
mod shadow;
mod status;
mod table;
mod tenant;
mod traces;
mod verdicts;
mod waiting;
