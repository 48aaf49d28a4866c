//! Which endpoints of a service a proxy prefers, by where they and it are.
//! Envoy takes the first priority for as long as enough of it is healthy.
//! <https://istio.io/latest/docs/tasks/traffic-management/locality-load-balancing/>
//! <https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/load_balancing/priority>

#[cfg(test)]
mod tests;

use std::sync::Arc;

use envoy_types::pb::envoy::config::endpoint::v3::LbEndpoint;

use crate::api::destination_rule::{Distribute, Failover, LocalityLbSetting};
use crate::api::mesh::MeshConfig;
use crate::model::destination_rule::Policy;
use crate::model::endpoint::{Endpoint, Locality};
use crate::model::service::{Distribution, Service};
use crate::proxy::Place;

/// The labels of what a place is in, besides those that it has itself.
const NETWORK: &str = "topology.istio.io/network";
const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";
const SUBZONE: &str = "topology.istio.io/subzone";
const HOSTNAME: &str = "kubernetes.io/hostname";

/// Which endpoints are preferred.
#[derive(Clone, Debug, PartialEq)]
pub enum Preference<'a> {
    /// All are equal.
    None,
    /// Shares of traffic by locality.
    Shares(&'a [Distribute]),
    /// An order.
    Order {
        /// The more of these labels are equal, from the first, the better. One
        /// may be given as `key=value`.
        labels: Vec<&'a str>,
        /// After that, the nearer the better; regions that stand in for others
        /// come before the rest. `None` if nearness plays no part.
        regions: Option<&'a [Failover]>,
    },
}

impl<'a> Preference<'a> {
    /// What a policy and a service prefer: the rule's own setting, else the
    /// service's distribution, else the mesh's setting. An order is of no use
    /// where nobody notices that an endpoint fails; a service's distribution
    /// goes by readiness.
    pub fn of(policy: &Policy<'a>, service: &Service, mesh: &'a MeshConfig) -> Self {
        let watched = policy.outlier_detection.is_some() || mesh.default_traffic_policy.outlier_detection.is_some();
        if let Some(settings) = policy.load_balancer {
            // Zones are balanced by Envoys that know of their siblings.
            if settings.zone_aware_lb_setting.is_some() {
                return Self::None;
            }
            if let Some(setting) = &settings.locality_lb_setting {
                return Self::of_setting(setting, watched);
            }
        }
        let near = [NETWORK, REGION, ZONE, SUBZONE, HOSTNAME];
        match service.distribution {
            Distribution::PreferSameZone => return Self::Order { labels: near[..3].to_vec(), regions: None },
            Distribution::PreferSameNode => return Self::Order { labels: near.to_vec(), regions: None },
            Distribution::Any | Distribution::LocalNode | Distribution::Passthrough => {}
        }
        if mesh.zone_aware_lb_setting.is_some() {
            return Self::None;
        }
        Self::of_setting(&mesh.locality_lb_setting, watched)
    }

    fn of_setting(setting: &'a LocalityLbSetting, watched: bool) -> Self {
        let LocalityLbSetting { distribute, failover, failover_priority, enabled } = setting;
        if *enabled == Some(false) {
            return Self::None;
        }
        if !distribute.is_empty() {
            return Self::Shares(distribute);
        }
        if !watched {
            return Self::None;
        }
        let labels: Vec<_> = failover_priority.iter().map(|label| &**label).collect();
        let regions = (labels.is_empty() || !failover.is_empty()).then_some(&**failover);
        Self::Order { labels, regions }
    }

    /// Whether an Envoy has to heed the weights of localities.
    pub fn weighted(&self) -> bool {
        match self {
            Self::None => false,
            Self::Shares(_) => true,
            Self::Order { labels, regions } => {
                !labels.is_empty() || regions.is_some_and(|failover| !failover.is_empty())
            }
        }
    }
}

/// Endpoints of one locality that are equally preferred.
#[derive(Debug)]
pub struct Group<'a> {
    /// Where they are.
    pub locality: &'a Locality,
    /// The lower, the better.
    pub priority: u32,
    /// Their share of traffic together.
    pub weight: u32,
    /// The endpoints.
    pub endpoints: Vec<(&'a Endpoint, LbEndpoint)>,
}

impl<'a> Group<'a> {
    /// Those of a locality.
    pub fn new(locality: &'a Locality, endpoints: Vec<(&'a Endpoint, LbEndpoint)>) -> Self {
        let weight = endpoints.iter().fold(0_u32, |sum, (endpoint, _)| sum.saturating_add(endpoint.weight));
        Self { locality, priority: 0, weight, endpoints }
    }
}

/// The groups as a proxy at `place` prefers them.
pub fn arranged<'a>(groups: Vec<Group<'a>>, preference: &Preference<'_>, place: &Place) -> Vec<Group<'a>> {
    match preference {
        Preference::None => groups,
        Preference::Shares(distribute) => shared(groups, distribute, place),
        Preference::Order { labels, regions } => {
            let mut groups = groups;
            if !labels.is_empty() {
                groups = groups.into_iter().flat_map(|group| by_labels(group, labels, place)).collect();
            }
            if let Some(failover) = regions {
                for group in &mut groups {
                    // There are five steps of nearness.
                    group.priority = group.priority * 5 + distance(group.locality, failover, place);
                }
            }
            without_gaps(&mut groups);
            groups
        }
    }
}

