//! Checks the tenant table and the ledger's table.

use crate::{
    credentials::identity::Identity,
    doctor::{Doctor, Finding, Findings, NO_CREDENTIALS, OurSide, skipped},
    ledger::dynamodb::DynamoDbLedger,
    wiring::{Unread, tables::Table},
};

/// An id that no tenant can have, because it contains a slash.
const NOBODY: &str = "logferry/doctor";
/// The attribute of the ledger's time to live.
const EXPIRES_AT: &str = "expires_at";

impl Doctor {
    /// Checks keys, capacity and time to live of both tables, and that the ledger can be written.
    pub(in crate::doctor) async fn tables(&self, our_side: &OurSide) -> Findings {
        let of_tenants = ["tenant table key", "tenant table capacity"];
        let of_ledger = ["ledger", "ledger key", "ledger capacity", "ledger time to live"];
        if our_side.identity.is_none() {
            return [skipped(&of_tenants, NO_CREDENTIALS), skipped(&of_ledger, NO_CREDENTIALS)].concat();
        }
        let [tenants, ledger] = [&self.table, &self.ledger_table];
        let table = self.instruments.wiring.table(tenants).await;
        let key = of_key(tenants, &table, ["tenant_id", "type"], "tenants.table");
        let mut findings: Findings =
            of_tenants.into_iter().zip([key, of_capacity(tenants, &table)]).collect();
        let Some(entries) = &self.instruments.ledger else {
            let off = "ledger.table is not set: a message that comes again delivers its records again";
            findings.extend(skipped(&of_ledger, off));
            return findings;
        };
        let table = self.instruments.wiring.table(ledger).await;
        let life = self.instruments.wiring.time_to_live(ledger).await;
        let key = of_key(ledger, &table, ["object", "delivery"], "ledger.table");
        let written = self.ledger(entries).await;
        let found = [written, key, of_capacity(ledger, &table), of_time_to_live(ledger, &life)];
        findings.extend(of_ledger.into_iter().zip(found));
        findings
    }

    /// Writes an entry of the doctor's own to the ledger.
    async fn ledger(&self, ledger: &DynamoDbLedger) -> Finding {
        let table = &self.ledger_table;
        match ledger.probe_writing().await {
            Ok(None) => Finding::Ok(format!("{table}: an entry was written and deleted")),
            Ok(Some(left)) => Finding::Ok(format!(
                "{table}: the entry \"logferry-doctor\" was written. It stays until its time to live ends, because it cannot be \
                 deleted ({left})"
            )),
            Err(error) => Finding::failed(
                error.to_string(),
                format!(
                    "check that table {table:?} (object S, delivery S) exists, that the identity that runs this may call \
                     dynamodb:UpdateItem on it, and that DynamoDB can be reached from here; or correct ledger.table or aws.region"
                ),
            ),
        }
    }

    /// Reads the rows of a tenant that cannot exist.
    pub(super) async fn tenant_table(&self, identity: &Identity) -> Finding {
        match self.instruments.rows.of(NOBODY).await {
            Ok(_) => Finding::Ok(format!("{} can be read", self.table)),
            Err(error) => Finding::failed(
                error.problem.as_str(),
                table_fix(&self.table, &error.problem, "Query", identity),
            ),
        }
    }
}

/// The fix for a table that cannot be read, from DynamoDB's error.
pub(in crate::doctor) fn table_fix(table: &str, problem: &str, call: &str, identity: &Identity) -> String {
    if problem.starts_with("ResourceNotFoundException") {
        format!("create table {table:?} (tenant_id S, type S), or correct tenants.table or aws.region")
    } else if problem.starts_with("AccessDenied") {
        format!("allow dynamodb:{call} on table {table:?} to {}", identity.arn)
    } else if problem.starts_with("ValidationException") {
        format!("check that {table:?} is the tenant table: its key must be tenant_id (S) and type (S)")
    } else {
        "check that DynamoDB can be reached from here, and try again".to_owned()
    }
}

type Answer<T> = Result<T, Unread>;

