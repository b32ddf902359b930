//! Amounts of money, exactly: none of it is ever a floating-point number.

use std::fmt;
use std::str::FromStr;

const MILLIONTHS: u64 = 1_000_000;
const DIGITS_OF_MILLIONTHS: usize = 6;

/// An amount of the project's currency, in millionths: an hour's price is a small part of a cent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Money(u64);

impl Money {
    /// Saturates.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Saturates.
    #[must_use]
    pub fn times(self, count: u32) -> Self {
        Self(self.0.saturating_mul(u64::from(count)))
    }
}

/// `4.9900000000`, as Hetzner writes it; what is below a millionth is cut off.
impl FromStr for Money {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const PROBLEM: &str = "is no amount of money";
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(part) {
            return Err(PROBLEM);
        }
        let part: String = part
            .chars()
            .chain(std::iter::repeat('0'))
            .take(DIGITS_OF_MILLIONTHS)
            .collect();
        let (whole, part): (u64, u64) = match (whole.parse(), part.parse()) {
            (Ok(whole), Ok(part)) => (whole, part),
            _ => return Err(PROBLEM),
        };
        let all = whole
            .checked_mul(MILLIONTHS)
            .and_then(|w| w.checked_add(part));
        all.map(Self).ok_or(PROBLEM)
    }
}

/// With two digits, rounded, as on a bill.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const CENT: u64 = MILLIONTHS / 100;
        let cents = self.0.saturating_add(CENT / 2) / CENT;
        f.pad(&format!("{}.{:02}", cents / 100, cents % 100))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_read_as_hetzner_writes_it_and_shown_in_cents() {
        let shown = |text: &str| text.parse::<Money>().map(|m| m.to_string());
        for (text, expected) in [
            ("4.9900000000", "4.99"),
            ("0.0110000000", "0.01"),
            ("0.0055", "0.01"),
            ("12", "12.00"),
            ("1.995", "2.00"),
        ] {
            assert_eq!(shown(text).as_deref(), Ok(expected), "{text}");
        }
        for text in ["", ".5", "-1", "1,5", "1.5x", "99999999999999999999"] {
            assert!(shown(text).is_err(), "{text}");
        }
    }
}
