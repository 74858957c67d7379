//! Programs that a machine may lack.

use std::{
    env,
    ffi::OsStr,
    io::{Write, stderr},
    process::Command,
};

/// Returns whether a program runs. Otherwise prints a notice, or fails if the variable `required` is 1. `installer` is the script
/// that installs the program.
pub(crate) fn runs(program: &OsStr, required: &str, installer: &str) -> bool {
    let Err(error) = Command::new(program).arg("--version").output() else { return true };
    let program = program.display();
    assert!(!env::var(required).is_ok_and(|value| value == "1"), "{program} cannot be run: {error}");
    // Written without a macro, because the test harness hides what `eprintln!` prints in a test that passes.
    let notice = format!("SKIPPED: {program} cannot be run ({error}); {installer} installs it\n");
    stderr().write_all(notice.as_bytes()).expect("standard error is open");
    false
}
