//! Delivers the records of objects to customers' CloudWatch Logs and lakes. An object is read once for all its deliveries.

use super::{
    grown::Growing,
    lanes::{AnyLane, Entered, Lanes},
    object_reader::within,
    told::Spent,
    *,
};
use crate::{
    batch::BatchTally,
    delivery::{Lane, StreamKey},
    lake::{self, LakeWay},
    name::StreamNames,
    object::trail::{Trail, TrailedBody},
    room,
};

/// A delivery that can begin: the object is claimed and the customer's account is entered.
struct ReadyLane<'a, S, A, L> {
    delivery: &'a Delivery,
    entered: Entered<'a, S, A>,
    claim: Arc<Claim<L>>,
}

impl<O: ObjectStore, D: Directory, S: LogSinks, C: Buckets, L: Ledger> Pipeline<O, D, S, C, L> {
    /// Reads the object once and gives every record to every delivery in `wanted`. If a delivery fails, the others go on.
    /// Returns the number of deliveries that were already done.
    pub(super) async fn log(
        &self,
        admitted: Admitted<'_>,
        wanted: &[(&Delivery, Reads<'_>)],
        report: &mut MessageReport,
    ) -> usize {
        let (mut ready, mut done) = (Vec::new(), 0);
        if wanted.is_empty() {
            return done;
        }
        let max_stored = self.settings.max_stored;
        if let Err(error) = within(max_stored, admitted.object.size.unwrap_or_default()) {
            report.failures.push(admitted.failed(None, Failure::Object(error)));
            return done;
        }
        for &(delivery, reads) in wanted {
            match self.claim_to_read(admitted, delivery, reads).await {
                Ok(Some((entered, claim))) => ready.push(ReadyLane { delivery, entered, claim }),
                Ok(None) => done += 1,
                Err(failure) => report.failures.push(admitted.failed(Some(&delivery.name), failure)),
            }
        }
        if ready.is_empty() {
            return done;
        }
        let Admitted { object, route, pass, place, stop, began, .. } = admitted;
        let entering = began.elapsed();
        let growing = Growing { announced: room::units(object.size, 0), place, pass, grown: &self.grown };
        let open = async {
            let (modified, body) = self.ports.store.open(object, self.owner(object)).await?;
            within(max_stored, body.content_length().unwrap_or_default())?;
            // The event may name another size than S3 does.
            growing.fit_stored(body.content_length()).await;
            Ok((modified, body))
        };
        let open = async { open.await.map_err(|error| self.unread(object, error)) };
        // The span covers the opening of the object and all of its reading.
        let get = trace::step("get", &object_attributes(object));
        let open = admitted.unless_stopped(Box::pin(open));
        let (modified, body) = match trace::within(get.clone(), open, Failure::reason).await {
            Ok(open) => open,
            Err(failure) => {
                for ready in ready {
                    ready.claim.release(ready.claim.from()).await;
                }
                report.failures.push(admitted.failed(None, failure));
                return done;
            }
        };
        let opening = began.elapsed() - entering;
        // S3's answer names the object alike for every event about it, so its lake files have the same names.
        let exact = ready.iter().any(|ready| matches!(ready.entered, Entered::Lake(..))).then(|| {
            let (version_id, etag) = body.exact();
            ObjectRef {
                version_id: version_id.map(str::to_owned).or_else(|| object.version_id.clone()),
                etag: etag.map(str::to_owned).or_else(|| object.etag.clone()),
                ..object.clone()
            }
        });
        let exact = exact.as_ref().unwrap_or(object);
        let trail = Trail::default();
        let before = ready.iter().flat_map(|ready| ready.claim.from().fingerprints.iter().copied());
        let body = TrailedBody::new(body, trail.clone(), before.collect());
        let shared = if place.units() < room::UNITS { &self.small_lanes } else { &self.lanes };
        let share = self.lakes.of_object(pass.tenant_id());
        let mut lanes: Lanes<'_, S::Sink, C::Account, L> = Vec::new();
        for ReadyLane { delivery, entered, claim } in ready {
            let shelf = self.quarantine(delivery.mode);
            let shelf = shelf.map(|quarantine| quarantine.shelf(object, &route.tenant, &delivery.name));
            let (destination, sink) = match entered {
                Entered::Logs(destination, sink) => (destination, sink),
                Entered::Lake(destination, lake, account) => {
                    let way = LakeWay { delivery, destination, lake, route, object: exact };
                    match lake::LakeLane::new(
                        account,
                        Arc::clone(&claim),
                        &way,
                        modified,
                        shelf,
                        share.clone(),
                    ) {
                        Ok(lane) => lanes.push((delivery, AnyLane::Lake(lane))),
                        Err(error) => {
                            claim.release(claim.from()).await;
                            let failure = Failure::Copy(error);
                            report.failures.push(admitted.failed(Some(&delivery.name), failure));
                        }
                    }
                    continue;
                }
            };
            let key = StreamKey {
                mode: delivery.mode,
                account: destination.role.account().to_owned(),
                region: delivery.target_region.clone(),
                log_group_name: destination.log_group_name.clone(),
                log_stream_name: destination.log_stream_name.render(route, modified, ""),
            };
            let mut lane = Lane::new(sink, claim, destination, key, shelf, trail.clone(), shared);
            if let Some(names) = StreamNames::new(&destination.log_stream_name, route, modified) {
                lane = lane.following(names);
            }
            lanes.push((delivery, AnyLane::Logs(lane)));
        }
        drop(share);
        if lanes.is_empty() {
            return done;
        }

        let mut broken = Vec::new();
        let windows = self.windows.of(pass.tenant_id());
        let memory = (growing, windows);
        let facts = (modified, self.settings.key_rules.format(&object.key));
        let read = |pace| Box::pin(self.read(body, pace, memory, facts, &mut lanes, &mut broken));
        let read = pass.in_slices(read);
        let read = trace::within(get.clone(), admitted.unless_stopped(read), Failure::reason).await;
        if let Ok(records) = read {
            trace::count(&get, semconv::RECORDS, records);
        }
        drop(get);
        let spent = Spent { entering, opening, reading: began.elapsed() - entering - opening };
        let mut given_up = Vec::new();
        for (delivery, lane, error) in broken {
            report.failures.push(admitted.failed(Some(&delivery.name), error.into()));
            given_up.push((delivery, lane));
        }
        for (delivery, mut lane) in lanes {
            match self.end(&mut lane, &read, stop).await {
                Ok(()) => {
                    let lane = match lane {
                        AnyLane::Logs(lane) => lane,
                        AnyLane::Lake(lane) => {
                            self.laked(&admitted, delivery, &lane, spent, report);
                            continue;
                        }
                    };
                    let tally = lane.tally();
                    match (delivery.mode, tally.put.accepted, tally.put.rejected(), tally.resumed) {
                        // Nothing arrives, and nothing is rejected.
                        (Mode::Shadow, _, _, _) => {}
                        (Mode::Live, 1.., _, _) => self.arrived(object, delivery),
                        // Nobody knows what became of the events of earlier attempts.
                        (Mode::Live, 0, 1.., _) => self.tell_rejected(object, delivery, tally),
                        (Mode::Live, 0, 0, 1..) => self.arrived(object, delivery),
                        (Mode::Live, 0, 0, 0) => {}
                    }
                    report.delivered.push(self.delivered(object, delivery, tally));
                    told::delivered(&admitted, delivery, &lane, spent);
                    if delivery.mode == Mode::Live {
                        told::rejected(&admitted, delivery, &lane, &self.sampler);
                    }
                }
                Err(failure) => {
                    // Errors of the object are reported once, not by each delivery.
                    report
                        .failures
                        .extend(failure.map(|failure| admitted.failed(Some(&delivery.name), failure)));
                    given_up.push((delivery, lane));
                }
            }
        }
        self.give_up(&admitted, given_up, &read).await;
        match read {
            Ok(0) => report.skipped.push(Skipped::NoRecords),
            Ok(_) => {}
            Err(failure) => report.failures.push(admitted.failed(None, failure)),
        }
        done
    }

    /// Claims the object for a delivery that reads its records, and enters the customer's account.
    async fn claim_to_read<'a>(
        &self,
        admitted: Admitted<'_>,
        delivery: &Delivery,
        reads: Reads<'a>,
    ) -> Result<Option<(Entered<'a, S::Sink, C::Account>, Arc<Claim<L>>)>, Failure> {
        let Admitted { object, route, .. } = admitted;
        match reads {
            Reads::Logs(destination) => {
                let (sinks, cluster) = (&self.ports.sinks, &route.cluster);
                let closed = async { sinks.closed(delivery, destination, cluster).await.map(Failure::Sink) };
                let open = async {
                    let sink = sinks.open(delivery, destination, cluster, object).await;
                    Ok(Entered::Logs(destination, sink.map_err(Failure::Sink)?))
                };
                self.claim_and_enter(admitted, delivery, closed, Box::pin(open)).await
            }
            Reads::Lake(destination, lake) => {
                let way = LakeWay { delivery, destination, lake, route, object };
                let lakes = &self.ports.copier;
                let closed = async { lakes.lake_closed(&way).await.map(Failure::Copy) };
                let enter = async {
                    let account = lakes.enter_lake(&way).await.map_err(Failure::Copy)?;
                    Ok(Entered::Lake(destination, lake, account))
                };
                self.claim_and_enter(admitted, delivery, closed, Box::pin(enter)).await
            }
        }
    }

    /// Counts and logs an object whose records are in a lake.
    fn laked(
        &self,
        admitted: &Admitted<'_>,
        delivery: &Delivery,
        lane: &lake::LakeLane<C::Account, L>,
        spent: Spent,
        report: &mut MessageReport,
    ) {
        let (object, tally) = (admitted.object, lane.tally());
        match delivery.mode {
            Mode::Live => {
                self.metrics.count_lake(tally);
                if tally.files > 0 {
                    self.arrived(object, delivery);
                }
            }
            Mode::Shadow => {
                self.status.shadowed(&delivery.tenant_id, &delivery.name, tally.written, tally.bytes)
            }
        }
        report.delivered.push(Delivered {
            tenant_id: delivery.tenant_id.clone(),
            delivery: delivery.name.clone(),
            mode: delivery.mode,
            key: object.key.clone(),
            tally: Tally {
                read: tally.read,
                put: BatchTally { accepted: tally.written, ..BatchTally::default() },
                skipped: tally.skipped,
                quarantined: tally.quarantined,
                resumed: tally.resumed,
                bytes: tally.bytes,
                ..Tally::default()
            },
        });
        told::laked(admitted, delivery, lane, spent);
        let unseen = self.seen.unseen(delivery, lane.members());
        if tally.written > 0 && !unseen.is_empty() {
            told::without_fields(admitted, delivery, &unseen, &self.sampler);
        }
    }

    /// Ends a lane after the object was read, or after reading failed. After an error, the caller must give the lane up. The
    /// error is `None` if reading failed, because that failure is reported once for the object.
    async fn end(
        &self,
        lane: &mut AnyLane<S::Sink, C::Account, L>,
        read: &Result<u64, Failure>,
        stop: &CancellationToken,
    ) -> Result<(), Option<Failure>> {
        if read.as_ref().is_err_and(Failure::comes_again) {
            // The message comes again with all records, so the records that are not on their way yet can wait.
            return Err(None);
        }
        // Content that is broken stays broken, so the records before the break are delivered now.
        tokio::select! {
            flushed = lane.flush() => flushed.map_err(|error| Some(error.into()))?,
            () = stop.cancelled() => return Err(Some(Failure::Stopping)),
        }
        let (given, accounted) = lane.accounts();
        // An object that breaks before the position of an earlier attempt has fewer records than that attempt accounted for.
        let breaks_earlier = read.is_err() && given < accounted;
        if given != accounted && !breaks_earlier {
            self.metrics.records_unaccounted.inc_by(given.abs_diff(accounted));
            lane.doubt();
            return Err(Some(Failure::Unaccounted { read: given, accounted }));
        }
        if read.is_err() {
            return Err(None);
        }
        lane.complete().await.map_err(|error| Some(error.into()))
    }

    /// Gives lanes up, all at the same time, and counts the records that the lanes accounted for.
    async fn give_up(
        &self,
        admitted: &Admitted<'_>,
        lanes: Lanes<'_, S::Sink, C::Account, L>,
        read: &Result<u64, Failure>,
    ) {
        let altered = matches!(read, Err(Failure::Object(ObjectError::ChecksumMismatch(_))));
        let mut running = JoinSet::new();
        let (deliveries, lanes): (Vec<_>, Vec<_>) = lanes.into_iter().unzip();
        for (index, mut lane) in lanes.into_iter().enumerate() {
            let stop = admitted.stop.clone();
            let give_up = async move {
                lane.give_up(altered, &stop).await;
                (index, lane)
            };
            running.spawn(give_up.in_current_span());
        }
        while let Some(ended) = running.join_next().await {
            match ended {
                Ok((index, AnyLane::Lake(lane))) => {
                    // Files that are complete count, although the next attempt may write them again.
                    if deliveries[index].mode == Mode::Live {
                        let tally = *lane.tally();
                        self.metrics.count_lake(&lake::LakeTally { read: tally.accounted(), ..tally });
                    }
                }
                Ok((index, AnyLane::Logs(lane))) => {
                    let (delivery, tally) = (deliveries[index], *lane.tally());
                    // An attempt in shadow mode that is given up leaves nothing: the next one begins at the object's start.
                    if delivery.mode == Mode::Live {
                        self.count(delivery, &Tally { read: tally.accounted(), ..tally });
                        told::rejected(admitted, delivery, &lane, &self.sampler);
                    }
                }
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                // Only a runtime that is shutting down cancels the task.
                Err(_) => {}
            }
        }
    }
}
