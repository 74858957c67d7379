//! ministack: a public emulator, installed under `target/` and started once for the whole suite.

use std::{
    env,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
};

use tokio::sync::OnceCell;

use crate::{eventually::eventually, worker::http_get};

/// Process that supervises the emulator. It stops the emulator when the pipe to its standard input closes, which
/// happens however this process ends.
static KEEPER: Mutex<Option<Child>> = Mutex::new(None);

/// Endpoint of this process's ministack, or the reason why there is none.
///
/// There is one only if `LOGFERRY_TEST_TARGET=ministack` or `LOGFERRY_REQUIRE_MINISTACK=1` is set, so that a plain `cargo test`
/// needs no network.
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

/// Path of the program, which is installed if it is missing.
fn install() -> Result<PathBuf, String> {
    let wanted = env::var("LOGFERRY_TEST_TARGET").is_ok_and(|target| target == "ministack");
    if !wanted && !is_required() {
        return Err(
            "neither LOGFERRY_TEST_TARGET=ministack nor LOGFERRY_REQUIRE_MINISTACK=1 asks for ministack"
                .into(),
        );
    }
    let target =
        Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the folder is inside of the target folder");
    let output = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/tools"))
        .arg("ministack")
        .env("CARGO_TARGET_DIR", target)
        .output()
        .map_err(|error| format!(".ci/tools: {error}"))?;
    if !output.status.success() {
        return Err(format!(".ci/tools: {}: {}", output.status, String::from_utf8_lossy(&output.stderr)));
    }
    let venv = String::from_utf8(output.stdout).map_err(|error| error.to_string())?;
    Ok(Path::new(venv.trim_end()).join("bin/ministack"))
}
