//! Which ServiceEntries get addresses from the control plane, and which they
//! have. Who gets which address is decided, and written into `status.addresses`,
//! by the controller of that name; here is what it knows.
//! <https://istio.io/latest/docs/ops/configuration/traffic-management/dns-proxy/#address-auto-allocation>

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{Ipv4Net, Ipv6Net};

use crate::api::ObjectKey;
use crate::api::compact::Uid;
use crate::api::istio::{AllocatedAddress, ServiceEntry};
use crate::graph::{Collection, Graph};

use super::Scope;
use super::service::parse_range;

/// The label with which an entry does without, if it is `false`.
const LABEL: &str = "networking.istio.io/enable-autoallocate-ip";

/// Where addresses are taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pools {
    /// Those of IPv4.
    pub v4: Ipv4Net,
    /// Those of IPv6.
    pub v6: Ipv6Net,
}

impl Default for Pools {
    /// istiod's own: `240.240.0.0/16` and `2001:2::/48`.
    fn default() -> Self {
        Self {
            v4: Ipv4Net::new_assert(Ipv4Addr::new(240, 240, 0, 0), 16),
            v6: Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0), 48),
        }
    }
}

impl Pools {
    fn contain(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.v4.contains(&address),
            IpAddr::V6(address) => self.v6.contains(&address),
        }
    }
}

/// What is known of one ServiceEntry.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Which object of its name it is.
    pub uid: Uid,
    /// When it was made: of two that have one address, the older keeps it.
    pub created: u32,
    /// The hosts that want addresses, in their order, each once.
    pub hosts: Box<[Arc<str>]>,
    /// What its status says.
    pub allocated: Box<[AllocatedAddress]>,
    /// Addresses out of the pools that its user chose.
    pub chosen: Box<[IpAddr]>,
}

/// The entries that have to do with it, by name.
pub type Entries = imbl::OrdMap<ObjectKey, Arc<Entry>>;

/// Declares what is known of the ServiceEntries of all revisions, in the
/// namespaces that are looked at: addresses are unique in the cluster, so one
/// control plane decides for all, as with istiod.
pub fn entries(graph: &mut Graph, scope: &Scope) -> Collection<ObjectKey, Entry> {
    let scope = scope.clone();
    graph.derive("auto_allocation_entries", scope.inputs.service_entries, move |cx, key: &ObjectKey, one| {
        let pools = scope.settings.auto_allocation.as_ref()?;
        let entry = entry(one, pools)?;
        scope.discovers(cx, &key.namespace).then(|| (key.clone(), entry))
    })
}

/// What is known of an entry; nothing if it neither wants nor has an address
/// that matters.
pub fn entry(one: &ServiceEntry, pools: &Pools) -> Option<Entry> {
    let ServiceEntry { meta, spec, status, .. } = one;
    let hosts = spec.hosts.iter().enumerate().filter(|(at, host)| !spec.hosts[..*at].contains(host));
    let hosts = match asks(one) {
        true => hosts.map(|(_, host)| host).filter(|host| suits(one, host)).cloned().collect(),
        false => [].into(),
    };
    let chosen = spec.addresses.iter().filter_map(|text| {
        let range = parse_range(text)?;
        (range.prefix_len() == range.max_prefix_len()).then(|| range.addr().to_canonical())
    });
    let entry = Entry {
        uid: meta.uid.clone(),
        created: meta.created,
        hosts,
        allocated: status.addresses.clone(),
        chosen: chosen.filter(|address| pools.contain(*address)).collect(),
    };
    let matters = !entry.hosts.is_empty() || !entry.allocated.is_empty() || !entry.chosen.is_empty();
    matters.then_some(entry)
}

/// Whether addresses are allocated to an entry: it has none of its own, proxies
/// do not pass connections on as they are, and no label says otherwise.
pub fn asks(entry: &ServiceEntry) -> bool {
    let opted_out = entry.meta.label(LABEL).is_some_and(|value| value.eq_ignore_ascii_case("false"));
    let passthrough = matches!(&*entry.spec.resolution, "" | "NONE");
    entry.spec.addresses.is_empty() && !passthrough && !opted_out
}

/// Whether a host of it can have an address. A wildcard host can only where
/// every name below it is resolved by a proxy.
pub fn suits(entry: &ServiceEntry, host: &str) -> bool {
    !host.starts_with('*') || &*entry.spec.resolution == "DYNAMIC_DNS"
}
