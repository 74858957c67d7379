//! The way of an object through a worker, call by call.

use super::*;

impl Simulation {
    pub(super) fn step(&mut self, number: u32) {
        let now = self.clock.now();
        let object = self.objects[number as usize];
        let Object { tenant, worker, .. } = object;
        let own = &mut self.workers[worker as usize];
        match object.stage {
            Stage::LookUp => {
                if own.has(Shared::Tenant, tenant, self.keep, now) {
                    return self.go(number, Stage::Claim);
                }
                if self.joins_flight(number, Shared::Tenant) {
                    return;
                }
                self.outcome.ask(Scarce::TenantReads).ask(QUERY_UNITS, now);
                match self.aws.query_tenant(QUERY_UNITS, now) {
                    true => self.answered(number, Client::Tenants, Stage::LookedUp, 0.0),
                    false => {
                        self.outcome.ask(Scarce::TenantReads).refused += 1;
                        if !self.retries(number, Client::Tenants, ATTEMPTS, FIRST_PAUSE) {
                            self.flight_fails(number, Shared::Tenant);
                        }
                    }
                }
            }
            Stage::LookedUp => {
                own.remember(Shared::Tenant, tenant, self.shares.len(), now);
                self.flight_ends(number, Shared::Tenant);
                self.go(number, Stage::Claim);
            }
            Stage::Claim => {
                // A paused account costs neither a claim nor a download.
                if let Some((until, _)) = own.pauses.get(&tenant).filter(|(until, _)| *until > now) {
                    let wait = *until - now;
                    return self.fail(number, wait);
                }
                match self.settings.fleet.ledger {
                    true => self.write_together(number, Change::Claim),
                    false => self.go(number, Stage::Enter),
                }
            }
            Stage::Reclaim => self.write_ledger(number, Stage::Enter),
            Stage::Enter => {
                if own.has(Shared::Session, tenant, self.keep, now) {
                    return self.go(number, Stage::Get);
                }
                if own.sts_holds.get(&tenant).is_some_and(|until| *until > now) {
                    return self.fail(number, 0);
                }
                if self.joins_flight(number, Shared::Session) {
                    return;
                }
                self.outcome.ask(Scarce::AssumeRoles).ask(1.0, now);
                match self.aws.assume_role(now) {
                    true => self.answered(number, Client::Sts, Stage::Entered, 0.0),
                    false => {
                        self.outcome.ask(Scarce::AssumeRoles).refused += 1;
                        if !self.retries(number, Client::Sts, ATTEMPTS, FIRST_PAUSE) {
                            self.workers[worker as usize].sts_holds.insert(tenant, now + STS_PAUSE);
                            self.flight_fails(number, Shared::Session);
                        }
                    }
                }
            }
            Stage::Entered => {
                own.remember(Shared::Session, tenant, self.shares.len(), now);
                self.flight_ends(number, Shared::Session);
                self.go(number, Stage::Get);
            }
            Stage::Get => {
                self.outcome.ask(Scarce::S3Gets).ask(1.0, now);
                match self.aws.get_object(tenant, now) {
                    true => self.answered(number, Client::S3, Stage::Decode, 0.0),
                    false => {
                        self.outcome.ask(Scarce::S3Gets).refused += 1;
                        if !self.retries(number, Client::S3, ATTEMPTS, FIRST_PAUSE) {
                            self.fail(number, 0);
                        }
                    }
                }
            }
            Stage::Decode => {
                let work = self.settings.fleet.work;
                let bytes = object.bytes / f64::from(object.batches);
                let first = if object.left == object.batches { work.object } else { 0 };
                self.at_stage(number, Stage::PutTurn);
                let cpu = if self.machine.is_some() { MACHINE } else { worker };
                self.compute(cpu, Task::Object(number), first + (work.byte * bytes) as Time);
            }
            Stage::PutTurn => {
                let wait = own.put_paces.entry(tenant).or_default().take(
                    SECOND / self.settings.fleet.put_rate,
                    PACE_BURST,
                    now,
                );
                self.at_stage(number, Stage::Put);
                self.clock.after(wait, Event::Step(number));
            }
            Stage::Put => self.put(number),
            Stage::CreateTurn => {
                let pace = own.creation_paces.entry(tenant).or_default();
                let wait = pace.take(SECOND / CREATE_STREAM_RATE, PACE_BURST, now);
                self.at_stage(number, Stage::Create);
                self.clock.after(wait, Event::Step(number));
            }
            Stage::Create => self.create_stream(number),
            Stage::Created => {
                self.objects[number as usize].needs_stream = false;
                self.go(number, Stage::PutTurn);
            }
            Stage::PutDone => {
                let object = &mut self.objects[number as usize];
                object.left -= 1;
                if object.left > 0 {
                    // The checkpoint is written while the next batch is put, so nobody waits for it.
                    if self.settings.fleet.ledger {
                        self.ask_ledger();
                    }
                    return self.go(number, Stage::Decode);
                }
                // The instrument reads times of acceptance in whole milliseconds (`latencies_of` in
                // loadtest/driver/src/ordinary.rs).
                let accepted = match self.settings.place {
                    Place::Region(_) => now,
                    Place::Loopback(_) => now / MILLISECOND * MILLISECOND + MILLISECOND / 2,
                };
                let latency = accepted.saturating_sub(object.closed);
                self.outcome.latency.add(latency);
                if object.tenant == 0 {
                    self.outcome.latency_of_largest.add(latency);
                }
                self.go(number, Stage::Finish);
            }
            Stage::Finish if !self.settings.fleet.ledger => self.go(number, Stage::Finished),
            // Objects that recorded their progress have a call of their own (`finish` in src/ledger/dynamodb.rs).
            Stage::Finish if object.batches > 1 => self.write_ledger(number, Stage::Finished),
            Stage::Finish => self.write_together(number, Change::End),
            Stage::Finished => self.finish(number),
        }
    }

