//! Finds the folders of the wanted hours, level by level, so that only wanted years, months, days and hours are listed.

use jiff::Timestamp;

use super::{CompactError, Rules, list};
use crate::{
    lake::{bucket::CompactAccount, manifest},
    name::FolderTime,
};

/// A folder of files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Folder {
    /// Key, with its slash.
    pub(super) key: String,
    /// Key of its manifest.
    pub(super) manifest: String,
}

/// Goes through the folders. Holds the names of one path's levels in memory.
#[derive(Debug)]
pub(super) struct Folders<'a> {
    rules: &'a Rules,
    since: Timestamp,
    until: Timestamp,
    stack: Vec<Level>,
}

/// A folder on the way.
#[derive(Debug)]
struct Level {
    key: String,
    /// Number of the layout's segments in `key`.
    segments: usize,
    time: FolderTime,
    /// Its segments that have a time, with slashes between them.
    times: String,
}

impl<'a> Folders<'a> {
    pub(super) fn new(rules: &'a Rules, since: Timestamp, until: Timestamp) -> Self {
        let first = Level {
            key: rules.prefix.clone(),
            segments: 0,
            time: FolderTime::default(),
            times: String::new(),
        };
        Self { rules, since, until, stack: vec![first] }
    }

    /// Returns the next folder.
    pub(super) async fn next<A: CompactAccount>(
        &mut self,
        account: &A,
    ) -> Result<Option<Folder>, CompactError> {
        while let Some(level) = self.stack.pop() {
            let Some(segment) = self.rules.layout.segments().get(level.segments) else {
                let folder = &level.key[self.rules.prefix.len()..];
                let manifest = manifest::key(&self.rules.prefix, &level.times, folder);
                return Ok(Some(Folder { manifest, key: level.key }));
            };
            match segment.constant(&self.rules.route) {
                Some(name) => self.enter(&level, &name),
                None => self.list(account, &level).await?,
            }
        }
        Ok(None)
    }

    /// Puts the wanted folders below `level` on the stack, so that they are popped in order.
    async fn list<A: CompactAccount>(&mut self, account: &A, level: &Level) -> Result<(), CompactError> {
        let listing = list(account, &self.rules.bucket, &level.key).await?;
        for folder in listing.folders.iter().rev() {
            if let Some(name) = folder.strip_prefix(&level.key).and_then(|name| name.strip_suffix('/')) {
                self.enter(level, name);
            }
        }
        Ok(())
    }

    /// Puts one folder below `level` on the stack, if it is wanted.
    fn enter(&mut self, level: &Level, name: &str) {
        let segment = &self.rules.layout.segments()[level.segments];
        let wanted = |(start, end): &(Timestamp, Timestamp)| *start < self.until && self.since < *end;
        let Some(time) = segment.read(name, &self.rules.route, level.time) else { return };
        let Some((start, end)) = time.span().filter(wanted) else { return };
        let is_last = level.segments + 1 == self.rules.layout.segments().len();
        // An hour must be wanted as a whole.
        if is_last && !(self.since <= start && end <= self.until) {
            return;
        }
        let mut times = level.times.clone();
        if segment.has_time() {
            if !times.is_empty() {
                times.push('/');
            }
            times.push_str(name);
        }
        let key = format!("{}{name}/", level.key);
        self.stack.push(Level { key, segments: level.segments + 1, time, times });
    }
}
