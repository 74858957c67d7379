use serde_json::{Value, json};

use super::{
    file::{MAX_KEY_BYTES, MAX_PREFIX_BYTES},
    memory::MemoryQuarantine,
    *,
};
use crate::batch::Rejection;
use crate::ledger::Position;

fn quarantine() -> (MemoryQuarantine, Quarantine, Metrics) {
    let (store, metrics) = (MemoryQuarantine::default(), Metrics::default());
    let prefix = QuarantinePrefix::parse(QuarantinePrefix::DEFAULT).expect("the default is right");
    (store.clone(), Quarantine::new(Arc::new(store), prefix, metrics.clone()), metrics)
}

fn object(key: &str) -> ObjectRef {
    ObjectRef { bucket: "staging".into(), key: key.into(), etag: Some("e\"e".into()), ..ObjectRef::default() }
}

const KEY: &str = "acme/c/app/pod/1-\u{fc} x.json.gz";

#[tokio::test]
async fn lines_name_their_source_and_keep_the_message_unchanged() {
    let (store, quarantine, metrics) = quarantine();
    let shelf = quarantine.shelf(&object(KEY), "acme", "cloudwatch#2");
    let mut file = QuarantineFile::default();
    assert!(file.is_empty());
    shelf.put(file, FileName::Batch(Position::default())).await.expect("an empty file needs no write");
    assert_eq!(store.calls(), 0);
    file = QuarantineFile::default();
    let escaped = r#"tab\t \u00fc \"quoted\" \ud83d\ude00"#;
    let too_old = QuarantineReason::Rejected(Rejection::TooOld);
    shelf.add(&mut file, QuarantineReason::Oversize, 17, Some(-5), b"long");
    shelf.add(&mut file, too_old, 12, Some(1_700_000_000_000), escaped.as_bytes());
    shelf.add(&mut file, QuarantineReason::Malformed, 13, None, b"no json");
    shelf.add(&mut file, too_old, 14, Some(1), b"b");
    shelf.put(file, FileName::Batch(Position::default())).await.expect("the store is up");
    let source = json!({
        "tenant_id": "acme", "delivery": "cloudwatch#2", "bucket": "staging", "key": KEY, "etag": "e\"e",
    });
    let line = |mut more: Value| {
        more.as_object_mut().expect("an object").extend(source.as_object().expect("an object").clone());
        more
    };
    let message = "tab\t \u{fc} \"quoted\" \u{1f600}";
    assert_eq!(
        store.lines(),
        [
            line(json!({ "reason": "oversize", "record": 17, "timestamp": -5, "message": "long" })),
            line(
                json!({ "reason": "too_old", "record": 12, "timestamp": 1_700_000_000_000_i64, "message": message })
            ),
            line(json!({ "reason": "malformed", "record": 13, "message": "no json" })),
            line(json!({ "reason": "too_old", "record": 14, "timestamp": 1, "message": "b" })),
        ]
    );
    let text = crate::metrics::rendered(|registry| metrics.register(registry));
    assert!(text.contains("logferry_quarantined_total{reason=\"too_old\"} 2"), "{text}");
    assert!(text.contains("logferry_quarantined_total{reason=\"malformed\"} 1"), "{text}");
}

#[tokio::test]
async fn a_repeated_attempt_replaces_only_its_own_file() {
    let (store, quarantine, _) = quarantine();
    let put = async |object: &ObjectRef, delivery: &str, record: u64| {
        let shelf = quarantine.shelf(object, "acme", delivery);
        let mut file = QuarantineFile::default();
        shelf.add(&mut file, QuarantineReason::Oversize, record, None, b"x");
        let begin = Position { records: record, events: 0 };
        shelf.put(file, FileName::Batch(begin)).await.expect("the store is up");
    };
    let one = object(KEY);
    for _ in 0..2 {
        put(&one, "cloudwatch", 12).await;
    }
    let keys = store.keys();
    let [key] = &keys[..] else { panic!("one file, not {keys:?}") };
    let key =
        key.strip_prefix("quarantine/acme/1---x.json.gz/cloudwatch-").expect("the key has the object's name");
    assert!(key.ends_with("-0000000012-0000.ndjson.gz") && key.len() == 16 + 26, "{key}");
    // Each of these differs in its record, delivery, version or key.
    put(&one, "cloudwatch", 13).await;
    put(&one, "cloudwatch#2", 12).await;
    put(&one, "cloudwatch-2", 12).await;
    put(&ObjectRef { etag: Some("f".into()), ..one.clone() }, "cloudwatch", 12).await;
    put(&ObjectRef { etag: None, ..one.clone() }, "cloudwatch", 12).await;
    put(&object("acme/c/app/other/1-\u{fc} x.json.gz"), "cloudwatch", 12).await;
    assert_eq!(store.keys().len(), 7);
}

#[tokio::test]
async fn a_file_that_was_not_written_is_not_counted() {
    let (store, quarantine, metrics) = quarantine();
    store.set_down(true);
    let shelf = quarantine.shelf(&object(KEY), "acme", "cloudwatch");
    let mut file = QuarantineFile::default();
    shelf.add(&mut file, QuarantineReason::Oversize, 1, None, b"x");
    let told = shelf
        .put(file, FileName::Batch(Position::default()))
        .await
        .expect_err("the store is down")
        .to_string();
    assert!(told.contains("quarantine/acme/") && told.contains("down"), "{told}");
    let text = crate::metrics::rendered(|registry| metrics.register(registry));
    assert!(!text.contains("logferry_quarantined_total{"), "{text}");
}

#[tokio::test]
async fn the_longest_names_fit_into_a_key() {
    let (store, _, metrics) = quarantine();
    let prefix = format!("{}{{tenant}}/", "p".repeat(MAX_PREFIX_BYTES - 9));
    let prefix = QuarantinePrefix::parse(&prefix).expect("the prefix has the greatest legal length");
    let quarantine = Quarantine::new(Arc::new(store.clone()), prefix, metrics);
    let key = "\u{fc}".repeat(512);
    for tenant in [key.clone(), format!("x{key}")] {
        let shelf = quarantine.shelf(&object(&key), &tenant, &"\u{fc}".repeat(500));
        let mut file = QuarantineFile::default();
        shelf.add(&mut file, QuarantineReason::Oversize, u64::MAX, None, b"x");
        shelf.put(file, FileName::Batch(Position::default())).await.expect("the store is up");
    }
    assert_eq!(store.keys().len(), 2);
    assert!(store.keys().iter().all(|key| key.len() <= MAX_KEY_BYTES), "{:?}", store.keys());
}

#[test]
fn prefixes_have_one_place_and_are_legal_starts_of_keys() {
    let check = |text: &str, rendered: Option<&str>| {
        let prefix = QuarantinePrefix::parse(text).map(|prefix| prefix.render("acme"));
        assert_eq!(prefix.as_deref().ok(), rendered, "{text}: {prefix:?}");
    };
    check("quarantine/{tenant}/", Some("quarantine/acme/"));
    check("{tenant}/", Some("acme/"));
    check("a/tenant={tenant}/b/", Some("a/tenant=acme/b/"));
    for bad in [
        "",
        "/",
        "quarantine/",
        "{tenant}",
        "/{tenant}/",
        "{tenant}/{tenant}/",
        "{tenant}/{pod}/",
        "{{tenant}/",
        "a\n/{tenant}/",
        "../{tenant}/",
        "{cluster}/",
    ] {
        check(bad, None);
    }
    check(&format!("{}{{tenant}}/", "p".repeat(MAX_PREFIX_BYTES)), None);
}
