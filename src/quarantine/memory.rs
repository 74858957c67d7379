//! A quarantine in memory, for tests.

use std::{
    collections::BTreeMap,
    io::Read,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use flate2::read::GzDecoder;
use serde_json::Value;

use super::{QuarantineError, QuarantineStore, WriteFuture};

/// Files by their keys; clones share them.
#[derive(Clone, Debug, Default)]
pub struct MemoryQuarantine {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, Bytes>,
    down: bool,
    calls: usize,
}

impl MemoryQuarantine {
    /// Makes every later call fail, or succeed again.
    pub fn set_down(&self, down: bool) {
        self.state().down = down;
    }

    /// Number of calls so far.
    pub fn calls(&self) -> usize {
        self.state().calls
    }

    /// The files' keys, in order.
    pub fn keys(&self) -> Vec<String> {
        self.state().files.keys().cloned().collect()
    }

    /// The lines of all files, in the order of their keys.
    pub fn lines(&self) -> Vec<Value> {
        let mut lines = Vec::new();
        for file in self.state().files.values() {
            let mut text = String::new();
            GzDecoder::new(&file[..]).read_to_string(&mut text).expect("a file is text in gzip");
            lines.extend(text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")));
        }
        lines
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QuarantineStore for MemoryQuarantine {
    fn put<'a>(&'a self, key: &'a str, body: Bytes) -> WriteFuture<'a> {
        Box::pin(async move {
            let mut state = self.state();
            state.calls += 1;
            if state.down {
                return Err(QuarantineError { key: key.to_owned(), problem: "down".to_owned() });
            }
            state.files.insert(key.to_owned(), body);
            Ok(())
        })
    }
}
