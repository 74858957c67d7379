//! One turn at a folder.

use std::{collections::BTreeSet, fmt::Write, ops::ControlFlow, sync::Arc};

use jiff::Timestamp;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::{
    CompactError, Report, Rules, Setup, count, exists,
    folders::Folder,
    get,
    merge::{Merged, merge, records},
    plan::{TurnPlan, is_older, plan},
    site::{Read, Site},
};
use crate::lake::{
    FileSpec,
    bucket::{CompactAccount, ListedFile, ReadObject, Unwanted},
    file::{content_type, ending},
    manifest::{Content, Manifest, url},
    stem::compacted_name,
};

/// Takes turns at the folder until nothing is left to merge. `place` is a permit of [`Setup::turns`].
pub(super) async fn take<A: CompactAccount>(
    setup: &Setup,
    account: &A,
    rules: &Rules,
    folder: &Folder,
    place: OwnedSemaphorePermit,
) -> Report {
    let site = Site { setup, account, rules, folder };
    let mut turn = Turn {
        site: &site,
        place: Some(place),
        left: BTreeSet::new(),
        report: Report { folders: 1, ..Report::default() },
    };
    count(&setup.progress.folders, 1);
    while !setup.stop.is_cancelled() {
        match turn.once().await {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => break,
            Err(error) => {
                turn.report.failures.push(error.to_string());
                break;
            }
        }
    }
    turn.report.merged_folders = u64::from(turn.report.merged > 0);
    turn.report
}

struct Turn<'a, A> {
    site: &'a Site<'a, A>,
    /// `None` while the turn settles and commits.
    place: Option<OwnedSemaphorePermit>,
    /// Keys of sources that are not readable, or that were written anew meanwhile.
    left: BTreeSet<String>,
    report: Report,
}

