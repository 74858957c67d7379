//! The mode of a delivery: whether it puts anything. Pure.

use serde::{Deserialize, Serialize};

/// Whether a delivery puts anything into the customer's account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// It puts and copies.
    #[default]
    Live,
    /// It does everything else: it counts what it would have put or copied.
    Shadow,
}

impl Mode {
    /// Name of the mode in rows and in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Shadow => "shadow",
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::tenant::{Tenant, tests::row_of};

    fn modes(mode: Mode) -> Vec<(String, Mode)> {
        let row = [("target_region", "us-east-1"), ("bucket_name", "acme-logs")];
        let with = |value| row_of(&[&row[..], &[("deliver", value)]].concat());
        let rows = [("s3", row_of(&row)), ("s3#live", with("live")), ("s3#shadow", with("shadow"))];
        let rows = rows.map(|(name, row)| (name.to_owned(), row)).into();
        let tenant = Tenant::from_rows("acme", rows, None, Timestamp::UNIX_EPOCH).expect("there are rows");
        let deliveries = tenant.in_mode(mode).deliveries.into_iter().map(|row| row.expect("the row is good"));
        deliveries.map(|delivery| (delivery.ledger_name().into_owned(), delivery.mode)).collect()
    }

    #[test]
    fn the_worker_or_the_row_makes_a_delivery_a_shadow() {
        let named = |names: [(&str, Mode); 3]| names.map(|(name, mode)| (name.to_owned(), mode)).to_vec();
        let (live, shadow) = (Mode::Live, Mode::Shadow);
        assert_eq!(modes(Mode::Live), named([("s3", live), ("s3#live", live), ("shadow#s3#shadow", shadow)]));
        assert_eq!(
            modes(Mode::Shadow),
            named([("shadow#s3", shadow), ("shadow#s3#live", shadow), ("shadow#s3#shadow", shadow)])
        );
    }
}
