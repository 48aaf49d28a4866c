//! The addresses that there are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use crate::model::auto_allocation::Pools;

/// The addresses of one pool, by number. The first one of the range, which
/// names the network, is not among them.
pub(super) struct Range {
    v4: bool,
    first: u128,
    size: u128,
    /// How many are in use.
    used: u128,
}

impl Range {
    /// Those of the pools: IPv4 and IPv6.
    pub(super) fn of(pools: &Pools) -> [Self; 2] {
        let Pools { v4, v6 } = pools;
        let first4 = u128::from(u32::from(Ipv4Net::network(v4)));
        let first6 = u128::from(Ipv6Net::network(v6));
        [Self::new(true, first4, 32 - v4.prefix_len()), Self::new(false, first6, 128 - v6.prefix_len())]
    }

    fn new(v4: bool, network: u128, bits: u8) -> Self {
        let size = 1_u128.checked_shl(bits.into()).map_or(u128::MAX, |all| all - 1);
        Self { v4, first: network.saturating_add(1), size, used: 0 }
    }

    /// Whether an address is of this family.
    pub(super) const fn is_of(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.v4
    }

    fn contains(&self, address: IpAddr) -> bool {
        let number = match address {
            IpAddr::V4(address) => u128::from(u32::from(address)),
            IpAddr::V6(address) => u128::from(address),
        };
        self.is_of(address) && number.checked_sub(self.first).is_some_and(|at| at < self.size)
    }

    fn address(&self, at: u128) -> IpAddr {
        let number = self.first + at;
        match self.v4 {
            // It is in an IPv4 range.
            true => IpAddr::V4(Ipv4Addr::from(number as u32)),
            false => IpAddr::V6(Ipv6Addr::from(number)),
        }
    }

    /// Notes that an address, of whatever pool, is in use now.
    pub(super) fn take(&mut self, address: IpAddr) {
        self.used += u128::from(self.contains(address));
    }

    /// Notes that it is not any more.
    pub(super) fn free(&mut self, address: IpAddr) {
        self.used -= u128::from(self.contains(address));
    }

    /// The first free address at or after a place, going round; none if there
    /// is none.
    pub(super) fn next(&self, hash: impl FnOnce() -> u128, is_free: impl Fn(&IpAddr) -> bool) -> Option<IpAddr> {
        if self.used >= self.size {
            return None;
        }
        let mut at = hash() % self.size;
        loop {
            let address = self.address(at);
            if is_free(&address) {
                return Some(address);
            }
            at = (at + 1) % self.size;
        }
    }
}