    pub(super) fn at_stage(&mut self, number: u32, stage: Stage) {
        let object = &mut self.objects[number as usize];
        (object.stage, object.since, object.tries) = (stage, self.clock.now(), 0);
    }

    pub(super) fn go(&mut self, number: u32, stage: Stage) {
        self.at_stage(number, stage);
        self.step(number);
    }

    /// A service answers a call: the object is at its next stage after the latency.
    pub(super) fn answered(&mut self, number: u32, client: Client, next: Stage, bytes: f64) {
        let object = &self.objects[number as usize];
        let refund = if object.tries == 0 { RETRY_REFUND } else { RETRY_COST };
        self.workers[object.worker as usize].refund(client, refund);
        self.takes_time(number, next, bytes);
    }

    pub(super) fn takes_time(&mut self, number: u32, next: Stage, bytes: f64) {
        self.at_stage(number, next);
        match &self.settings.place {
            Place::Region(latencies) => {
                let median = match next {
                    Stage::Decode => latencies.get,
                    Stage::Entered => latencies.assume_role,
                    Stage::PutDone | Stage::CreateTurn => latencies.put,
                    Stage::Created => latencies.create_stream,
                    _ => latencies.dynamodb,
                };
                let latency = self.chance.around(median, latencies.spread);
                self.clock.after(latency, Event::Step(number));
            }
            Place::Loopback(loopback) => {
                let work = loopback.call + (loopback.byte * bytes) as Time;
                self.compute(MACHINE, Task::Call(number), work);
            }
        }
    }

    /// The SDK's retry of a throttled call. Returns false if there is none.
    pub(super) fn retries(&mut self, number: u32, client: Client, attempts: u8, first_pause: Time) -> bool {
        let object = &mut self.objects[number as usize];
        object.tries += 1;
        if object.tries >= attempts || !self.workers[object.worker as usize].pay(client, RETRY_COST) {
            return false;
        }
        let longest = (first_pause << (object.tries - 1)).min(LONGEST_PAUSE);
        let wait = (longest as f64 * self.chance.fraction()) as Time;
        self.clock.after(wait, Event::Step(number));
        true
    }

