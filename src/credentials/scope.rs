//! The purpose of a session in a customer's role, and the inline policy that limits the session to it. Pure.

use serde_json::{Value, json};

use super::RoleArn;

/// What a session may access, even if the customer's role allows more.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Writing one log group.
    LogGroup {
        /// The group's Region.
        region: String,
        /// The group.
        log_group_name: String,
    },
    /// Reading the events of one log group.
    ReadLogGroup {
        /// The group's Region.
        region: String,
        /// The group.
        log_group_name: String,
    },
    /// Writing files below one prefix.
    Lake {
        /// Bucket of the files.
        bucket: String,
        /// Prefix of their keys.
        prefix: String,
        /// Whether the files get an Object Lock.
        lock: bool,
    },
    /// Merging the files of a lake.
    Compact {
        /// Bucket of the files.
        bucket: String,
        /// Prefix of their keys.
        files: String,
        /// Prefix of the manifests' keys.
        manifests: String,
    },
    /// Copying objects from one prefix to another, within S3.
    Copy {
        /// Bucket of the objects.
        source_bucket: String,
        /// Prefix of their keys.
        source_prefix: String,
        /// Bucket of the copies.
        bucket: String,
        /// Prefix of the copies' keys.
        prefix: String,
    },
}

impl Scope {
    /// The inline session policy for a session in `role`. STS accepts 2,048 characters. The name of any group fits, and so do two
    /// prefixes of ordinary length.
    pub fn policy(&self, role: &RoleArn) -> String {
        let partition = role.partition();
        let on_group = |actions: &[&str], region: &str, log_group_name: &str| {
            let group =
                format!("arn:{partition}:logs:{region}:{}:log-group:{log_group_name}", role.account());
            json!([allow(actions, &[&group, &format!("{group}:*")])])
        };
        let below = |bucket, prefix| format!("arn:{partition}:s3:::{bucket}/{}*", literal(prefix));
        let mut keys = allow(&["kms:Decrypt", "kms:GenerateDataKey"], &["*"]);
        // The buckets may be encrypted; their owners choose the keys.
        keys["Condition"] = json!({ "StringLike": { "kms:ViaService": "s3.*" } });
        let statements = match self {
            Self::LogGroup { region, log_group_name } => on_group(
                &[
                    "logs:PutLogEvents",
                    "logs:CreateLogStream",
                    "logs:CreateLogGroup",
                    "logs:PutRetentionPolicy",
                ],
                region,
                log_group_name,
            ),
            Self::ReadLogGroup { region, log_group_name } => {
                on_group(&["logs:FilterLogEvents"], region, log_group_name)
            }
            Self::Lake { bucket, prefix, lock } => {
                let mut actions = vec!["s3:PutObject", "s3:AbortMultipartUpload"];
                actions.extend(lock.then_some("s3:PutObjectRetention"));
                json!([allow(&actions, &[&below(bucket, prefix)]), keys])
            }
            Self::Compact { bucket, files, manifests } => {
                let mut list = allow(&["s3:ListBucket"], &[&format!("arn:{partition}:s3:::{bucket}")]);
                let prefixes = [files, manifests].map(|prefix| literal(prefix) + "*");
                list["Condition"] = json!({ "StringLike": { "s3:prefix": prefixes } });
                let actions = [
                    "s3:GetObject",
                    "s3:PutObject",
                    "s3:PutObjectRetention",
                    "s3:AbortMultipartUpload",
                    "s3:DeleteObject",
                ];
                let manifest_actions = ["s3:GetObject", "s3:PutObject"];
                json!([
                    list,
                    allow(&actions, &[&below(bucket, files)]),
                    allow(&manifest_actions, &[&below(bucket, manifests)]),
                    keys,
                ])
            }
            Self::Copy { source_bucket, source_prefix, bucket, prefix } => json!([
                allow(&["s3:GetObject", "s3:GetObjectVersion"], &[&below(source_bucket, source_prefix)]),
                // GetObject on the target lets the copier look at the object that it would overwrite, if the role allows
                // that.
                allow(&["s3:PutObject", "s3:PutObjectAcl", "s3:GetObject"], &[&below(bucket, prefix)]),
                keys,
            ]),
        };
        ascii(&json!({ "Version": "2012-10-17", "Statement": statements }).to_string())
    }
}

