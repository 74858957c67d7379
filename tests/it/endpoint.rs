//! The worker's endpoint and misbehaving clients.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use crate::{
    eventually::eventually,
    samples::{assert_same_events, expected, received_events},
    setup::Setup,
};

/// Several times the connections that the endpoint accepts at once. More would only use up descriptors of this process.
const HALF_OPEN: usize = 300;
/// More than the descriptors that a worker needs, with those of the 64 connections that it accepts.
const MOST_DESCRIPTORS: usize = 150;

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the endpoint listens");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("the timeout is not zero");
    stream
}

/// Reads until the other side closes or resets the connection.
fn until_closed(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }
    String::from_utf8(answer).expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_connections_do_not_disturb_deliveries() {
    let setup = Setup::new("half-open").await;
    let customer = setup.customer("acme").await;
    let worker = setup.worker().await;
    worker.ready().await;
    let address = worker.address();
    let open = tokio::task::spawn_blocking(move || {
        (0..HALF_OPEN)
            .map(|number| {
                let mut stream = connect(address);
                if number % 2 == 0 {
                    // The worker may have closed the connection already.
                    let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nX-Slow: ");
                }
                stream
            })
            .collect::<Vec<_>>()
    });
    let open = open.await.expect("no panic");
    let began = Instant::now();
    let (status, body) = worker.http_get("/healthz").await.expect("the endpoint answers");
    assert!(status == 200 && body.starts_with("{\"status\":\"ok\""), "{status} {body}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    if let Some(descriptors) = worker.descriptors() {
        assert!(descriptors < MOST_DESCRIPTORS, "{descriptors} descriptors are open");
    }
    let object = setup.upload_generated("acme/c/app/pod/1.json.gz", 50, 100).await;
    setup.acknowledged(&worker, 1).await;
    assert_same_events("acme", &received_events(&setup.aws, &customer).await, &expected(&object.text));
    drop(open);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_takes_one_request_and_ends_soon() {
    let setup = Setup::new("slow-headers").await;
    let worker = setup.worker().await;
    let address = worker.address();
    let (slow, idle, kept, large) = tokio::task::spawn_blocking(move || {
        let began = Instant::now();
        let slow = std::thread::spawn(move || {
            let mut stream = connect(address);
            // One header line each 100 ms would keep a server busy for ever if it waited for the last one.
            while began.elapsed() < Duration::from_secs(30) && stream.write_all(b"X-A: b\r\n").is_ok() {
                std::thread::sleep(Duration::from_millis(100));
            }
            began.elapsed()
        });
        let idle = std::thread::spawn(move || {
            until_closed(connect(address));
            began.elapsed()
        });
        let mut kept = connect(address);
        kept.write_all(b"GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\n\r\n")
            .expect("the request can be sent");
        let kept = (until_closed(kept), began.elapsed());
        let mut large = connect(address);
        // A request with a body that is never read, and a request with too large a head.
        let _ =
            large.write_all(b"POST /metrics HTTP/1.1\r\nHost: h\r\nContent-Length: 9999999999\r\n\r\nxxxx");
        let mut head = connect(address);
        let _ =
            head.write_all(format!("GET / HTTP/1.1\r\nX-Long: {}\r\n\r\n", "x".repeat(20_000)).as_bytes());
        let large = (until_closed(large), until_closed(head));
        (slow.join().expect("no panic"), idle.join().expect("no panic"), kept, large)
    })
    .await
    .expect("no panic");
    let cut = Duration::from_secs(8)..Duration::from_secs(20);
    assert!(slow < cut.end, "slow headers went on for {slow:?}");
    assert!(cut.contains(&idle), "an idle connection was closed after {idle:?}");
    assert!(
        kept.0.starts_with("HTTP/1.1 200 ") && kept.0.contains("\r\ncontent-type: application/json\r\n"),
        "{kept:?}"
    );
    assert!(
        kept.1 < Duration::from_secs(5),
        "the connection closes after the answer, not after {:?}",
        kept.1
    );
    assert!(large.0.starts_with("HTTP/1.1 405 ") && large.0.contains("allow: GET,HEAD"), "{large:?}");
    assert!(large.1.is_empty() || large.1.starts_with("HTTP/1.1 431 "), "{large:?}");
    let (status, _) = worker.http_get("/other").await.expect("the endpoint answers");
    assert_eq!(status, 404);
    eventually("everything is closed", async || match worker.descriptors() {
        Some(descriptors) if descriptors > 60 => Err(format!("{descriptors} descriptors are open")),
        _ => Ok(()),
    })
    .await;
}