/// Envoy wants priorities that begin with 0 and leave none out.
fn without_gaps(groups: &mut [Group<'_>]) {
    let mut priorities: Vec<_> = groups.iter().map(|group| group.priority).collect();
    priorities.sort_unstable();
    priorities.dedup();
    for group in groups {
        group.priority = priorities.partition_point(|priority| *priority < group.priority) as u32;
    }
}

/// The shares that are set for the place. Localities without one get nothing;
/// if there are none for the place, all stays as it is.
fn shared<'a>(groups: Vec<Group<'a>>, distribute: &[Distribute], place: &Place) -> Vec<Group<'a>> {
    let own = [&*place.region, &*place.zone, &*place.subzone];
    let Some(shares) = distribute.iter().find(|one| covers(&one.from, own)).map(|one| &one.to) else { return groups };
    // Whoever is named more closely counts as that only.
    let mut patterns: Vec<_> = shares.iter().collect();
    patterns.sort_by_key(|(pattern, _)| (std::cmp::Reverse(pattern.matches('/').count()), pattern.contains('*')));
    let of = |group: &Group<'_>| {
        let Locality { region, zone, subzone } = group.locality;
        patterns.iter().position(|(pattern, _)| covers(pattern, [region, zone, subzone]))
    };
    let mut totals = vec![0_u64; patterns.len()];
    for group in &groups {
        if let Some(at) = of(group) {
            totals[at] += u64::from(group.weight);
        }
    }
    let share = |mut group: Group<'a>| {
        let at = of(&group)?;
        let weight = (u64::from(group.weight) * u64::from(*patterns[at].1)).div_ceil(totals[at].max(1));
        group.weight = u32::try_from(weight).unwrap_or(u32::MAX);
        (group.weight > 0).then_some(group)
    };
    groups.into_iter().filter_map(share).collect()
}

/// Whether a locality as a rule writes it stands for another; `*` and parts
/// that are missing are any.
fn covers(pattern: &str, locality: [&str; 3]) -> bool {
    let mut parts = pattern.split('/');
    let region = parts.next().unwrap_or_default();
    let is = |part: &str, own: &str| part == "*" || part == own;
    let any = |part: Option<&str>, own: &str| part.is_none_or(|part| part.is_empty() || is(part, own));
    is(region, locality[0]) && any(parts.next(), locality[1]) && any(parts.next(), locality[2])
}

/// Parts of a group by how many labels are equal to those of the place.
fn by_labels<'a>(group: Group<'a>, labels: &[&str], place: &Place) -> Vec<Group<'a>> {
    let mut parts: std::collections::BTreeMap<u32, Vec<_>> = std::collections::BTreeMap::new();
    for (endpoint, lb) in group.endpoints {
        parts.entry(rank(endpoint, labels, place)).or_default().push((endpoint, lb));
    }
    let locality = group.locality;
    let part = |(priority, endpoints)| Group { priority, ..Group::new(locality, endpoints) };
    parts.into_iter().map(part).collect()
}

/// The labels of an endpoint compared with those of the place, in order; those
/// after the first difference do not count. Another network only makes an
/// endpoint worse than all of the place's own.
fn rank(endpoint: &Endpoint, labels: &[&str], place: &Place) -> u32 {
    let all = labels.len() as u32;
    let mut elsewhere = 0;
    for (at, label) in labels.iter().enumerate() {
        let (name, wanted) = match label.split_once('=') {
            Some((name, value)) => (name, value),
            None => (*label, of_place(place, label)),
        };
        if wanted == of_endpoint(endpoint, name) {
            continue;
        }
        if at == 0 && name == NETWORK {
            elsewhere = all;
            continue;
        }
        return elsewhere + all - at as u32;
    }
    elsewhere
}

fn of_place<'a>(place: &'a Place, label: &str) -> &'a str {
    let known = match label {
        // It is on the cluster's, which has no name here.
        NETWORK => return "",
        REGION => &place.region,
        ZONE => &place.zone,
        SUBZONE => &place.subzone,
        HOSTNAME => &place.node,
        _ => return place.label(label).unwrap_or_default(),
    };
    if known.is_empty() { place.label(label).unwrap_or_default() } else { known }
}

fn of_endpoint<'a>(endpoint: &'a Endpoint, label: &str) -> &'a str {
    let own = || endpoint.labels.get(label).unwrap_or_default();
    let known: &Arc<str> = match label {
        REGION => &endpoint.locality.region,
        ZONE => &endpoint.locality.zone,
        SUBZONE => &endpoint.locality.subzone,
        HOSTNAME => &endpoint.node,
        NETWORK => &endpoint.network,
        _ => return own(),
    };
    if known.is_empty() { own() } else { known }
}

/// How far a locality is: 0 in the same subzone, 1 in the same zone, 2 in the
/// same region, 3 elsewhere, 4 where another region stands in for the place's.
fn distance(locality: &Locality, failover: &[Failover], place: &Place) -> u32 {
    if locality.region != place.region {
        let stand_in = failover.iter().find(|one| one.from == place.region);
        return if stand_in.is_some_and(|one| one.to != locality.region) { 4 } else { 3 };
    }
    match (locality.zone == place.zone, locality.subzone == place.subzone) {
        (true, true) => 0,
        (true, false) => 1,
        (false, _) => 2,
    }
}
