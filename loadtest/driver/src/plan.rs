//! What a run sends: the different objects, and the tenant, application and pod of each copy.

use std::collections::BTreeSet;

use anyhow::Context;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use logferry_sandbox::Totals;

use crate::{
    generate::{self, Compression, Object, Shape, Size},
    parallel, stage,
    stage::Parcel,
};

/// Where one object goes, and which of the different bodies it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pick {
    pub(crate) tenant: usize,
    pub(crate) application: u64,
    pub(crate) pod: u64,
    /// Position in [`Plan::sizes`].
    pub(crate) body: usize,
}

/// All objects of a run.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Sizes of the different bodies.
    pub(crate) sizes: Vec<Size>,
    pub(crate) picks: Vec<Pick>,
}

impl Plan {
    /// Objects of one size for the tenants in turn, with `distinct` different bodies.
    ///
    /// # Errors
    /// A number is too large for its type, which does not happen in a run.
    pub(crate) fn in_turn(objects: u64, size: Size, distinct: u64, tenants: u64) -> anyhow::Result<Self> {
        let bodies = distinct.min(objects);
        let pick = |number| {
            let turn = number / tenants;
            anyhow::Ok(Pick {
                tenant: usize::try_from(number % tenants)?,
                application: 0,
                pod: stage::pod(turn),
                // Without the turn, a tenant could get the same body every time.
                body: usize::try_from((number + turn) % bodies)?,
            })
        };
        let picks = (0..objects).map(pick).collect::<anyhow::Result<_>>()?;
        Ok(Self { sizes: vec![size; usize::try_from(bodies)?], picks })
    }

    /// Number of different log streams: each pod has one.
    pub(crate) fn streams(&self) -> usize {
        let pods = self.picks.iter().map(|pick| (pick.tenant, pick.application, pick.pod));
        pods.collect::<BTreeSet<_>>().len()
    }

    /// Generates the different bodies, as many at once as there are processors. Their first records are half an hour old, and a
    /// gigabyte covers about a quarter of an hour, so CloudWatch Logs, which accepts two hours ahead, refuses none as too new.
    ///
    /// # Errors
    /// A task failed, which does not happen in a run.
    pub(crate) async fn generate(&self, shape: Shape, seed: u64) -> anyhow::Result<Vec<(Object, Bytes)>> {
        let start = Timestamp::now() - SignedDuration::from_mins(30);
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        parallel::for_each(processors, 0..self.sizes.len() as u64, |number| {
            let size = usize::try_from(number).map(|number| self.sizes[number]);
            async move {
                let size = size?;
                let make = move || generate::object(seed.wrapping_add(number), size, &shape, start);
                let (object, bytes) = tokio::task::spawn_blocking(make).await??;
                Ok((object, Bytes::from(bytes)))
            }
        })
        .await
    }
}

/// The objects to upload, and what must arrive.
#[derive(Debug, Default)]
pub(crate) struct Shipment {
    pub(crate) parcels: Vec<Parcel>,
    /// Totals that each tenant should receive.
    pub(crate) expected: Vec<Totals>,
    /// Number of copies of each different body.
    pub(crate) copies: Vec<u64>,
}

impl Shipment {
    /// A shipment without objects.
    pub(crate) fn empty(tenants: u64) -> anyhow::Result<Self> {
        Ok(Self { expected: vec![Totals::default(); usize::try_from(tenants)?], ..Self::default() })
    }

    /// The objects of the plan with their bodies. Their numbers begin with `first_number`.
    ///
    /// # Errors
    /// The plan has more tenants or bodies than there are.
    pub(crate) fn new(
        plan: &Plan,
        made: &[(Object, Bytes)],
        tenants: u64,
        first_number: u64,
        compression: Compression,
    ) -> anyhow::Result<Self> {
        let extension = match compression {
            Compression::Gzip => ".gz",
            Compression::Zstd => ".zst",
            Compression::None => "",
        };
        let mut shipment = Self { copies: vec![0; made.len()], ..Self::empty(tenants)? };
        for (pick, number) in plan.picks.iter().zip(first_number..) {
            let Pick { tenant, application, pod, body } = *pick;
            let (object, bytes) = made.get(body).context("a body is missing")?;
            *shipment.expected.get_mut(tenant).context("a tenant is missing")? += object.totals;
            shipment.copies[body] += 1;
            let body = bytes.clone();
            shipment.parcels.push(Parcel { tenant, application, pod, number, extension, body });
        }
        Ok(shipment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tenants_get_the_objects_in_turn() {
        let made: Vec<_> = (1..=3_u64)
            .map(|events| {
                let totals = Totals { events, ..Totals::default() };
                let body = Bytes::from(vec![b'x'; usize::try_from(events).expect("few")]);
                (Object { stored: events, plain: events, records: events, totals }, body)
            })
            .collect();
        let plan = Plan::in_turn(8, Size::Plain(1), 3, 3).expect("the number is small");
        let shipment =
            Shipment::new(&plan, &made, 3, 100, Compression::Zstd).expect("all bodies and tenants exist");
        let tenants: Vec<_> = shipment.parcels.iter().map(|parcel| parcel.tenant).collect();
        assert_eq!(tenants, [0, 1, 2, 0, 1, 2, 0, 1]);
        // Three objects and three tenants: without the turn each tenant would get the same object every time.
        let sizes: Vec<_> = shipment.parcels.iter().map(|parcel| parcel.body.len()).collect();
        assert_eq!(sizes, [1, 2, 3, 2, 3, 1, 3, 1]);
        let events: Vec<_> = shipment.expected.iter().map(|totals| totals.events).collect();
        assert_eq!(events, [6, 6, 4]);
        assert_eq!(shipment.copies, [3, 2, 3]);
        assert!(shipment.parcels.iter().zip(100..).all(|(parcel, number)| parcel.number == number));
        assert_eq!((shipment.parcels[7].pod, shipment.parcels[7].extension), (2, ".zst"));
        assert_eq!(Plan::in_turn(2, Size::Plain(1), 4, 1).expect("small").sizes.len(), 2);
    }

    #[test]
    fn a_body_or_tenant_that_is_missing_is_an_error() {
        let plan = Plan::in_turn(2, Size::Plain(1), 1, 2).expect("the number is small");
        let object = Object { stored: 1, plain: 1, records: 1, totals: Totals::default() };
        let made = [(object, Bytes::from_static(b"x"))];
        Shipment::new(&plan, &made, 2, 0, Compression::None).expect("all bodies and tenants exist");
        Shipment::new(&plan, &made, 1, 0, Compression::None).expect_err("one tenant");
        Shipment::new(&plan, &[], 2, 0, Compression::None).expect_err("no body");
    }
}
