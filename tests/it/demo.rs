//! The first command of the README, and the same with failures.

use std::{process::Command, time::Instant};

const SUMMARY: &str = "10,465 of 10,465 records delivered to the right account, 0 to a wrong one, 0 twice,\n0 altered, 0 out of order, 35 empty ones skipped";

/// Runs the demo to its end, and returns what it printed.
fn demo(arguments: &[&str]) -> String {
    let program = env!("CARGO_BIN_EXE_logferry");
    let demo = Command::new(program).arg("demo").args(arguments).output().expect("the demo starts");
    let said = String::from_utf8_lossy(&demo.stdout).into_owned();
    assert!(demo.status.success(), "{said}\n{}", String::from_utf8_lossy(&demo.stderr));
    assert!(said.contains(SUMMARY) && said.contains("exited 0"), "{said}");
    said
}

#[test]
fn the_demo_delivers_and_reports_every_record() {
    demo(&[]);
}

/// The demo itself checks what it prints. This test checks that nothing is left out, and the order.
#[test]
fn the_demo_shows_a_broken_role_and_a_corrupt_object_and_mends_both() {
    let started = Instant::now();
    let said = demo(&["--break"]);
    assert!(started.elapsed().as_secs() < 120, "a newcomer waits for {:?}", started.elapsed());
    let mut rest = said.as_str();
    for part in [
        "Broken on purpose",
        "no other tenant is affected",
        "acme-corp gets no logs",
        "logferry_tenant_oldest_waiting_seconds{tenant=\"acme-corp\"}",
        "LogferryTenantStoppedReceiving would fire after ",
        "docs/runbook.md#logferrytenantstoppedreceiving",
        "status page  http://127.0.0.1:",
        "acme-corp refused",
        "breaker.remedy: ",
        "logferry doctor --tenant acme-corp    # exit code 1",
        "FAILED ",
        "fix: ",
        "One object of globex cannot be read",
        "logferry_dead_letters_total{reason=\"unsupported_format\"} 1",
        "docs/runbook.md#logferrydeadletters",
        "status page  http://127.0.0.1:",
        "logferry redrive list --reason unsupported_format",
        "Mended",
        "All is clear again",
        "logferry_role_breakers_open 0",
        "logferry doctor --tenant acme-corp    # exit code 0",
        SUMMARY,
    ] {
        let (_, after) = rest.split_once(part).unwrap_or_else(|| panic!("no {part:?} in {rest}"));
        rest = after;
    }
}
