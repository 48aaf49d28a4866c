//! Which addresses keys may be fetched from.
//!
//! It is asked about the address of each connection, after names were looked
//! up, so that neither a name nor a redirect gets around it.

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Addresses at which clouds tell machines their secrets, beyond the link-local
/// ones.
const METADATA: [(IpAddr, u8); 2] = [
    // Alibaba Cloud.
    (IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)), 32),
    // AWS.
    (IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0)), 32),
];

/// Says which addresses may be asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// `BLOCKED_CIDRS_IN_JWKS_URIS`.
    pub blocked: Vec<IpNet>,
    /// Whether the machine itself may be asked. Its pages for administrators
    /// trust whoever is on it, so only where there is no cluster.
    pub loopback: bool,
}

impl Guard {
    /// Whether an address may be asked, or why not.
    pub fn check(&self, address: IpAddr) -> Result<(), String> {
        for address in meanings(address) {
            let refused = |what: &str| Err(format!("{address} {what}"));
            if !self.loopback && address.is_loopback() {
                return refused("is the control plane's own machine");
            }
            // To connect to the unspecified address is to connect to oneself.
            if address.is_unspecified() || address.is_multicast() || is_broadcast(address) {
                return refused("is no address of a server");
            }
            if is_link_local(address) {
                return refused("is link-local, where clouds have their metadata");
            }
            let metadata = METADATA.iter().filter_map(|(network, length)| IpNet::new(*network, *length).ok());
            if metadata.into_iter().any(|network| network.contains(&address)) {
                return refused("is where a cloud has its metadata");
            }
            if let Some(network) = self.blocked.iter().find(|network| network.contains(&address)) {
                return refused(&format!("is in {network}, which BLOCKED_CIDRS_IN_JWKS_URIS has"));
            }
        }
        Ok(())
    }
}

/// An address, and the IPv4 address that it stands for.
fn meanings(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let inner = match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => inner(v6).map(IpAddr::V4),
    };
    [Some(address), inner].into_iter().flatten()
}

/// The IPv4 address inside one of IPv6: mapped (`::ffff:0:0/96`), compatible
/// (`::/96`), behind NAT64 (`64:ff9b::/96`), or of 6to4 (`2002::/16`).
fn inner(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let of = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => Some(of(high, low)),
        _ => None,
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn is_broadcast(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if address.is_broadcast())
}
