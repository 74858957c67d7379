//! Checks our own identity, the clock and the central role.

use jiff::SignedDuration;

use crate::{
    credentials::{
        AssumeError,
        identity::{Identity, WhoAmIError},
        refusal::RefusalCause,
    },
    doctor::{Doctor, Finding, Findings, NO_CREDENTIALS, OurSide},
};

impl Doctor {
    /// Checks the identity, the tenant table and the central role. Also returns their results for the checks of tenants.
    pub(in crate::doctor) async fn our_side(&self) -> (Findings, OurSide) {
        let identity = self.instruments.identity().await;
        let of_identity = match &identity {
            Ok(Identity { account, arn }) => Finding::Ok(format!("{arn}, account {account}")),
            Err(WhoAmIError::Refused(error)) => Finding::failed(error.to_string(), error.remedy()),
            Err(error) => Finding::failed(
                error.to_string(),
                "check that STS can be reached from here, and that the credentials are of the provider's account",
            ),
        };
        let identity = identity.ok();
        let (table, central) = match &identity {
            None => (Finding::skipped(NO_CREDENTIALS), Finding::skipped(NO_CREDENTIALS)),
            Some(identity) => (self.tenant_table(identity).await, self.central(identity).await),
        };
        let holds = |finding: &Finding| matches!(finding, Finding::Ok(_));
        let our_side = OurSide { identity, no_central: !holds(&central), no_table: !holds(&table) };
        (vec![("identity", of_identity), ("tenant table", table), ("central role", central)], our_side)
    }

    /// Checks the difference between this host's clock and AWS's.
    pub(in crate::doctor) async fn clock(&self, our_side: &OurSide) -> Finding {
        if our_side.identity.is_none() {
            return Finding::skipped(NO_CREDENTIALS);
        }
        match self.instruments.clock_skew().await {
            Ok(Some(skew)) => of_skew(skew, self.config.ledger.max_clock_skew.try_into().unwrap_or_default()),
            Ok(None) => Finding::skipped("not checked: the answer of STS has no date"),
            Err(error) => Finding::Skipped(format!("not checked: {error}")),
        }
    }

    async fn central(&self, identity: &Identity) -> Finding {
        let role = &self.central_role_arn;
        match self.instruments.central.credentials().await {
            Ok(_) => Finding::Ok(format!("{role} is assumed")),
            Err(error) => self.refusal(&error, |cause, _| central_fix(role, identity, cause, &error)),
        }
    }
}

fn of_skew(skew: SignedDuration, most: SignedDuration) -> Finding {
    let seconds = skew.as_secs().abs();
    let side = if skew.is_negative() { "behind" } else { "ahead of" };
    if skew.abs() <= most {
        let found =
            if skew.is_zero() { "shows AWS's time".to_owned() } else { format!("{seconds} s {side} AWS's") };
        return Finding::Ok(found);
    }
    Finding::failed(
        format!(
            "this host's clock is {seconds} s {side} AWS's, more than ledger.max_clock_skew ({} s): two workers may hold the \
             lease on one object, and AWS refuses signatures that are five minutes off",
            most.as_secs()
        ),
        "set the host's clock, preferably by NTP (`timedatectl set-ntp true`)",
    )
}

fn central_fix(role: &str, identity: &Identity, cause: Option<RefusalCause>, error: &AssumeError) -> String {
    let arn = &identity.arn;
    match cause {
        Some(RefusalCause::CentralRolePolicy) => {
            format!("the policy of {arn} must allow sts:AssumeRole on {role}")
        }
        Some(RefusalCause::Request) | None => {
            format!(
                "STS's message says what is wrong with the request or with the credentials of {arn}: {error}"
            )
        }
        Some(RefusalCause::TrustPolicy | RefusalCause::TagSession | RefusalCause::SourceIdentity) => format!(
            "one of these is the cause: {role} does not exist (credentials.central_role_arn); its trust policy does not allow \
             sts:AssumeRole to {arn}; the policy of {arn} does not allow sts:AssumeRole on {role}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::check;

    #[test]
    fn a_clock_may_differ_by_what_the_ledger_allows() {
        let check = |skew, expected: Result<&str, &str>| {
            check(&of_skew(SignedDuration::from_secs(skew), SignedDuration::from_secs(30)), expected);
        };
        check(0, Ok("shows AWS's time"));
        check(30, Ok("30 s ahead of"));
        check(31, Err("31 s ahead of AWS's, more than ledger.max_clock_skew (30 s)"));
        check(-31, Err("31 s behind"));
    }
}
