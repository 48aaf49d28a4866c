//! Listeners that cannot be beside others on their port.
//! <https://gateway-api.sigs.k8s.io/reference/spec/#listenerset>

use std::collections::{BTreeMap, BTreeSet};

use crate::api::gateway::Listener;

use super::listener::port;

/// What is taken of a port.
#[derive(Default)]
struct Taken<'a> {
    /// By a protocol that knows no hosts.
    whole: bool,
    /// By protocols that know hosts: whether it is the one without TLS, which
    /// proxies cannot serve beside those with it.
    plain: Option<bool>,
    /// Hosts, and the protocol of each.
    hosts: BTreeMap<String, &'a str>,
    /// Protocols that are nobody's but the implementation's.
    others: BTreeSet<&'a str>,
}

/// For each of a gateway's listeners, those that come first in precedence first,
/// why it conflicts with one before, if it does. One that conflicts takes
/// nothing away from those after it.
pub(super) fn conflicts<'a>(listeners: impl Iterator<Item = &'a Listener>) -> Vec<Option<&'static str>> {
    let mut ports: BTreeMap<u16, Taken<'a>> = BTreeMap::new();
    let conflict = |listener: &'a Listener| {
        let taken = ports.entry(port(listener)).or_default();
        let protocol = &*listener.protocol;
        match protocol {
            "TCP" | "UDP" => {
                let free = !taken.whole && taken.hosts.is_empty();
                taken.whole |= free;
                (!free).then_some("ProtocolConflict")
            }
            "HTTP" | "HTTPS" | "TLS" => {
                let plain = protocol == "HTTP";
                if taken.whole || taken.plain.is_some_and(|other| other != plain) {
                    return Some("ProtocolConflict");
                }
                let host =
                    if listener.hostname.is_empty() { "*".into() } else { listener.hostname.to_ascii_lowercase() };
                match taken.hosts.get(&host) {
                    Some(other) if *other == protocol => Some("HostnameConflict"),
                    Some(_) => Some("ProtocolConflict"),
                    None => {
                        taken.plain = Some(plain);
                        taken.hosts.insert(host, protocol);
                        None
                    }
                }
            }
            other => (!taken.others.insert(other)).then_some("HostnameConflict"),
        }
    };
    listeners.map(conflict).collect()
}
