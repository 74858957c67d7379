//! Checks a tenant: its rows, and for each delivery the way to its destination.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::{StreamExt, stream};
use jiff::Timestamp;

use super::{Condition, Doctor, Finding, Findings, OurSide, wiring::tables::table_fix};
use crate::tenant::{
    BadRow, Content, Delivery, Destination, FieldProblem, Mode, Row, SETTINGS, check_row, expired_at,
};

/// Number of tenants that are checked at the same time. STS allows a few hundred calls per second, and most of a check is
/// waiting.
const AT_ONCE: usize = 8;

/// A tenant's rows as the worker reads them.
struct CheckedRows {
    id: String,
    /// Names of the rows whose `ttl` has passed, with that time.
    expired: Vec<(String, Timestamp)>,
    paused: bool,
    deliveries: Vec<(String, Result<Arc<Delivery>, BadRow>)>,
    bad_settings: Option<BadRow>,
}

impl CheckedRows {
    fn read(id: String, rows: Vec<(String, Row)>, default_region: Option<&str>) -> Self {
        let (expired, deliveries) = (Vec::new(), Vec::new());
        let mut tenant = Self { id, expired, paused: false, deliveries, bad_settings: None };
        for (name, row) in rows {
            if let Some(at) = expired_at(&row, Timestamp::now()) {
                tenant.expired.push((name, at));
                continue;
            }
            match check_row(&tenant.id, &name, &row, default_region) {
                Ok(Content::Settings { paused }) => tenant.paused = paused,
                Ok(Content::Delivery(delivery)) => tenant.deliveries.push((name, Ok(delivery))),
                Err(bad) if name == SETTINGS => tenant.bad_settings = Some(bad),
                Err(bad) => tenant.deliveries.push((name, Err(bad))),
            }
        }
        tenant
    }

    fn is_enabled(delivery: &Result<Arc<Delivery>, BadRow>) -> bool {
        match delivery {
            Ok(delivery) => delivery.enabled,
            Err(bad) => bad.enabled,
        }
    }

    fn has_enabled(&self) -> bool {
        self.deliveries.iter().any(|(_, delivery)| Self::is_enabled(delivery))
    }

    fn condition(&self, delivery: Option<&str>, name: &'static str, finding: Finding) -> Condition {
        Condition { tenant_id: Some(self.id.clone()), delivery: delivery.map(str::to_owned), name, finding }
    }
}

impl Doctor {
    /// Checks one tenant, or only its delivery of this name.
    pub(super) async fn tenant(
        &self,
        tenant_id: &str,
        delivery: Option<&str>,
        our_side: &OurSide,
    ) -> Vec<Condition> {
        let about = |finding| {
            let tenant_id = Some(tenant_id.to_owned());
            vec![Condition { tenant_id, delivery: None, name: "rows", finding }]
        };
        if our_side.no_table {
            return about(Finding::skipped("the tenant table cannot be read"));
        }
        let rows = match self.instruments.rows.of(tenant_id).await {
            Ok(rows) => rows,
            Err(error) => {
                let fix = "try again: DynamoDB answered another call a moment ago";
                return about(Finding::failed(error.problem, fix));
            }
        };
        if rows.is_empty() {
            return about(Finding::failed(
                format!("table {:?} has no row of tenant {tenant_id:?}", self.table),
                "write its rows with `logferry tenant put`, or correct the id, which is the tenant's part of the \
                 objects' keys",
            ));
        }
        let tenant = CheckedRows::read(tenant_id.to_owned(), rows, self.instruments.rows.default_region());
        if let Some(name) = delivery.filter(|name| tenant.deliveries.iter().all(|(other, _)| other != name)) {
            let there: Vec<_> = tenant.deliveries.iter().map(|(name, _)| format!("{name:?}")).collect();
            let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
            return about(Finding::failed(
                format!("tenant {tenant_id:?} has no row of type {name:?}; its deliveries are: {there}"),
                "write the row with `logferry tenant put`, or correct --delivery",
            ));
        }
        self.examine_tenant(tenant, delivery, our_side).await
    }

    /// Checks every tenant with an enabled delivery, in the table's order. Paused tenants are reported without a check.
    pub(super) async fn everyone(&self, our_side: &OurSide) -> Vec<Condition> {
        let about_all = |finding| {
            vec![Condition { tenant_id: None, delivery: None, name: "every tenant's rows", finding }]
        };
        let Some(identity) = our_side.identity.as_ref().filter(|_| !our_side.no_table) else {
            return about_all(Finding::skipped("the tenant table cannot be read"));
        };
        let rows = match self.instruments.rows.all().await {
            Ok(rows) => rows,
            Err(error) => {
                let fix = table_fix(&self.table, &error.problem, "Scan", identity);
                return about_all(Finding::failed(error.problem, fix));
            }
        };
        let mut tenants: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (tenant_id, name, row) in rows {
            tenants.entry(tenant_id).or_default().push((name, row));
        }
        let default_region = self.instruments.rows.default_region();
        let tenants = tenants.into_iter().map(|(id, rows)| CheckedRows::read(id, rows, default_region));
        let examined = stream::iter(tenants.filter(CheckedRows::has_enabled)).map(async |tenant| {
            if tenant.paused {
                let resume = format!("paused; `logferry tenant resume {}` ends the pause", tenant.id);
                return vec![tenant.condition(None, "not paused", Finding::Skipped(resume))];
            }
            self.examine_tenant(tenant, None, our_side).await
        });
        examined.buffered(AT_ONCE).collect::<Vec<_>>().await.concat()
    }

