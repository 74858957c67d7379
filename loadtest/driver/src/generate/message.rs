//! Generates messages: words and values, JSON, and stack traces. Most are short, a few are long.

use super::{Generator, Shape, record::uuid};

const WORDS: &[&str] = &[
    "cache",
    "tenant",
    "order",
    "quota",
    "slow",
    "replica",
    "miss",
    "queue",
    "pod",
    "alpha",
    "retry",
    "accepted",
    "connection",
    "from",
    "upstream",
    "handler",
    "payment",
    "declined",
    "for",
    "user",
    "shard",
    "leader",
    "lost",
    "lease",
    "renewed",
    "after",
    "timeout",
    "reading",
    "request",
    "body",
    "the",
    "deadline",
    "was",
    "exceeded",
    "waiting",
    "on",
    "reconciler",
    "applied",
    "compaction",
    "finished",
    "with",
    "snapshot",
    "index",
    "watch",
];
const FOREIGN: &[&str] = &[
    "größe",
    "überlauf",
    "naïve",
    "заказ",
    "ошибка",
    "接続",
    "エラー",
    "주문",
    "🚚",
    "✅",
    "χρόνος",
    "שגיאה",
];
const LEVELS: &[&str] = &["debug", "info", "info", "info", "warn", "error"];
/// Lengths of messages: weight, minimum, maximum.
const LENGTHS: &[(u32, usize, usize)] = &[
    (380, 24, 64),
    (350, 64, 128),
    (200, 128, 256),
    (70, 256, 512),
    (25, 512, 1024),
    (9, 1024, 2048),
    (3, 2048, 4096),
    (2, 4096, 8192),
    (1, 8192, 20_000),
];

/// Returns a random word of [`WORDS`].
fn word(rng: &mut fastrand::Rng) -> &'static str {
    WORDS[rng.usize(..WORDS.len())]
}

/// Appends a name and `length` characters of base64, like those of a hash or signature.
fn base64(rng: &mut fastrand::Rng, to: &mut String, name: &str, length: usize) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    to.push_str(name);
    to.extend((0..length).map(|_| char::from(DIGITS[rng.usize(..DIGITS.len())])));
}

impl Generator<'_> {
    pub(super) fn message(&mut self, to: &mut String) {
        let Shape { json, escapes, non_ascii, empty, .. } = *self.shape;
        let length = self.length();
        let kind = self.rng.f64();
        if kind < empty {
            // The message stays empty.
        } else if kind < empty + json {
            self.json(to, length);
        } else if kind < empty + json + escapes {
            self.stack_trace(to, length);
        } else {
            let foreign = kind < empty + json + escapes + non_ascii;
            self.line(to, length, foreign);
        }
    }

    fn length(&mut self) -> usize {
        let weights: u32 = LENGTHS.iter().map(|(weight, ..)| weight).sum();
        let mut at = self.rng.u32(..weights);
        for &(weight, from, to) in LENGTHS {
            if at < weight {
                return self.rng.usize(from..to);
            }
            at -= weight;
        }
        unreachable!("the draw is below the sum of the weights")
    }

    /// Appends words and values, each after a space, until the text has `length` bytes or a few more.
    fn text(&mut self, to: &mut String, length: usize, foreign: bool) {
        let end = to.len() + length;
        while to.len() < end {
            to.push(' ');
            let rng = &mut self.rng;
            match rng.u8(..16) {
                0 => to.push_str(&format!("id={:016x}", rng.u64(..))),
                1 => to.push_str(&format!("n={}", rng.u32(..))),
                2 => to.push_str(&format!("10.0.{}.{}:{}", rng.u8(..), rng.u8(..), rng.u16(..))),
                3 => to.push_str(&format!("request={}", uuid(rng))),
                4 => to.push_str(&format!("took={:.3}ms", rng.f64() * 500.0)),
                5 => base64(rng, to, "etag=", 22),
                6 => base64(rng, to, "sig=", 43),
                7..10 if foreign => to.push_str(FOREIGN[rng.usize(..FOREIGN.len())]),
                _ => to.push_str(word(rng)),
            }
        }
    }

    fn level(&mut self) -> &'static str {
        LEVELS[self.rng.usize(..LEVELS.len())]
    }

    fn line(&mut self, to: &mut String, length: usize, foreign: bool) {
        let (level, line) = (self.level(), self.rng.u16(1..2000));
        to.push_str(&format!("{:.6} {level} controller.go:{line}]", self.now));
        self.text(to, length.saturating_sub(50), foreign);
        if self.rng.u16(..500) == 0 {
            to.push('\0');
        }
    }

    fn json(&mut self, to: &mut String, length: usize) {
        let (level, trace, n) = (self.level(), self.rng.u128(..), self.rng.u32(..));
        to.push_str(&format!(r#"{{"level": "{level}", "ts": "{:.6}", "msg": ""#, self.now));
        self.text(to, length.saturating_sub(150), false);
        to.push_str(&format!(r#"", "trace_id": "{trace:032x}", "path": "C:\\tmp", "#));
        to.push_str(r#""quote": "he said \"no\"""#);
        to.push_str(&format!(r#", "n": {n}}}"#));
    }

    fn stack_trace(&mut self, to: &mut String, length: usize) {
        to.push_str("\u{1b}[31mERROR\u{1b}[0m java.lang.IllegalStateException: \"");
        self.text(to, length / 4, false);
        to.push('"');
        while to.len() < length {
            let (class, method) = (word(&mut self.rng), word(&mut self.rng));
            let line = self.rng.u16(1..3000);
            to.push_str(&format!("\n\tat com.example.{class}.Service.{method}(Service.java:{line})"));
        }
    }
}
