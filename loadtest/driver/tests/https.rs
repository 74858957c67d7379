//! Checks that `loadtest run --https` delivers its objects, and that its worker has no other way to the sandbox.
//!
//! `cargo test` for this package does not build the program `logferry`. So this program is the worker too: the instrument starts
//! it with the argument `worker`.

use std::{
    env,
    process::{Command, ExitCode},
};

fn main() -> ExitCode {
    if env::args().nth(1).as_deref() == Some("worker") {
        let endpoint = env::var("AWS_ENDPOINT_URL").expect("the worker has an endpoint");
        assert!(endpoint.starts_with("https://localhost:"), "{endpoint}");
        return logferry::cli::main();
    }
    let this = env::current_exe().expect("a program has a path");
    let mut run = Command::new(env!("CARGO_BIN_EXE_loadtest"));
    run.args([
        "run",
        "--https",
        "--objects",
        "5",
        "--plain-mb",
        "0.1",
        "--concurrency",
        "2",
        "--tenants",
        "2",
    ]);
    let output = run.arg("--worker").arg(this).output().expect("the instrument starts");
    let (table, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{errors}");
    assert!(table.contains("concurrency 2, ledger, HTTPS, after a warm-up"), "{table}");
    ExitCode::SUCCESS
}
