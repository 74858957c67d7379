//! The first command of the README.

use std::process::Command;

#[test]
fn the_demo_delivers_and_reports_every_record() {
    let demo = Command::new(env!("CARGO_BIN_EXE_logferry")).arg("demo").output().expect("the demo starts");
    let said = String::from_utf8_lossy(&demo.stdout);
    assert!(demo.status.success(), "{said}\n{}", String::from_utf8_lossy(&demo.stderr));
    let summary = "10,465 of 10,465 records delivered to the right account, 0 to a wrong one, 0 twice,\n0 altered, 0 out of order, 35 empty ones skipped";
    assert!(said.contains(summary), "{said}");
    assert!(said.contains("exited 0"), "{said}");
}
