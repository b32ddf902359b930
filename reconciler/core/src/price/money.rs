//! Amounts and sums of money, exactly: none of it is ever a floating-point number.

use std::fmt;
use std::str::FromStr;

const MILLIONTHS: u64 = 1_000_000;
const DIGITS_OF_MILLIONTHS: usize = 6;

/// A sum in the project's currency, in millionths: an hour's price is a small part of a cent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Money(u64);

/// How much there is of what is paid for, in millionths: a snapshot is of a part of a GB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Amount(u64);

impl Money {
    /// Saturates.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Saturates; what is below a millionth is cut off.
    #[must_use]
    pub fn times(self, amount: Amount) -> Self {
        let product = u128::from(self.0) * u128::from(amount.0) / u128::from(MILLIONTHS);
        Self(product.try_into().unwrap_or(u64::MAX))
    }
}

impl From<u32> for Amount {
    fn from(count: u32) -> Self {
        Self(u64::from(count) * MILLIONTHS)
    }
}

/// `4.9900000000`, as Hetzner writes it; what is below a millionth is cut off.
impl FromStr for Money {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        millionths(text).map(Self).ok_or("is no sum of money")
    }
}

/// `2.3`; what is below a millionth is cut off.
impl FromStr for Amount {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        millionths(text).map(Self).ok_or("is no amount")
    }
}

fn millionths(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(part) {
        return None;
    }
    let part: String = part
        .chars()
        .chain(std::iter::repeat('0'))
        .take(DIGITS_OF_MILLIONTHS)
        .collect();
    let whole: u64 = whole.parse().ok()?;
    whole
        .checked_mul(MILLIONTHS)?
        .checked_add(part.parse().ok()?)
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

    #[test]
    fn a_part_of_a_gigabyte_is_paid_in_part() {
        let price: Money = "0.011".parse().unwrap();
        let all = price.times("200.5".parse().unwrap());
        assert_eq!(all, "2.2055".parse().unwrap());
        let most = Money(u64::MAX).times(2.into());
        assert_eq!(most, Money(u64::MAX));
    }
}