fn of_key(name: &str, table: &Answer<Table>, wanted: [&str; 2], field: &str) -> Finding {
    let [hash, range] = wanted;
    let create = format!(
        "`aws dynamodb create-table --table-name {name} --billing-mode PAY_PER_REQUEST --attribute-definitions \
         AttributeName={hash},AttributeType=S AttributeName={range},AttributeType=S --key-schema \
         AttributeName={hash},KeyType=HASH AttributeName={range},KeyType=RANGE`, or correct {field} or aws.region"
    );
    let table = match table {
        Ok(table) => table,
        // The read or write of the table reports it as missing.
        Err(error) => return Finding::Skipped(error.to_string()),
    };
    let found = table.key.iter().map(|(name, kind)| format!("{name} ({kind})"));
    let found = found.collect::<Vec<_>>().join(" and ");
    let is_wanted = table.key.iter().map(|(name, kind)| (name.as_str(), kind.as_str()));
    if !is_wanted.eq([(hash, "S"), (range, "S")]) {
        return Finding::failed(
            format!("the key of table {name:?} is {found}, and must be {hash} (S) and {range} (S)"),
            format!("a key cannot be changed; create another table: {create}"),
        );
    }
    match table.status.as_str() {
        "ACTIVE" | "UPDATING" => Finding::Ok(format!("{found}; the table is {}", table.status)),
        other => Finding::failed(
            format!("table {name:?} is {other}"),
            format!(
                "wait until the table is ACTIVE (`aws dynamodb wait table-exists --table-name {name}`), or restore it"
            ),
        ),
    }
}

fn of_capacity(name: &str, table: &Answer<Table>) -> Finding {
    match table {
        Ok(Table { provisioned: None, .. }) => Finding::Ok("on demand".to_owned()),
        Ok(Table { provisioned: Some((read, write)), .. }) => Finding::warning(
            format!(
                "table {name:?} is provisioned with {read} read and {write} write units: at a peak DynamoDB throttles, and \
                 deliveries wait"
            ),
            format!("`aws dynamodb update-table --table-name {name} --billing-mode PAY_PER_REQUEST`"),
        ),
        Err(error) => Finding::Skipped(error.to_string()),
    }
}

fn of_time_to_live(name: &str, attribute: &Answer<Option<String>>) -> Finding {
    let enable = format!(
        "`aws dynamodb update-time-to-live --table-name {name} --time-to-live-specification \
         Enabled=true,AttributeName={EXPIRES_AT}`"
    );
    match attribute {
        Ok(Some(attribute)) if attribute == EXPIRES_AT => Finding::Ok(format!("by {EXPIRES_AT}")),
        Ok(Some(other)) => Finding::failed(
            format!(
                "table {name:?} deletes entries by {other}, and the ledger writes {EXPIRES_AT}: no entry is ever deleted"
            ),
            format!(
                "switch it off (`aws dynamodb update-time-to-live --table-name {name} --time-to-live-specification \
                 Enabled=false,AttributeName={other}`), and an hour later on: {enable}"
            ),
        ),
        Ok(None) => Finding::failed(
            format!(
                "table {name:?} has no time to live: no entry is ever deleted, and the table grows with every object"
            ),
            enable,
        ),
        Err(error) => Finding::Skipped(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::{check, skips};

    fn table(key: [(&str, &str); 2]) -> Table {
        let key = key.map(|(name, kind)| (name.to_owned(), kind.to_owned())).into();
        Table { key, status: "ACTIVE".to_owned(), provisioned: None }
    }

    #[test]
    fn a_table_needs_its_key_in_order_and_as_strings() {
        let wanted = ["object", "delivery"];
        let key =
            |table: Answer<Table>, expected| check(&of_key("t", &table, wanted, "ledger.table"), expected);
        key(Ok(table([("object", "S"), ("delivery", "S")])), Ok("ACTIVE"));
        key(Ok(table([("delivery", "S"), ("object", "S")])), Err("must be object (S) and delivery (S)"));
        key(Ok(table([("object", "S"), ("delivery", "N")])), Err("delivery (N)"));
        let creating = Table { status: "CREATING".to_owned(), ..table([("object", "S"), ("delivery", "S")]) };
        key(Ok(creating), Err("is CREATING"));
        let denied = Unread::Denied { permission: "dynamodb:DescribeTable", problem: "no".to_owned() };
        let found = of_key("t", &Err(denied), wanted, "ledger.table");
        skips(&found, "not checked: needs dynamodb:DescribeTable");
    }

    #[test]
    fn provisioned_capacity_is_a_warning() {
        check(&of_capacity("t", &Ok(Table::default())), Ok("on demand"));
        let small = of_capacity("t", &Ok(Table { provisioned: Some((5, 1)), ..Table::default() }));
        assert!(matches!(&small, Finding::Warning { problem, .. } if problem.contains("5 read and 1 write")));
    }

    #[test]
    fn entries_must_expire_by_the_ledgers_attribute() {
        check(&of_time_to_live("t", &Ok(Some(EXPIRES_AT.to_owned()))), Ok("expires_at"));
        check(&of_time_to_live("t", &Ok(Some("ttl".to_owned()))), Err("by ttl"));
        check(&of_time_to_live("t", &Ok(None)), Err("no time to live"));
    }
}
