//! Public addresses for servers.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// Hands out the host addresses of a range, the one that was free for longest first, as far as a
/// simple round can tell: a client must not find another server behind an address that it knows.
#[derive(Debug)]
pub struct AddressPool {
    range: Ipv4Net,
    taken: BTreeSet<Ipv4Addr>,
    last: Option<Ipv4Addr>,
}

impl AddressPool {
    pub const fn new(range: Ipv4Net) -> Self {
        Self {
            range,
            taken: BTreeSet::new(),
            last: None,
        }
    }

    /// The next free address; `None` when all are taken.
    pub fn take(&mut self) -> Option<Ipv4Addr> {
        let free = |address: &Ipv4Addr| !self.taken.contains(address);
        let after_last = self
            .range
            .hosts()
            .filter(|a| self.last.is_none_or(|last| *a > last))
            .find(free);
        let address = after_last.or_else(|| self.range.hosts().find(free))?;
        self.taken.insert(address);
        self.last = Some(address);
        Some(address)
    }

    pub fn release(&mut self, address: Ipv4Addr) {
        self.taken.remove(&address);
    }

    pub fn release_all(&mut self) {
        self.taken.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_back_only_after_a_round_through_the_range() {
        let mut pool = AddressPool::new("127.20.1.0/30".parse().unwrap());
        let (first, second) = (pool.take().unwrap(), pool.take().unwrap());
        assert_eq!(
            [first, second],
            [Ipv4Addr::new(127, 20, 1, 1), Ipv4Addr::new(127, 20, 1, 2)]
        );
        assert_eq!(pool.take(), None);
        pool.release(first);
        pool.release(second);
        assert_eq!(pool.take(), Some(first));
        pool.release(first);
        assert_eq!(pool.take(), Some(second));
    }
}
