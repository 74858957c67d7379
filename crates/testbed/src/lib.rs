//! Everything around the worker but AWS itself: the accounts it works in, objects for it, and the worker as a process.
//!
//! `logferry demo`, the black-box suite, chaos and the load instrument share it. It speaks to whatever endpoint it is
//! given, the sandbox or another double of AWS.

pub mod provision;
pub mod samples;
pub mod worker;