impl<A: CompactAccount> Turn<'_, A> {
    /// Takes one turn. It continues if files were merged: there may be more.
    async fn once(&mut self) -> Result<ControlFlow<()>, CompactError> {
        let site = self.site;
        let Site { setup, rules, .. } = *site;
        if self.place.is_none() {
            let place = Arc::clone(&setup.turns).acquire_owned().await;
            self.place = Some(place.expect("it is never closed"));
        }
        // The listing comes first. So a file in it that the manifest calls abandoned or replaced will always be.
        let listing = self.site.list().await?;
        let mut read = self.site.read().await?;
        let mut now = (setup.now)();
        let due = now.checked_sub(setup.remove_after).unwrap_or(Timestamp::MIN);
        let plan = plan(
            &rules.bucket,
            &listing,
            &read.manifest,
            ending(&rules.format),
            due,
            setup.target,
            &self.left,
        );
        if setup.dry_run {
            self.foresee(&plan);
            return Ok(ControlFlow::Break(()));
        }
        self.remove(&plan).await?;
        // The clock of the other run may be wrong.
        let since = |since: Timestamp| since.min(read.written.unwrap_or(since));
        if read.manifest.merging().any(|(_, at)| !is_older(since(at), setup.takeover, now)) {
            self.report.busy += 1;
            return Ok(ControlFlow::Break(()));
        }
        let unfinished = site.unfinished(&read.manifest);
        if unfinished.is_empty() && plan.groups.is_empty() {
            return Ok(ControlFlow::Break(()));
        }
        let mut permit = None;
        if !plan.groups.is_empty() {
            permit = Some(setup.merges.acquire().await.expect("it is never closed"));
            now = (setup.now)();
        }
        read.manifest.abandon(now);
        let groups = self.begin(&mut read.manifest, plan.groups, now);
        let existing: BTreeSet<_> = listing.iter().map(|file| url(&rules.bucket, &file.key)).collect();
        read.manifest.forget(now, |file| existing.contains(file));
        let Some(etag) = self.site.write(&read.manifest, read.etag.as_deref()).await? else {
            self.report.busy += 1;
            return Ok(ControlFlow::Break(()));
        };
        read.etag = Some(etag);
        self.site.delete(&unfinished).await?;
        if groups.is_empty() {
            return Ok(ControlFlow::Break(()));
        }
        let stop = setup.stop.child_token();
        let work = async {
            let merged = self.merge(groups, &stop).await?;
            drop(permit);
            // Other folders take the place. This turn waits for no other permit before it ends, so no two wait for each other.
            let settling = setup.settling.acquire().await.expect("it is never closed");
            self.place = None;
            let settled = !merged.is_empty() && self.settle(&stop).await;
            Ok((merged, settled, settling))
        };
        match site.renewing(&mut read, &stop, work).await {
            Some(Ok((merged, true, _settling))) => self.commit(read, merged).await,
            Some(Ok(_)) => {
                self.give_up(read).await;
                // The next turn has another plan, because the sources that could not be merged are left alone.
                Ok(ControlFlow::Continue(()))
            }
            Some(Err(error)) => {
                self.give_up(read).await;
                Err(error)
            }
            // The files that were written are abandoned, and the other compaction deletes them.
            None => {
                self.report.busy += 1;
                Ok(ControlFlow::Break(()))
            }
        }
    }

    /// Counts what a run would merge.
    fn foresee(&mut self, plan: &TurnPlan) {
        for group in &plan.groups {
            let bytes: u64 = group.iter().map(|file| file.size).sum();
            self.report.merged += group.len() as u64;
            self.report.written += 1;
            self.report.bytes_before += bytes;
            self.report.bytes_after += bytes;
        }
        let replaced = plan.replaced.values().map(Vec::len).sum::<usize>();
        self.report.removed += (replaced + plan.abandoned.len()) as u64;
    }

    /// Deletes files that do not count any more.
    async fn remove(&mut self, plan: &TurnPlan) -> Result<(), CompactError> {
        for file in &plan.unknown {
            self.fail(format!(
                "no manifest knows {file}, so its records do not count; restore {} from an older version, or delete the file",
                self.site.url(&self.site.folder.manifest)
            ));
        }
        let abandoned: Vec<_> = plan.abandoned.iter().map(Unwanted::from).collect();
        self.report.removed += self.site.delete(&abandoned).await?;
        for (by, files) in &plan.replaced {
            if !self.exists(by).await? {
                continue;
            }
            let (same, returned): (Vec<_>, Vec<_>) =
                files.iter().partition(|(file, content)| file.etag == content.etag);
            let same: Vec<_> = same.iter().map(|(file, _)| Unwanted::from(file)).collect();
            // A file that a message brings back right now stays. The next turn compares it.
            self.report.removed += self.site.delete(&same).await?;
            for (file, content) in returned {
                if self.site.setup.stop.is_cancelled() {
                    break;
                }
                self.remove_returned(file, content, by).await?;
            }
        }
        Ok(())
    }

    /// Deletes a file that was written anew after it was merged, if it has as many records as then. A redelivery writes the same
    /// records again, but it finds more of them if the object was mended meanwhile.
    async fn remove_returned(
        &mut self,
        file: &ListedFile,
        content: &Content,
        by: &str,
    ) -> Result<(), CompactError> {
        let place = self.site.url(&file.key);
        // The next turn of this run leaves the file alone.
        self.left.insert(file.key.clone());
        let found = if file.size < self.site.setup.target / 2 {
            let _permit = self.site.setup.merges.acquire().await.expect("it is never closed");
            match get(self.site.account, &self.site.rules.bucket, &file.key, Some(&file.etag)).await? {
                Some(ReadObject { body, .. }) => records(&self.site.rules.format, body),
                // It was deleted or written again since it was listed. The next run looks at it.
                None => return Ok(()),
            }
        } else {
            Err("it is too large to be compared with --target-size".to_owned())
        };
        let found = match found {
            Ok(found) if found == content.records => {
                self.report.removed += self.site.delete(&[Unwanted::from(file)]).await?;
                return Ok(());
            }
            Ok(found) => format!("it has {found} records now"),
            Err(problem) => problem,
        };
        self.fail(format!(
            "{place} was written again after {} records of it were merged into {by}, and does not count: {found}; download it, \
             compare the two, put records that are missing into its folder under another name, and delete it",
            content.records
        ));
        Ok(())
    }

    /// Whether a merged file is there. Its sources are deleted only then.
    async fn exists(&mut self, file: &str) -> Result<bool, CompactError> {
        let exists = match self.site.key(file) {
            Some(key) => exists(self.site.account, &self.site.rules.bucket, &key).await?,
            None => false,
        };
        if !exists {
            self.fail(format!(
                "{file} does not exist, but {} says that it counts; the files that it replaced stay, and do not count",
                self.site.url(&self.site.folder.manifest)
            ));
        }
        Ok(exists)
    }

    fn fail(&mut self, problem: String) {
        if !self.report.failures.contains(&problem) {
            self.report.failures.push(problem);
        }
    }

    /// Adds the lines of a merge, and returns the keys of its files with their sources.
    fn begin(
        &self,
        manifest: &mut Manifest,
        groups: Vec<Vec<ListedFile>>,
        now: Timestamp,
    ) -> Vec<(String, Vec<ListedFile>)> {
        let merge = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        let named = groups.into_iter().map(|sources| {
            let mut text = merge.clone();
            for ListedFile { key, etag, .. } in &sources {
                let _ = write!(text, "\n{key}\n{etag}");
            }
            let name = compacted_name(&text, ending(&self.site.rules.format));
            let key = self.site.folder.key.clone() + &name;
            let urls = sources.iter().map(|source| self.site.url(&source.key)).collect();
            manifest.begin(self.site.url(&key), &merge, urls, now);
            (key, sources)
        });
        named.collect()
    }

    /// Writes the merged files.
    async fn merge(
        &mut self,
        groups: Vec<(String, Vec<ListedFile>)>,
        stop: &CancellationToken,
    ) -> Result<Vec<(String, Merged)>, CompactError> {
        let mut all = Vec::new();
        for (key, sources) in groups {
            let Rules { format, lock, bucket, .. } = self.site.rules;
            let by = concat!("logferry/", env!("CARGO_PKG_VERSION"));
            let spec = FileSpec {
                key: key.clone(),
                content_type: content_type(format),
                metadata: [("delivered-by".to_owned(), by.to_owned())].into(),
                lock: lock.map(|lock| lock.until((self.site.setup.now)())),
            };
            self.left.extend(sources.iter().map(|source| source.key.clone()));
            let merged = merge(self.site.account, bucket, &spec, format, sources, stop).await?;
            for (source, _) in &merged.sources {
                self.left.remove(&source.key);
            }
            for (source, problem) in &merged.bad {
                self.fail(format!("{} stays as it is: {problem}", self.site.url(&source.key)));
            }
            if merged.sources.len() > 1 {
                all.push((key, merged));
            }
        }
        Ok(all)
    }

    /// Lets the merged files count instead of their sources.
    async fn commit(
        &mut self,
        mut read: Read,
        merged: Vec<(String, Merged)>,
    ) -> Result<ControlFlow<()>, CompactError> {
        let now = (self.site.setup.now)();
        for (key, Merged { sources, .. }) in &merged {
            let sources = sources.iter().map(|(source, records)| {
                let content = Content { records: *records, etag: source.etag.clone() };
                (self.site.url(&source.key), content)
            });
            read.manifest.replace(sources, &self.site.url(key), now);
        }
        // A group of which too few sources were left.
        read.manifest.abandon(now);
        if self.site.write(&read.manifest, read.etag.as_deref()).await?.is_none() {
            // Another compaction took the folder over. The merged files are abandoned, and it deletes them.
            self.report.busy += 1;
            return Ok(ControlFlow::Break(()));
        }
        for (_, Merged { sources, bytes, .. }) in &merged {
            self.report.merged += sources.len() as u64;
            self.report.bytes_before += sources.iter().map(|(source, _)| source.size).sum::<u64>();
            self.report.written += 1;
            self.report.bytes_after += bytes;
            count(&self.site.setup.progress.merged, sources.len() as u64);
            count(&self.site.setup.progress.written, 1);
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Waits for queries that listed the folder before the merged files were there. Returns false if the run is told to stop.
    async fn settle(&self, stop: &CancellationToken) -> bool {
        tokio::select! {
            () = tokio::time::sleep(self.site.setup.settle) => true,
            () = stop.cancelled() => false,
        }
    }

    /// Says in the manifest that this turn's files are abandoned, and deletes those that were written. If that fails, the next
    /// run takes the folder over later.
    async fn give_up(&self, mut read: Read) {
        let unfinished = self.site.unfinished(&read.manifest);
        read.manifest.abandon((self.site.setup.now)());
        if let Ok(Some(_)) = self.site.write(&read.manifest, read.etag.as_deref()).await {
            let _ = self.site.delete(&unfinished).await;
        }
    }
}
