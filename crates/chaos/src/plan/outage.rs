//! Plans of a minute without one service, while objects keep coming.

use std::time::Duration;

use super::{Kind, Plan, UPLOADS, Weather};

/// A service that is out of reach for a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// The queue.
    Sqs,
    /// The tenant table and the ledger.
    DynamoDb,
    /// The calls that assume customers' roles. The roles' sessions end when the outage begins; otherwise no worker would
    /// call STS for an hour.
    Sts,
}

impl Outage {
    /// All outages.
    pub const ALL: [Self; 3] = [Self::Sqs, Self::DynamoDb, Self::Sts];
    /// Start of the outage. It ends at [`Self::TO`].
    pub(crate) const FROM: Duration = Duration::from_secs(10);
    pub(crate) const TO: Duration = Duration::from_secs(70);

    /// Signing name of the service.
    pub fn service(self) -> &'static str {
        match self {
            Self::Sqs => "sqs",
            Self::DynamoDb => "dynamodb",
            Self::Sts => "sts",
        }
    }

    /// Condition that `/readyz` of every worker must call degraded during the outage.
    pub(crate) fn condition(self) -> &'static str {
        match self {
            Self::Sqs => "receive",
            Self::DynamoDb => "lookup",
            Self::Sts => "assume",
        }
    }

    /// Metric that must be above 0 on at least one worker after the outage.
    pub(crate) fn metric(self) -> &'static str {
        match self {
            Self::Sqs => "logferry_queue_errors_total{call=\"receive\"}",
            Self::DynamoDb => "logferry_ledger_errors_total",
            Self::Sts => "logferry_failures_total{reason=\"role_unavailable\"}",
        }
    }
}

impl Plan {
    /// Spreads the uploads of a plan over 70 s. The service is out of reach for the last 60 s of them.
    pub fn outage(seed: u64, outage: Outage, workers: usize) -> Self {
        let mut plan = Self::new(seed, Kind::Outage, workers);
        let stretch = |at: &mut Duration| *at = at.mul_f64(Outage::TO.div_duration_f64(UPLOADS));
        plan.objects.iter_mut().for_each(|object| stretch(&mut object.at));
        plan.messages.iter_mut().for_each(|message| stretch(&mut message.at));
        plan.weather = vec![Weather::unreachable(Outage::FROM, Outage::TO, outage.service(), "*")];
        plan.outage = Some(outage);
        plan.period = Outage::TO + Duration::from_secs(1);
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_come_before_and_during_the_outage() {
        let plan = Plan::outage(1, Outage::Sqs, 3);
        let of = |from, to| plan.objects.iter().filter(|object| (from..to).contains(&object.at)).count();
        assert!(of(Duration::ZERO, Outage::FROM) > 0 && of(Outage::FROM, Outage::TO) > 0);
        for (number, object) in plan.objects.iter().enumerate() {
            let mut told = plan.messages.iter().filter(|message| message.objects.contains(&number));
            assert!(told.all(|message| message.at >= object.at), "no message comes before its object");
        }
    }
}
