//! The samples that a real Vector wrote, for tests.

use std::{fs, io::Read, path::Path};

use flate2::read::GzDecoder;

use crate::route::{KeyLayout, Route};

/// Every sample that has one record a line, as the names in its key and its text.
pub(super) fn samples() -> Vec<(Route, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/ndjson-gzip");
    let layout = KeyLayout::parse(KeyLayout::DEFAULT).expect("a layout");
    let mut folders = vec![root.clone()];
    let mut samples = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("the folder is readable") {
            let path = entry.expect("the entry is readable").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let key = path.strip_prefix(&root).expect("the file is below the folder");
            let route = layout.route(key.to_str().expect("UTF-8")).expect("a key");
            let mut text = Vec::new();
            let file = fs::File::open(&path).expect("the file is readable");
            GzDecoder::new(file).read_to_end(&mut text).expect("the file is gzip");
            samples.push((route, text));
        }
    }
    assert_eq!(samples.len(), 7);
    samples
}