/// Escapes all characters beyond ASCII, because STS accepts none beyond U+00FF. In this JSON, they occur only in strings.
/// Source: STS API reference, AssumeRole, `Policy`.
fn ascii(json: &str) -> String {
    let mut ascii = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() {
            ascii.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                ascii.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    ascii
}

fn allow(actions: &[&str], resources: &[&str]) -> Value {
    json!({ "Effect": "Allow", "Action": actions, "Resource": resources })
}

/// Escapes the wildcards and variables of a policy. Source: IAM User Guide, "IAM policy elements:
/// Variables and tags".
fn literal(text: &str) -> String {
    let mut literal = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '*' | '?' | '$' => literal.extend(['$', '{', c, '}']),
            _ => literal.push(c),
        }
    }
    literal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(scope: &Scope, role: &str) -> Value {
        let text = scope.policy(&role.parse().expect("a role"));
        assert!(text.len() <= 2048, "STS takes no more: {}", text.len());
        assert!(text.is_ascii(), "{text}");
        serde_json::from_str(&text).expect("JSON")
    }

    #[test]
    fn a_session_is_narrowed_to_its_group() {
        let scope = Scope::LogGroup { region: "cn-north-1".into(), log_group_name: "g".repeat(512) };
        let policy = policy(&scope, "arn:aws-cn:iam::222222222222:role/x");
        let group = format!("arn:aws-cn:logs:cn-north-1:222222222222:log-group:{}", "g".repeat(512));
        assert_eq!(policy["Statement"][0]["Resource"], json!([group, format!("{group}:*")]));
        let actions = |scope: &Scope| {
            let policy = super::tests::policy(scope, "arn:aws:iam::222222222222:role/x");
            policy["Statement"][0]["Action"].to_string()
        };
        assert!(!actions(&scope).contains("Filter"), "a session that writes may not read");
        let reading = Scope::ReadLogGroup { region: "us-east-1".into(), log_group_name: "g".into() };
        assert_eq!(actions(&reading), "[\"logs:FilterLogEvents\"]");
    }

    #[test]
    fn a_compaction_is_narrowed_to_its_prefixes() {
        let scope = Scope::Compact {
            bucket: "theirs".into(),
            files: "logs/tenant=acme/".into(),
            manifests: "logs/manifests/".into(),
        };
        let policy = policy(&scope, "arn:aws:iam::222222222222:role/x");
        let statements = &policy["Statement"];
        assert_eq!(statements[0]["Resource"], json!(["arn:aws:s3:::theirs"]));
        assert_eq!(statements[0]["Action"], json!(["s3:ListBucket"]));
        assert_eq!(
            statements[0]["Condition"],
            json!({ "StringLike": { "s3:prefix": ["logs/tenant=acme/*", "logs/manifests/*"] } })
        );
        assert_eq!(statements[1]["Resource"], json!(["arn:aws:s3:::theirs/logs/tenant=acme/*"]));
        assert_eq!(statements[2]["Resource"], json!(["arn:aws:s3:::theirs/logs/manifests/*"]));
        assert!(!statements[2]["Action"].to_string().contains("Delete"), "a manifest is never deleted");
    }

    #[test]
    fn a_copy_is_narrowed_to_its_prefixes() {
        let check = |source_prefix: &str, prefix: &str, from: &str, to: &str| {
            let scope = Scope::Copy {
                source_bucket: "staging".into(),
                source_prefix: source_prefix.into(),
                bucket: "theirs".into(),
                prefix: prefix.into(),
            };
            let policy = policy(&scope, "arn:aws-us-gov:iam::222222222222:role/x");
            assert_eq!(
                policy["Statement"][0]["Resource"],
                json!([format!("arn:aws-us-gov:s3:::staging/{from}")])
            );
            assert_eq!(
                policy["Statement"][1]["Resource"],
                json!([format!("arn:aws-us-gov:s3:::theirs/{to}")])
            );
        };
        check("acme/", "ROSA/cluster-logs/acme/", "acme/*", "ROSA/cluster-logs/acme/*");
        check("日本/", "é😀/", "日本/*", "é😀/*");
        // A wildcard or variable in a prefix does not widen the policy.
        check("*/", "a?b${aws:username}/", "${*}/*", "a${?}b${$}{aws:username}/*");
    }
}
