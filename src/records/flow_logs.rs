//! VPC flow logs and transit gateway flow logs, as they are published to S3 as text: a line with the names of the fields, and a
//! line for each flow.

/// The names of the fields. Source: VPC User Guide, "Flow log records"; VPC Transit Gateway Guide, "Transit Gateway Flow Log
/// records".
const NAMES: &str = "account-id action az-id bytes dstaddr dstport ecs-cluster-arn ecs-cluster-name ecs-container-id \
    ecs-container-instance-arn ecs-container-instance-id ecs-second-container-id ecs-service-name ecs-task-arn \
    ecs-task-definition-arn ecs-task-id encryption-status end flow-direction instance-id interface-id log-status packets \
    packets-lost-blackhole packets-lost-mtu-exceeded packets-lost-no-route packets-lost-ttl-expired pkt-dst-aws-service \
    pkt-dstaddr pkt-src-aws-service pkt-srcaddr protocol region reject-reason resource-id resource-type srcaddr srcport start \
    sublocation-id sublocation-type subnet-id tcp-flags tgw-attachment-id tgw-dst-az-id tgw-dst-eni tgw-dst-subnet-id \
    tgw-dst-vpc-account-id tgw-dst-vpc-id tgw-id tgw-pair-attachment-id tgw-src-az-id tgw-src-eni tgw-src-subnet-id \
    tgw-src-vpc-account-id tgw-src-vpc-id traffic-path type version vpc-id";
/// Fewest fields of a line that is recognised as the names of fields.
const FEWEST: usize = 3;

/// Whether a text's first line has the names of a flow log's fields, and nothing else.
pub(super) fn is_head(line: &[u8]) -> bool {
    let mut count = 0;
    let mut names = words(line).inspect(|_| count += 1);
    let all_known = names.all(is_known);
    all_known && count >= FEWEST
}

/// Whether a rule's first line is the line with the names, although it may have names that are newer than this list. A flow has
/// digits, capitals or `-` alone.
pub(super) fn may_be_head(line: &[u8]) -> bool {
    let is_name = |word: &[u8]| {
        word[0].is_ascii_lowercase()
            && word.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
    };
    words(line).all(is_name) && words(line).any(is_known)
}

fn is_known(name: &[u8]) -> bool {
    NAMES.split_ascii_whitespace().any(|known| known.as_bytes() == name)
}

/// Position of the field `end`, which has the time of a flow's last packet in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EndField(usize);

impl EndField {
    /// The field's text in a line.
    pub(super) fn value(self, line: &[u8]) -> Option<&[u8]> {
        words(line).nth(self.0)
    }
}

/// Finds the field in the line with the names.
pub(super) fn end_field(head: &[u8]) -> Option<EndField> {
    words(head).position(|name| name == b"end").map(EndField)
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_may_be_the_head_of_a_rule_s_flow_log() {
        let check = |line: &str, expected| assert_eq!(may_be_head(line.as_bytes()), expected, "{line}");
        check("version account-id start end", true);
        check("end", true);
        check("srcaddr a-name-of-2030 end", true);
        check(
            "2 123456789010 eni-1235b8ca 172.31.16.139 - 20641 22 6 20 4249 1418530010 1418530070 ACCEPT OK",
            false,
        );
        check("ACCEPT OK", false);
        check("- end", false);
        check("eni-1235b8ca vpc-0a1b", false);
        check(r#"{"message":"end"}"#, false);
        check("", false);
    }

    #[test]
    fn the_names_of_fields_are_recognised() {
        let check = |line: &str, expected| assert_eq!(is_head(line.as_bytes()), expected, "{line}");
        check(
            "version account-id interface-id srcaddr dstaddr srcport dstport protocol packets bytes start end action log-status",
            true,
        );
        check("end srcaddr tgw-id\r", true);
        check("version resource-type account-id tgw-id start end", true);
        check("start end", false);
        check("the start of the end", false);
        check("version account-id Start end", false);
        check("", false);
    }

    #[test]
    fn the_end_field_is_found_by_its_name() {
        let check = |head: &str, line: &str, expected: Option<&str>| {
            let found =
                end_field(head.as_bytes()).and_then(|end| end.value(line.as_bytes()).map(<[u8]>::to_vec));
            assert_eq!(found, expected.map(|text| text.as_bytes().to_vec()), "{head}: {line}");
        };
        check("version start end", "2 1 3", Some("3"));
        check("end version start", "5 2 1", Some("5"));
        check("version start end", "2 1", None);
        check("version start action", "2 1 ACCEPT", None);
    }
}