    /// Waits for a call that another object of the tenant makes, if there is one. Otherwise, the object makes the call.
    pub(super) fn joins_flight(&mut self, number: u32, shared: Shared) -> bool {
        let Object { tenant, worker, tries, .. } = self.objects[number as usize];
        if tries > 0 {
            return false;
        }
        let flights = &mut self.workers[worker as usize].flights;
        match flights.get_mut(&(shared, tenant)) {
            Some(waiting) => {
                waiting.push(number);
                true
            }
            None => {
                flights.insert((shared, tenant), Vec::new());
                false
            }
        }
    }

    pub(super) fn flight_ends(&mut self, number: u32, shared: Shared) {
        let Object { tenant, worker, .. } = self.objects[number as usize];
        let waiting = self.workers[worker as usize].flights.remove(&(shared, tenant));
        for other in waiting.into_iter().flatten() {
            self.clock.after(0, Event::Step(other));
        }
    }

    /// The objects that waited share the failure.
    pub(super) fn flight_fails(&mut self, number: u32, shared: Shared) {
        let Object { tenant, worker, .. } = self.objects[number as usize];
        let waiting = self.workers[worker as usize].flights.remove(&(shared, tenant));
        for other in waiting.into_iter().flatten() {
            self.fail(other, 0);
        }
        self.fail(number, 0);
    }

    /// Puts a batch. If its stream is missing, the put is refused, the stream is created, and the batch is put again.
    pub(super) fn put(&mut self, number: u32) {
        let now = self.clock.now();
        let Object { tenant, bytes, batches, needs_stream, .. } = self.objects[number as usize];
        if tenant == 0 {
            self.outcome.ask(Scarce::Puts).ask(1.0, now);
        }
        if !self.aws.put_log_events(tenant, now) {
            return self.account_throttles(number, Scarce::Puts);
        }
        self.account_answers(number);
        match needs_stream {
            true => self.takes_time(number, Stage::CreateTurn, 0.0),
            false => self.takes_time(number, Stage::PutDone, bytes / f64::from(batches)),
        }
    }

    pub(super) fn create_stream(&mut self, number: u32) {
        let (now, tenant) = (self.clock.now(), self.objects[number as usize].tenant);
        if tenant == 0 {
            self.outcome.ask(Scarce::StreamCreations).ask(1.0, now);
        }
        if !self.aws.create_log_stream(tenant, now) {
            return self.account_throttles(number, Scarce::StreamCreations);
        }
        self.account_answers(number);
        self.takes_time(number, Stage::Created, 0.0);
    }

    /// If an account throttles in spite of the SDK's retries, the worker leaves it alone for a while (src/budget.rs).
    pub(super) fn account_throttles(&mut self, number: u32, scarce: Scarce) {
        let now = self.clock.now();
        let Object { tenant, worker, .. } = self.objects[number as usize];
        if tenant == 0 {
            self.outcome.ask(scarce).refused += 1;
        }
        if self.retries(number, Client::Account, ATTEMPTS, FIRST_PAUSE) {
            return;
        }
        let pauses = &mut self.workers[worker as usize].pauses;
        let (until, length) = pauses.get(&tenant).copied().unwrap_or_default();
        let length = match until > now {
            true => length,
            false => (2 * length).clamp(ACCOUNT_PAUSE, LONGEST_ACCOUNT_PAUSE),
        };
        pauses.insert(tenant, (now + length, length));
        self.fail(number, length);
    }

    pub(super) fn account_answers(&mut self, number: u32) {
        let Object { tenant, worker, .. } = self.objects[number as usize];
        self.workers[worker as usize].pauses.remove(&tenant);
    }
}
