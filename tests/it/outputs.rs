//! Commands whose standard output or standard error is closed or full: the exit code stays the command's own, and a result that
//! cannot be written is an error.

use std::{collections::BTreeMap, fs::File, process::Stdio};

use tokio::process::Command;

use crate::setup::Setup;

/// A command for each way to write. `OBJECT` is an object of the staging bucket.
const COMMANDS: [&[&str]; 17] = [
    &["config", "check"],
    &["config", "check", "--set", "aws.region=nowhere"],
    &["config", "print"],
    &["cost", "--gb-per-day", "1"],
    &["doctor"],
    &["doctor", "--json"],
    &["healthcheck"],
    &["lambda"],
    &["ledger", "show"],
    &["manual", "/nonexist"],
    &["manual", "--dry-run", "OBJECT"],
    &["redrive", "list"],
    &["replay", "--bucket", "nope"],
    &["replay", "--dry-run"],
    &["shadow", "compare"],
    &["tenant", "list"],
    &["tenant", "validate"],
];

/// Standard output or standard error of a command.
#[derive(Clone, Copy, Debug)]
enum To {
    Pipe,
    /// A pipe that nobody reads any more.
    Closed,
    /// A full disk.
    #[cfg(target_os = "linux")]
    Full,
}

impl To {
    fn stdio(self) -> Stdio {
        match self {
            Self::Pipe => Stdio::piped(),
            Self::Closed => std::io::pipe().expect("a pipe can be created").1.into(),
            #[cfg(target_os = "linux")]
            Self::Full => File::options().write(true).open("/dev/full").expect("the device exists").into(),
        }
    }
}

const BROKEN: &[To] = &[
    To::Closed,
    #[cfg(target_os = "linux")]
    To::Full,
];

/// Runs a command. Returns its exit code, standard output and standard error.
async fn run(
    arguments: &[&str],
    environment: &BTreeMap<String, String>,
    stdout: To,
    stderr: To,
) -> (Option<i32>, String, String) {
    // `Command::output` would pipe both again.
    let command = Command::new(env!("CARGO_BIN_EXE_logferry"))
        .args(arguments)
        .env_clear()
        .envs(environment)
        .stdin(Stdio::null())
        .stdout(stdout.stdio())
        .stderr(stderr.stdio())
        .kill_on_drop(true)
        .spawn()
        .expect("cargo built the program");
    let output = command.wait_with_output().await.expect("the command can be waited for");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_command_panics_if_an_output_is_closed_or_full() {
    let setup = Setup::new("outputs").await;
    setup.customer("acme").await;
    setup.upload_generated("acme/c/app/p/1.json", 2, 40).await;
    let mut environment = setup.environment().await;
    // Nothing listens there.
    for (name, value) in [
        ("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9"),
        ("AWS_LAMBDA_FUNCTION_NAME", "logferry"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        ("LOGFERRY_HTTP__LISTEN", "127.0.0.1:9"),
    ] {
        environment.insert(name.to_owned(), value.to_owned());
    }
    let object = format!("s3://{}/acme/c/app/p/1.json", setup.provider.bucket);
    for arguments in COMMANDS {
        let named = arguments.iter().map(|argument| if *argument == "OBJECT" { &object } else { *argument });
        let arguments: Vec<_> = named.collect();
        let run = async |stdout, stderr| run(&arguments, &environment, stdout, stderr).await;
        let (code, printed, told) = run(To::Pipe, To::Pipe).await;
        assert!(matches!(code, Some(0 | 1 | 2 | 64 | 66)), "{arguments:?}: {code:?}: {told}");
        for &broken in BROKEN {
            let (same, again, _) = run(To::Pipe, broken).await;
            assert_eq!(same, code, "{arguments:?}, standard error {broken:?}");
            assert_eq!(again.is_empty(), printed.is_empty(), "{arguments:?}, standard error {broken:?}");
            let (ended, _, told) = run(broken, To::Pipe).await;
            if printed.is_empty() {
                assert_eq!(ended, code, "{arguments:?}, standard output {broken:?}: {told}");
            } else {
                assert_eq!(ended, Some(1), "{arguments:?}, standard output {broken:?}: {told}");
                let words = ["cannot write to standard output", "the lines cannot be written"];
                assert!(words.iter().any(|words| told.contains(words)), "{arguments:?}: {told}");
            }
            assert_eq!(run(broken, broken).await.0, ended, "{arguments:?}, both {broken:?}");
        }
    }
}
