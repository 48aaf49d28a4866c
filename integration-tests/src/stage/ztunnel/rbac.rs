//! Whether policies let a connection in, as ztunnel decides it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use fairway_proto::security::string_match::MatchType;
use fairway_proto::security::{Action, Address, Authorization, Match, Scope, ServiceAccountMatch, StringMatch};
use fairway_proto::workload::Workload;

use crate::ztunnel::table::Table;

/// A connection that wants in.
pub(super) struct Connection<'a> {
    /// Whose it is; nobody's in plain text.
    pub(super) peer: Option<&'a str>,
    /// Where it comes from.
    pub(super) source: Ipv4Addr,
    /// The address and port of the workload.
    pub(super) destination: SocketAddr,
}

/// Says why not.
pub(super) fn allowed(table: &Table, workload: &Workload, connection: &Connection<'_>) -> Result<(), String> {
    let applies = |policy: &&Authorization| match Scope::try_from(policy.scope) {
        Ok(Scope::Global) => true,
        Ok(Scope::Namespace) => policy.namespace == workload.namespace,
        // One that is not there protects nothing: a breach that the client notes.
        _ => workload.authorization_policies.contains(&format!("{}/{}", policy.namespace, policy.name)),
    };
    let policies: Vec<_> = table.policies.values().filter(applies).filter(|policy| !policy.dry_run).collect();
    let of = |action: Action| policies.iter().copied().filter(move |policy| policy.action == action as i32);
    if let Some(policy) = of(Action::Deny).find(|policy| matches(policy, connection)) {
        return Err(format!("explicitly denied by: {}/{}", policy.namespace, policy.name));
    }
    if of(Action::Allow).next().is_none() || of(Action::Allow).any(|policy| matches(policy, connection)) {
        return Ok(());
    }
    Err("allow policies exist, but none allowed".into())
}

/// Rules are alternatives, clauses add up, matches are alternatives.
fn matches(policy: &Authorization, connection: &Connection<'_>) -> bool {
    policy.rules.iter().any(|rule| {
        rule.clauses
            .iter()
            .all(|clause| clause.matches.is_empty() || clause.matches.iter().any(|one| match_one(one, connection)))
    })
}

fn match_one(one: &Match, connection: &Connection<'_>) -> bool {
    // An empty match matches nothing.
    if *one == Match::default() {
        return false;
    }
    let principal = connection.peer.map(|peer| peer.trim_start_matches("spiffe://"));
    let mut parts = principal.unwrap_or_default().split('/').skip(1);
    let (namespace, account) = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some("ns"), Some(namespace), Some("sa"), Some(account)) => (Some(namespace), Some(account)),
        _ => (None, None),
    };
    let is = |matchers: &[StringMatch], not: &[StringMatch], value: Option<&str>| {
        let any = |matchers: &[StringMatch]| value.is_some_and(|value| matchers.iter().any(|it| text(it, value)));
        (matchers.is_empty() || any(matchers)) && !any(not)
    };
    let accounts = |matchers: &[ServiceAccountMatch]| {
        let same =
            |it: &ServiceAccountMatch| namespace == Some(&*it.namespace) && account == Some(&*it.service_account);
        matchers.iter().any(same)
    };
    let within = |ranges: &[Address], ip: IpAddr| ranges.iter().any(|range| contains(range, ip));
    let (source, destination) = (IpAddr::V4(connection.source), connection.destination.ip());
    let port = u32::from(connection.destination.port());
    is(&one.principals, &one.not_principals, principal)
        && is(&one.namespaces, &one.not_namespaces, namespace)
        && (one.service_accounts.is_empty() || accounts(&one.service_accounts))
        && !accounts(&one.not_service_accounts)
        && (one.source_ips.is_empty() || within(&one.source_ips, source))
        && !within(&one.not_source_ips, source)
        && (one.destination_ips.is_empty() || within(&one.destination_ips, destination))
        && !within(&one.not_destination_ips, destination)
        && (one.destination_ports.is_empty() || one.destination_ports.contains(&port))
        && !one.not_destination_ports.contains(&port)
}

fn text(matcher: &StringMatch, value: &str) -> bool {
    match &matcher.match_type {
        Some(MatchType::Exact(exact)) => value == exact,
        Some(MatchType::Prefix(prefix)) => value.starts_with(prefix.as_str()),
        Some(MatchType::Suffix(suffix)) => value.ends_with(suffix.as_str()),
        Some(MatchType::Presence(())) => !value.is_empty(),
        None => false,
    }
}

fn contains(range: &Address, ip: IpAddr) -> bool {
    let ip = match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let bit = |bytes: &[u8], at: usize| bytes[at / 8] >> (7 - at % 8) & 1;
    range.address.len() == ip.len()
        && (0..range.length as usize).all(|at| at < ip.len() * 8 && bit(&range.address, at) == bit(&ip, at))
}

#[cfg(test)]
mod tests;
