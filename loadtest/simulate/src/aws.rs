//! AWS as the workers and collectors see it: calls are answered or throttled.

use crate::{
    chance::Chance,
    clock::Time,
    limit::Bucket,
    settings::{Quotas, SAVED_UNITS, WRITES_PER_PARTITION},
};

/// The limits that calls meet. Each method returns whether the call is answered.
#[derive(Debug)]
pub(crate) struct Aws {
    s3_puts: Vec<Bucket>,
    s3_gets: Vec<Bucket>,
    sns: Bucket,
    ledger: Vec<Bucket>,
    tenants: Bucket,
    sts: Bucket,
    puts: Vec<Bucket>,
    stream_creations: Vec<Bucket>,
}

/// AWS counts calls per second, so a second's calls may come at once.
fn per_second(rate: f64) -> Bucket {
    Bucket::new(rate, rate)
}

impl Aws {
    pub(crate) fn new(quotas: &Quotas, tenants: usize) -> Self {
        // Keys are hashed, so every partition gets the same share.
        let partitions = match quotas.ledger_writes.is_finite() {
            true => (quotas.ledger_writes / WRITES_PER_PARTITION).ceil() as usize,
            false => 1,
        };
        let writes = quotas.ledger_writes / partitions as f64;
        Self {
            s3_puts: vec![per_second(quotas.s3_puts); quotas.s3_partitions],
            s3_gets: vec![per_second(quotas.s3_gets); quotas.s3_partitions],
            sns: per_second(quotas.sns_publishes),
            ledger: vec![Bucket::new(writes, writes * SAVED_UNITS); partitions],
            tenants: per_second(quotas.tenant_reads),
            sts: per_second(quotas.assume_roles),
            puts: vec![per_second(quotas.puts); tenants],
            stream_creations: vec![per_second(quotas.stream_creations); tenants],
        }
    }

    /// Keys begin with the tenant, so all objects of a tenant are in one partition.
    pub(crate) fn put_object(&mut self, tenant: usize, now: Time) -> bool {
        let partitions = self.s3_puts.len();
        self.s3_puts[tenant % partitions].take(1.0, now)
    }

    pub(crate) fn get_object(&mut self, tenant: usize, now: Time) -> bool {
        let partitions = self.s3_gets.len();
        self.s3_gets[tenant % partitions].take(1.0, now)
    }

    pub(crate) fn publish(&mut self, now: Time) -> bool {
        self.sns.take(1.0, now)
    }

    pub(crate) fn write_ledger(&mut self, chance: &mut Chance, now: Time) -> bool {
        let partition = chance.below(self.ledger.len());
        self.ledger[partition].take(1.0, now)
    }

    pub(crate) fn query_tenant(&mut self, units: f64, now: Time) -> bool {
        self.tenants.take(units, now)
    }

    pub(crate) fn assume_role(&mut self, now: Time) -> bool {
        self.sts.take(1.0, now)
    }

    pub(crate) fn put_log_events(&mut self, tenant: usize, now: Time) -> bool {
        self.puts[tenant].take(1.0, now)
    }

    pub(crate) fn create_log_stream(&mut self, tenant: usize, now: Time) -> bool {
        self.stream_creations[tenant].take(1.0, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SECOND;

    #[test]
    fn each_call_has_the_limit_of_its_quota() {
        let quotas = Quotas { s3_partitions: 2, ..Quotas::defaults() };
        let mut aws = Aws::new(&quotas, 3);
        let mut chance = Chance::new(1);
        let now = SECOND;
        let mut count =
            |call: &mut dyn FnMut(&mut Aws) -> bool| (0..100_000).filter(|_| call(&mut aws)).count();
        assert_eq!(count(&mut |aws| aws.put_object(0, now)), 3500);
        assert_eq!(count(&mut |aws| aws.put_object(2, now)), 0, "the same partition");
        assert_eq!(count(&mut |aws| aws.put_object(1, now)), 3500);
        assert_eq!(count(&mut |aws| aws.get_object(1, now)), 5500);
        assert_eq!(count(&mut |aws| aws.publish(now)), 9000);
        assert_eq!(count(&mut |aws| aws.write_ledger(&mut chance, now)), 40_000, "ten seconds are saved");
        assert_eq!(count(&mut |aws| aws.query_tenant(0.5, now)), 24_000);
        assert_eq!(count(&mut |aws| aws.assume_role(now)), 600);
        assert_eq!(count(&mut |aws| aws.put_log_events(1, now)), 5000);
        assert_eq!(count(&mut |aws| aws.put_log_events(2, now)), 5000, "each account has a limit of its own");
        assert_eq!(count(&mut |aws| aws.create_log_stream(0, now)), 50);
    }

    #[test]
    fn one_partition_of_the_ledger_takes_no_more_than_its_part() {
        // All of a second's writes in 40 partitions, a thousand each, and chance makes some busier than others.
        let mut aws = Aws::new(&Quotas { ledger_writes: 40_000.0, ..Quotas::defaults() }, 1);
        assert_eq!(aws.ledger.len(), 40);
        let mut chance = Chance::new(1);
        let taken = (0..1_000_000).filter(|_| aws.write_ledger(&mut chance, SECOND)).count();
        assert_eq!(taken, 400_000);
    }
}
