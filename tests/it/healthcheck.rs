//! `logferry healthcheck` tells whether the worker on this host is alive.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{
    operator::{Ended, run},
    setup::Setup,
};

/// Runs the command for a worker with this `http.listen`. No other setting is needed.
async fn healthcheck(listen: &str) -> Ended {
    let environment = BTreeMap::from([("LOGFERRY_HTTP__LISTEN".to_owned(), listen.to_owned())]);
    run(&["healthcheck"], &environment).await
}

/// Checks that the command fails with one line.
#[track_caller]
fn fails(ended: Ended, words: &[&str]) {
    let ended = words.iter().fold(ended.with(1), |ended, words| ended.saying(words));
    assert!(ended.stdout.is_empty() && ended.stderr.lines().count() == 1, "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_is_healthy_until_it_stands_still_or_ends() {
    let setup = Setup::new("healthcheck").await;
    let worker = setup.worker().await;
    let listen = format!("0.0.0.0:{}", worker.address().port());
    let ended = healthcheck(&listen).await.with(0);
    assert!(ended.stdout.is_empty() && ended.stderr.is_empty(), "{ended:?}");
    worker.pause();
    let began = Instant::now();
    fails(healthcheck(&listen).await, &["/healthz: no answer within 3 s"]);
    // ECS ends a check after 5 s by default.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    worker.resume();
    worker.ready().await;
    healthcheck(&listen).await.with(0);
    worker.kill().await;
    fails(healthcheck(&listen).await, &["/healthz: the request failed", "refused"]);
}

/// A server that gives one answer to each connection.
async fn server(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let address = listener.local_addr().expect("the listener is bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let length = stream.read(&mut request).await.unwrap_or_default();
            assert!(request[..length].starts_with(b"GET /healthz HTTP/1.1\r\n"));
            // The client may have closed the connection.
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_answer_of_a_live_worker_is_healthy() {
    for (answer, code, words) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n{\"status\":\"ok\"}", 0, ""),
        (
            "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 20\r\n\r\n{\"status\":\"stalled\"}",
            1,
            "answers 503 Service Unavailable: the worker is stalled",
        ),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", 1, "200 OK, and not as a worker does"),
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", 1, "404 Not Found, and not as a worker does"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n{\"status\"", 1, "the request failed"),
        ("nothing that is HTTP\r\n\r\n", 1, "the request failed"),
        ("", 1, "the request failed"),
    ] {
        let ended = healthcheck(&server(answer).await.to_string()).await;
        match code {
            0 => drop(ended.with(0)),
            _ => fails(ended, &[words]),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_only_the_log_tells_is_refused() {
    healthcheck("127.0.0.1:0").await.with(64).saying("http.listen: with port 0 only the worker's log tells");
    healthcheck("nowhere").await.with(64).saying("$LOGFERRY_HTTP__LISTEN");
}
