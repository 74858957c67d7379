//! DynamoDB's numbers: decimals of up to 38 significant digits, compared exactly.

use std::cmp::Ordering;
use std::fmt;

use super::validation;
use crate::call::AwsError;

/// Largest number of significant digits.
const MAX_DIGITS: usize = 38;
/// Range of a number's magnitude as powers of ten; zero is always allowed.
const MAGNITUDES: std::ops::RangeInclusive<i64> = -130..=125;

/// `mantissa * 10^exponent`, without trailing zeros in the mantissa. Zero has the exponent 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number {
    mantissa: i128,
    exponent: i64,
}

impl Number {
    pub(super) fn parse(text: &str) -> Result<Self, AwsError> {
        let unreadable =
            || validation(format!("The parameter cannot be converted to a numeric value: {text}"));
        let (sign, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (-1, &text[1..]),
            Some(b'+') => (1, &text[1..]),
            _ => (1, text),
        };
        let (digits, exponent) = match unsigned.split_once(['e', 'E']) {
            // DynamoDB's range needs no more than an i32, and with an i32 the sum below cannot overflow.
            Some((digits, exponent)) => (digits, exponent.parse::<i32>().map_err(|_| unreadable())?),
            None => (unsigned, 0),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all = format!("{whole}{fraction}");
        if all.is_empty() || !all.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(unreadable());
        }
        let significant = all.trim_start_matches('0').trim_end_matches('0');
        if significant.len() > MAX_DIGITS {
            return Err(too_many_digits());
        }
        let trailing = all.len() - all.trim_end_matches('0').len();
        let mantissa = significant.parse::<i128>().unwrap_or(0);
        Self::checked(sign * mantissa, i64::from(exponent) - fraction.len() as i64 + trailing as i64)
    }

    /// Size of the number in bytes, as part of an item's size.
    pub(super) fn size(self) -> usize {
        self.digits().div_ceil(2) + 1
    }

    fn digits(self) -> usize {
        self.mantissa.unsigned_abs().checked_ilog10().map_or(1, |log| log as usize + 1)
    }

    /// Power of ten of the first digit.
    fn magnitude(self) -> i64 {
        self.exponent + self.digits() as i64 - 1
    }

    fn checked(mut mantissa: i128, mut exponent: i64) -> Result<Self, AwsError> {
        if mantissa == 0 {
            return Ok(Self { mantissa: 0, exponent: 0 });
        }
        while mantissa % 10 == 0 {
            mantissa /= 10;
            exponent += 1;
        }
        let number = Self { mantissa, exponent };
        if number.digits() > MAX_DIGITS {
            return Err(too_many_digits());
        }
        let out_of_range = |kind: &str, size: &str| {
            Err(validation(format!(
                "Number {kind}. Attempting to store a number with magnitude {size} than supported range"
            )))
        };
        match number.magnitude() {
            magnitude if magnitude > *MAGNITUDES.end() => out_of_range("overflow", "larger"),
            magnitude if magnitude < *MAGNITUDES.start() => out_of_range("underflow", "smaller"),
            _ => Ok(number),
        }
    }
}

fn too_many_digits() -> AwsError {
    validation("Attempting to store more than 38 significant digits in a Number")
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        let signs = self.mantissa.signum().cmp(&other.mantissa.signum());
        if signs.is_ne() || self.mantissa == 0 {
            return signs;
        }
        let magnitudes = self.magnitude().cmp(&other.magnitude()).then_with(|| {
            // The magnitudes are equal, so both mantissas have the same number of digits (at most 38) once they are aligned.
            let low = self.exponent.min(other.exponent);
            let aligned =
                |number: &Self| number.mantissa.unsigned_abs() * 10_u128.pow((number.exponent - low) as u32);
            aligned(self).cmp(&aligned(other))
        });
        if self.mantissa < 0 { magnitudes.reverse() } else { magnitudes }
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Number {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.mantissa.unsigned_abs().to_string();
        if self.mantissa < 0 {
            formatter.write_str("-")?;
        }
        if self.exponent >= 0 {
            return write!(formatter, "{digits}{}", "0".repeat(self.exponent.unsigned_abs() as usize));
        }
        let decimals = self.exponent.unsigned_abs() as usize;
        let padded = format!("{digits:0>width$}", width = decimals + 1);
        let (whole, fraction) = padded.split_at(padded.len() - decimals);
        write!(formatter, "{whole}.{fraction}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Number {
        Number::parse(text).expect(text)
    }

    #[test]
    fn numbers_are_normalised() {
        for (given, expected) in [
            ("0", "0"),
            ("-0.00", "0"),
            ("0e9", "0"),
            ("1.50", "1.5"),
            ("+007", "7"),
            ("1e3", "1000"),
            ("-12.5E-2", "-0.125"),
            (".5", "0.5"),
            ("1795313284000", "1795313284000"),
            ("99999999999999999999999999999999999999", "99999999999999999999999999999999999999"),
        ] {
            assert_eq!(number(given).to_string(), expected);
        }
        assert_eq!(number("1e125").to_string().len(), 126);
    }

    #[test]
    fn invalid_numbers_are_refused() {
        for bad in ["", "-", ".", "1.2.3", "abc", "1e", " 1", "0x1", "1_000", "NaN", "é", "1e99999999999"] {
            let error = Number::parse(bad).expect_err(bad);
            assert!(error.message.starts_with("The parameter cannot be converted"), "{bad}");
        }
        for bad in ["1e126", "1e-131", "123456789012345678901234567890123456789"] {
            assert_eq!(Number::parse(bad).expect_err(bad).code, "ValidationException");
        }
    }

    #[test]
    fn numbers_are_ordered_as_decimals() {
        let ascending =
            ["-1e100", "-10", "-9.5", "-1e-100", "0", "1e-130", "0.5", "9", "9.01", "10", "1e125"];
        for pair in ascending.windows(2) {
            assert!(number(pair[0]) < number(pair[1]), "{pair:?}");
            assert!(number(pair[1]) > number(pair[0]), "{pair:?}");
        }
        assert_eq!(number("1.0").cmp(&number("1")), Ordering::Equal);
    }
}
