//! AWS's partitions: groups of Regions that share no accounts and no roles. Pure.

/// Name of each partition, and prefix of the names of its Regions; the Regions of `aws` have no common prefix.
/// Source: botocore 1.44.5, `partitions.json`.
const PARTITIONS: [(&str, &str); 8] = [
    ("aws-cn", "cn-"),
    ("aws-us-gov", "us-gov-"),
    ("aws-iso", "us-iso-"),
    ("aws-iso-b", "us-isob-"),
    ("aws-iso-e", "eu-isoe-"),
    ("aws-iso-f", "us-isof-"),
    ("aws-eusc", "eusc-"),
    ("aws", ""),
];

/// Whether AWS has a partition with this name.
pub fn is_known(partition: &str) -> bool {
    PARTITIONS.iter().any(|(name, _)| *name == partition)
}

/// The partition of a Region.
pub fn of_region(region: &str) -> &'static str {
    let found = PARTITIONS.iter().find(|(_, start)| region.starts_with(start));
    found.map_or("aws", |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_region_is_in_one_partition() {
        for (region, partition) in [
            ("us-east-1", "aws"),
            ("eu-isolated-1", "aws"),
            ("mx-central-1", "aws"),
            ("cn-northwest-1", "aws-cn"),
            ("us-gov-west-1", "aws-us-gov"),
            ("us-iso-east-1", "aws-iso"),
            ("us-isob-east-1", "aws-iso-b"),
            ("eu-isoe-west-1", "aws-iso-e"),
            ("us-isof-south-1", "aws-iso-f"),
            ("eusc-de-east-1", "aws-eusc"),
        ] {
            assert_eq!(of_region(region), partition, "{region}");
            assert!(is_known(partition));
        }
        assert!(!is_known("aws-moon") && !is_known(""));
    }
}
