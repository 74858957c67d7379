use proptest::prelude::*;

use super::*;

fn check(message: &str, expected: Option<&str>) {
    assert_eq!(Level::of_message(message).map(Level::as_str), expected, "{message}");
}

#[test]
fn members_have_words_or_numbers() {
    let check = |name: &str, value: &str, expected: Option<&str>| {
        assert_eq!(Level::of_member(name, value).map(Level::as_str), expected, "{name}: {value}");
    };
    check("level", r#""info""#, Some("info"));
    check("level", r#""WARNING""#, Some("warn"));
    check("severity", r#""Critical""#, Some("fatal"));
    check("severity", r#""NOTICE""#, Some("info"));
    check("log.level", r#""ERROR""#, Some("error"));
    check("lvl", r#""dbug""#, None);
    check("lvl", r#""DBG""#, Some("debug"));
    check("level", "30", Some("info"));
    check("level", "60", Some("fatal"));
    for value in
        ["35", "3", "30.0", "null", "true", r#""Metadata""#, r#""""#, r#""30""#, "\"", r#"{"a":"info"}"#]
    {
        check("level", value, None);
    }
    check("levels", r#""info""#, None);
    check("Level", r#""info""#, None);
}

#[test]
fn words_and_levels_agree() {
    for level in [Level::Trace, Level::Debug, Level::Info, Level::Warn, Level::Error, Level::Fatal] {
        assert_eq!(of_word(level.as_str(), &WORDS), Some(level));
    }
}

#[test]
fn a_json_message_names_its_level() {
    check(r#"{"level":"error","ts":"2026-11-21T08:00:00.670488Z","msg":"x"}"#, Some("error"));
    check(r#" {"time":1,"severity" : "Warning"}"#, Some("warn"));
    check(r#"{"name":"app","hostname":"h","pid":1,"level":50,"msg":"x","v":0}"#, Some("error"));
    check(r#"{"log.level":"INFO","message":"ecs"}"#, Some("info"));
    check(r#"{"kind":"Event","level":"Metadata","severity":"info"}"#, Some("info"));
    check(r#"{"kind":"Event","level":"Metadata"}"#, None);
    check(r#"{"level":"info","severity":"error"}"#, Some("info"));
    check(r#"{"attrs":{"level":"error"},"msg":"level"}"#, None);
    check(r#"{"level":"error"#, None);
    check(&format!(r#"{{"level":"warn","msg":"{}"}}"#, "x".repeat(9000)), Some("warn"));
    check(&format!(r#"{{"msg":"{}","level":"warn"}}"#, "x".repeat(9000)), None);
    check("{braces} level=info", None);
}

#[test]
fn the_first_letter_of_klog_is_its_level() {
    check("W1121 08:00:00.373359       1 queue.go:440] cart", Some("warn"));
    check("E20261121 08:00:00.373359 1 main.cc:10] x", Some("error"));
    check("I0830 12:00:00 x", Some("info"));
    check("F0830 12:00:00.1 x", Some("fatal"));
    check("I0830 is not klog", None);
    check("E404 08:00:00 x", None);
    check("X1121 08:00:00.373359 x", None);
    check("I1121", None);
    check("I", None);
}

#[test]
fn logfmt_names_its_level() {
    check(r#"time="2026-11-21T08:00:00Z" level=warning msg="started""#, Some("warn"));
    check(r#"ts=1795248000.12 caller=main.go:10 level=debug"#, Some("debug"));
    check(r#"level="error" msg=x"#, Some("error"));
    check(r#"msg="a \" level=info" lvl=eror level=fatal"#, None);
    check(r#"msg="a \" level=info" level=fatal"#, Some("fatal"));
    check(r#"msg="a \\" level=info"#, Some("info"));
    check("2026-11-21T08:00:00Z level=error msg=x", Some("error"));
    check("the option level=debug prints more", None);
    check("a=b the level=debug", None);
    check("level=", None);
    check("level=4", None);
    check(r#"a="b"#, None);
    check("=info level=info", None);
}

#[test]
fn text_that_begins_with_a_level_has_it() {
    for (message, expected) in [
        ("[ERROR] x", "error"),
        ("[warn] x", "warn"),
        ("[ Info ] x", "info"),
        ("ERROR: x", "error"),
        ("error: cannot open the file", "error"),
        ("Warning: deprecated", "warn"),
        ("INFO:root:Python", "info"),
        ("WARN\tx", "warn"),
        ("FATAL:", "fatal"),
        ("2026-11-21T08:00:00Z WARN x", "warn"),
        ("2026-11-21T08:00:00.123456Z  INFO module: tracing", "info"),
        ("2026-11-21T08:00:00.123+01:00 ERROR x", "error"),
        ("2026-11-21 08:00:00,163 ERROR [cache-thread-1] com.example.CommitService - lease", "error"),
        ("2026-11-21 08:00:00,250 INFO root: Python", "info"),
        ("2026-11-21 08:00:00,250 - module.name - WARNING - x", "warn"),
        ("2026-11-21 08:00:00,250 - DEBUG - x", "debug"),
        ("2026-11-21 08:00:00.001  WARN 1 --- [main] o.s.boot : Spring", "warn"),
        ("2026-11-21 08:00:00.001 [main] INFO  com.example - logback", "info"),
        ("[2026-11-21 08:00:00 +0000] [1] [INFO] gunicorn", "info"),
        ("[2026-11-21T08:00:00Z ERROR module] env_logger", "error"),
        ("2026/11/21 08:00:00 [error] 7#7: *1 nginx", "error"),
        ("2026/11/21 08:00:00 [notice] 1#1: start", "info"),
        ("2026-11-21 08:00:00.250 UTC [1] ERROR:  PostgreSQL", "error"),
        ("2026-11-21T08:00:00.123Z\tinfo\tcontroller\tzap", "info"),
        ("2026-11-21T08:00:00Z ERROR", "error"),
        ("2026-11-21T08:00:00Z CRITICAL x", "fatal"),
        ("  [DEBUG] x", "debug"),
        ("[main] [ERROR] x", "error"),
    ] {
        check(message, Some(expected));
    }
}

#[test]
fn a_word_in_a_sentence_is_no_level() {
    for message in [
        "",
        " ",
        "error",
        "ERROR rate is 5 %",
        "DEBUG mode is on",
        "error while reading",
        "2026-11-21T08:00:00Z error while reading",
        "2026-11-21T08:00:00Z started INFO",
        "2026-11-21 a date without a time ERROR",
        "2026-11-21 08:00:00.250 UTC [1] LOG:  PostgreSQL",
        "2026-11-21T08:00:00Zebra ERROR x",
        "2026-11-21T08:00:00Z INFORMAL x",
        "INFORMATION-SCHEMA: x",
        "info:8080 is open",
        "Alert: the kettle boils",
        "[main] ERROR x",
        "info\tx",
        "2026-11/21 08:00:00 ERROR x",
        "2026-11-21 08:00:00,250 - module - WARNING x",
        "[warnings] x",
        "[error",
        "ERRORS: 5",
        "219.88.159.80 - - [21/Nov/2026:08:00:00 +0000] \"GET /error HTTP/1.1\" 500 75265",
        "\tat com.example.Error(Main.java:5)",
        "no error: all is well",
        "2026-11-21 08:00:00,250 - a - b",
        "{\"level\":5}",
        "é ERROR: x",
    ] {
        check(message, None);
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in ".{0,60}", at in 0_usize..60) {
        let _ = Level::of_message(&text);
        let line = r#"[2026-11-21 08:00:00,250 +0100] - a="b\" - [x] level="é" ERROR: I1121 08:00:00.37 {"level":"é"}"#;
        let at = (0..=at).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
        let _ = Level::of_message(&line[at..]);
        let _ = Level::of_message(&line[..at]);
        let _ = Level::of_message(&format!("{}{text}{}", &line[..at], &line[at..]));
    }
}