    async fn examine_tenant(
        &self,
        tenant: CheckedRows,
        asked: Option<&str>,
        our_side: &OurSide,
    ) -> Vec<Condition> {
        let mut conditions = Vec::new();
        for (name, at) in &tenant.expired {
            let gone = format!("its ttl passed at {at}, so the worker ignores the row");
            conditions.push(tenant.condition(Some(name), "ttl", Finding::Skipped(gone)));
        }
        match &tenant.bad_settings {
            Some(bad) => {
                let of_settings = |(what, finding)| tenant.condition(Some(SETTINGS), what, finding);
                conditions.extend(bad_row(&tenant, SETTINGS, bad).into_iter().map(of_settings));
            }
            None if tenant.paused => conditions.push(tenant.condition(
                None,
                "not paused",
                Finding::failed(
                    "the settings row pauses the tenant: its messages go to the dead-letter queue",
                    format!(
                        "`logferry tenant resume {0}`, then `logferry redrive move --tenant {0} --reason tenant_paused`",
                        tenant.id
                    ),
                ),
            )),
            None => conditions.push(tenant.condition(None, "not paused", Finding::Ok(String::new()))),
        }
        if tenant.deliveries.is_empty() {
            let nothing = Finding::failed(
                "the tenant has no row of a delivery, so nothing is delivered",
                "write a row with `logferry tenant put`",
            );
            conditions.push(tenant.condition(None, "rows", nothing));
        }
        // If no delivery is enabled, all are checked, because the operator may be about to enable one.
        let all = !tenant.has_enabled();
        for (name, delivery) in &tenant.deliveries {
            let chosen = asked.map_or(all || CheckedRows::is_enabled(delivery), |asked| asked == name);
            let findings = match (asked, chosen) {
                (_, true) => self.delivery(&tenant, name, delivery, our_side).await,
                (None, false) => {
                    vec![("enabled", Finding::skipped("the row is disabled, so it delivers nothing"))]
                }
                (Some(_), false) => continue,
            };
            let of_delivery = |(what, finding)| tenant.condition(Some(name), what, finding);
            conditions.extend(findings.into_iter().map(of_delivery));
        }
        conditions
    }

    async fn delivery(
        &self,
        tenant: &CheckedRows,
        name: &str,
        delivery: &Result<Arc<Delivery>, BadRow>,
        our_side: &OurSide,
    ) -> Findings {
        let mut findings = vec![("enabled", of_enabled(&tenant.id, name, CheckedRows::is_enabled(delivery)))];
        let misfit = delivery.as_ref().ok().and_then(|delivery| self.own_buckets.check(delivery).err());
        let delivery = match (delivery, &misfit) {
            (Ok(delivery), None) => delivery,
            (Err(bad), _) | (_, Some(bad)) => {
                findings.extend(bad_row(tenant, name, bad));
                return findings;
            }
        };
        findings.push(("row", Finding::Ok("every field can be used".to_owned())));
        if delivery.mode == Mode::Shadow {
            let fix = "when the delivery shall begin, remove the row's attribute deliver, or set delivery.mode to \"live\"";
            let shadow = Finding::warning("in shadow mode: events are counted, and nothing is put", fix);
            findings.push(("mode", shadow));
        }
        findings.extend(match &delivery.destination {
            Destination::CloudWatch(to) => self.cloudwatch(delivery, to, our_side).await,
            Destination::S3(to) => self.bucket(delivery, to, our_side).await,
        });
        findings
    }
}

fn of_enabled(tenant_id: &str, name: &str, enabled: bool) -> Finding {
    if enabled {
        return Finding::Ok(String::new());
    }
    Finding::failed(
        "the row is disabled, so it delivers nothing",
        format!("`logferry tenant enable {tenant_id} --type {name}`"),
    )
}

/// A finding for each field that cannot be used.
fn bad_row(tenant: &CheckedRows, name: &str, bad: &BadRow) -> Findings {
    let finding = |problem: &FieldProblem| {
        let setting =
            if problem.field == "oversize" { "set quarantine.bucket for the workers, or " } else { "" };
        let fix = format!(
            "{setting}correct {} in the row (`logferry tenant get {} --type {name}` shows it, `put` replaces it)",
            problem.field, tenant.id
        );
        ("row", Finding::failed(problem.to_string(), fix))
    };
    bad.problems.iter().map(finding).collect()
}
