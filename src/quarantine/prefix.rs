//! The configured start of the keys of quarantine files.

use super::file::{MAX_PREFIX_BYTES, MAX_TENANT_BYTES};

/// Start of the keys of quarantine files: a text with one place for the tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuarantinePrefix {
    before: String,
    after: String,
}

impl QuarantinePrefix {
    /// The default: a folder for each tenant.
    pub const DEFAULT: &'static str = "quarantine/{tenant}/";

    /// Parses a prefix such as `quarantine/{tenant}/`.
    ///
    /// # Errors
    /// The prefix does not have exactly one place for the tenant, or is not legal at the start of a key.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parts = text.split_once("{tenant}").filter(|(before, after)| {
            let literal = |text: &str| !text.contains(['{', '}']);
            literal(before) && literal(after)
        });
        let Some((before, after)) = parts else {
            return Err(format!("{text:?} must contain {{tenant}} exactly once, and no other braces"));
        };
        if text.starts_with('/') || !text.ends_with('/') {
            return Err(format!("{text:?} must end with a slash and not begin with one"));
        }
        if text.chars().any(char::is_control) || text.split('/').any(|part| part == "..") {
            return Err(format!("{text:?} has a control character or a part \"..\""));
        }
        if text.len() > MAX_PREFIX_BYTES {
            return Err(format!("{text:?} is longer than {MAX_PREFIX_BYTES} bytes"));
        }
        Ok(Self { before: before.to_owned(), after: after.to_owned() })
    }

    /// Fills in the tenant, which is shortened if it is very long.
    pub fn render(&self, tenant_id: &str) -> String {
        let tenant_id = &tenant_id[..tenant_id.floor_char_boundary(MAX_TENANT_BYTES)];
        [&self.before, tenant_id, &self.after].concat()
    }
}
