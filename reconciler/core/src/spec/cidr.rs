//! Address ranges in CIDR notation.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::fmt;

/// A range whose address has no bit set behind its prefix. IPv4 addresses are held as IPv6-mapped ones would be: by
/// their bits, with the family beside them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// Why a text is no range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CidrFault {
    Malformed,
    /// Bits are set behind the prefix; this is the range that they are in.
    HostBits(Cidr),
}

impl Cidr {
    pub fn parse(text: &str) -> Result<Self, CidrFault> {
        let (address, prefix) = text.split_once('/').ok_or(CidrFault::Malformed)?;
        let address: IpAddr = address.parse().map_err(|_| CidrFault::Malformed)?;
        let digits = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
        let prefix: u8 = prefix.parse().map_err(|_| CidrFault::Malformed)?;
        if !digits || prefix > family_bits(address) {
            return Err(CidrFault::Malformed);
        }
        let range = Self {
            address: network_address(address, prefix),
            prefix,
        };
        if range.address == address {
            Ok(range)
        } else {
            Err(CidrFault::HostBits(range))
        }
    }

    pub fn is_ipv4(self) -> bool {
        self.address.is_ipv4()
    }

    pub fn prefix(self) -> u8 {
        self.prefix
    }

    pub fn contains(self, other: Self) -> bool {
        self.is_ipv4() == other.is_ipv4()
            && self.prefix <= other.prefix
            && network_address(other.address, self.prefix) == self.address
    }

    pub fn holds(self, address: IpAddr) -> bool {
        self.is_ipv4() == address.is_ipv4() && network_address(address, self.prefix) == self.address
    }

    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other) || other.contains(self)
    }

    /// In one of the private ranges of RFC 1918.
    pub fn is_private(self) -> bool {
        ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]
            .into_iter()
            .filter_map(|range| Self::parse(range).ok())
            .any(|range| range.contains(self))
    }

    /// In a range that stands for examples, and that nobody has (RFC 5737, RFC 3849, RFC 9637).
    pub fn is_documentation(self) -> bool {
        [
            "192.0.2.0/24",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "2001:db8::/32",
            "3fff::/20",
        ]
        .into_iter()
        .filter_map(|range| Self::parse(range).ok())
        .any(|range| range.contains(self))
    }

    /// How many addresses it holds.
    pub fn size(self) -> u128 {
        let free = u32::from(family_bits(self.address) - self.prefix);
        1_u128.checked_shl(free).unwrap_or(u128::MAX)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

fn family_bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn network_address(address: IpAddr, prefix: u8) -> IpAddr {
    let prefix = u32::from(prefix);
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX
                .checked_shl(32_u32.saturating_sub(prefix))
                .unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX
                .checked_shl(128_u32.saturating_sub(prefix))
                .unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Cidr {
        Cidr::parse(text).unwrap()
    }

    #[test]
    fn a_range_knows_what_is_in_it() {
        assert!(range("10.0.0.0/16").contains(range("10.0.1.0/24")));
        assert!(!range("10.0.1.0/24").contains(range("10.0.0.0/16")));
        assert!(range("10.0.1.0/24").overlaps(range("10.0.0.0/8")));
        assert!(!range("10.42.0.0/16").overlaps(range("10.43.0.0/16")));
        assert!(range("0.0.0.0/0").contains(range("1.2.3.4/32")));
        assert!(!range("0.0.0.0/0").contains(range("::/0")));
        assert_eq!(range("10.0.1.0/24").size(), 256);
        assert_eq!(range("::/0").size(), u128::MAX);
    }

    #[test]
    fn what_stands_for_examples_is_told_from_what_somebody_has() {
        for example in ["203.0.113.7/32", "192.0.2.0/24", "2001:db8:1::/48"] {
            assert!(range(example).is_documentation(), "{example}");
        }
        for real in ["203.0.112.0/23", "127.0.0.0/8", "0.0.0.0/0", "::/0"] {
            assert!(!range(real).is_documentation(), "{real}");
        }
    }

    #[test]
    fn bits_behind_the_prefix_are_named_with_the_range_they_are_in() {
        assert_eq!(
            Cidr::parse("10.0.1.7/24"),
            Err(CidrFault::HostBits(range("10.0.1.0/24")))
        );
        for bad in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0/8",
            "10.0.0.0/+8",
            "::/129",
            "x/8",
        ] {
            assert_eq!(Cidr::parse(bad), Err(CidrFault::Malformed), "{bad}");
        }
    }
}
