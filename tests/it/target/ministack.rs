//! ministack: a public emulator, installed under `target/` and started once for the whole suite.

use std::{
    env,
    io::ErrorKind,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
};

use tokio::sync::OnceCell;

use crate::{eventually::eventually, worker::http_get};

const VERSION: &str = "1.5.33";

/// Process that supervises the emulator. It stops the emulator when the pipe to its standard input closes, which
/// happens however this process ends.
static KEEPER: Mutex<Option<Child>> = Mutex::new(None);

/// Endpoint of this process's ministack, or the reason why there is none.
///
/// ministack is installed only if `LOGFERRY_TEST_TARGET=ministack` or `LOGFERRY_REQUIRE_MINISTACK=1` is set, so that a plain
/// `cargo test` needs no network.
pub(crate) async fn shared() -> &'static Result<String, String> {
    static SHARED: OnceCell<Result<String, String>> = OnceCell::const_new();
    SHARED.get_or_init(start).await
}

/// Returns whether a missing ministack fails the tests.
pub(crate) fn is_required() -> bool {
    env::var("LOGFERRY_REQUIRE_MINISTACK").is_ok_and(|value| value == "1")
}

async fn start() -> Result<String, String> {
    let program = tokio::task::spawn_blocking(install).await.map_err(|error| error.to_string())??;
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map_err(|error| error.to_string())?
        .port();
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("ministack-{}", std::process::id()));
    std::fs::create_dir_all(home.join("s3")).map_err(|error| error.to_string())?;
    // The shell waits for the end of its standard input, which is the end of this process, and then cleans up.
    let keep = r#""$0" >"$D/log" 2>&1 </dev/null & pid=$!
        read -r _; kill "$pid"; wait "$pid"; rm -rf "$D""#;
    let keeper = Command::new("sh")
        .args(["-c", keep])
        .arg(program)
        .env("D", &home)
        .env("TMPDIR", &home)
        .env("STATE_DIR", home.join("state"))
        .env("S3_DATA_DIR", home.join("s3"))
        .env("GATEWAY_PORT", port.to_string())
        .env("EDGE_PORT", port.to_string())
        .envs([("AUTH", "true"), ("BIND_HOST", "127.0.0.1"), ("LOG_LEVEL", "WARNING")])
        .envs([("IOT_MTLS_ENABLED", "0"), ("SFTP_ENABLED", "0")])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| error.to_string())?;
    *KEEPER.lock().expect("no code panics while it holds the lock") = Some(keeper);
    let address = ([127, 0, 0, 1], port).into();
    eventually("ministack answers", async || match http_get(address, "/_ministack/health").await {
        Ok((200, _)) => Ok(()),
        other => {
            let log = std::fs::read_to_string(home.join("log")).unwrap_or_default();
            Err(format!("{other:?}; its log: {log}"))
        }
    })
    .await;
    Ok(format!("http://127.0.0.1:{port}"))
}

/// Path of the program. Installs it into a virtual environment of its own if it is missing.
fn install() -> Result<PathBuf, String> {
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("ministack-venv");
    let program = venv.join("bin/ministack");
    // Written last, so an incomplete installation has no marker.
    let marker = venv.join(format!("installed-{VERSION}"));
    if marker.exists() {
        return Ok(program);
    }
    let wanted = env::var("LOGFERRY_TEST_TARGET").is_ok_and(|target| target == "ministack");
    if !wanted && !is_required() {
        return Err(format!(
            "ministack {VERSION} is not installed under target/, and neither LOGFERRY_TEST_TARGET=ministack nor \
             LOGFERRY_REQUIRE_MINISTACK=1 asks for it"
        ));
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    run(Command::new(venv.join("bin/pip"))
        .args(["install", "--quiet", "--disable-pip-version-check"])
        .arg(format!("ministack=={VERSION}")))?;
    std::fs::write(&marker, "").map_err(|error| format!("{}: {error}", marker.display()))?;
    Ok(program)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| match error.kind() {
        ErrorKind::NotFound => format!("{command:?}: the program does not exist"),
        _ => format!("{command:?}: {error}"),
    })?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr)))
}
