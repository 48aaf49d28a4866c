//! Rules that other virtual services have the rest of.
//! <https://istio.io/latest/docs/reference/config/networking/virtual-service/#Delegate>

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Problem;
use crate::api::virtual_service::{Destination, HttpMatchRequest, HttpRoute, StringMatch, VirtualService};
use crate::api::{Labels, ObjectKey};
use crate::model::by_host;

/// The most matches that two rules may have together.
const MOST_MATCHES: usize = 4096;

/// The rules of a virtual service with those of its delegates in place.
#[derive(Debug, Default, PartialEq)]
pub struct Resolved {
    /// The rules. Their destinations are full host names.
    pub http: Vec<HttpRoute>,
    /// For each rule, the index of the root's rule it is from.
    pub origins: Vec<usize>,
    /// What has no effect, by the root's rules.
    pub problems: Vec<Problem>,
}

/// The rules of a virtual service, given how to find another one that it may
/// see. A rule whose delegate is not there vanishes, as there is nothing it
/// could do.
pub fn resolve<'a>(
    root: &VirtualService,
    domain: &str,
    find: &dyn Fn(&ObjectKey) -> Option<&'a VirtualService>,
) -> Resolved {
    let mut resolved = Resolved::default();
    for (rule, http) in root.spec.http.iter().enumerate() {
        let own = qualified_route(http, &root.meta.namespace, domain);
        let Some(delegate) = &http.delegate else {
            resolved.http.push(own);
            resolved.origins.push(rule);
            continue;
        };
        let mut note = |field: &str, reason, message: String| {
            resolved.problems.push(Problem { rule, field: field.to_owned(), reason, message });
        };
        let namespace = if delegate.namespace.is_empty() { &root.meta.namespace } else { &delegate.namespace };
        let key = ObjectKey { namespace: namespace.clone(), name: delegate.name.clone() };
        // One with hosts is a root of its own.
        let Some(found) = find(&key).filter(|found| found.spec.hosts.is_empty()) else {
            let message = format!("there is no virtual service {key} without hosts that is exported to this one");
            note("delegate", "InvalidReference", message);
            continue;
        };
        for (index, rest) in found.spec.http.iter().enumerate() {
            if rest.delegate.is_some() {
                note(
                    "delegate",
                    "UnsupportedValue",
                    format!("{key} delegates http[{index}] further; the rule is left out"),
                );
                continue;
            }
            match merged(&own, &qualified_route(rest, namespace, domain)) {
                Some(merged) => {
                    resolved.http.push(merged);
                    resolved.origins.push(rule);
                }
                None => {
                    let message = format!("http[{index}] of {key} matches what this rule does not; it is left out");
                    note("match", "Conflict", message);
                }
            }
        }
    }
    resolved
}

fn qualified_route(http: &HttpRoute, namespace: &str, domain: &str) -> HttpRoute {
    let mut http = http.clone();
    let qualify =
        |destination: &mut Destination| destination.host = by_host::resolve(&destination.host, namespace, domain);
    http.route.iter_mut().for_each(|one| qualify(&mut one.destination));
    http.mirror.iter_mut().for_each(qualify);
    http.mirrors.iter_mut().for_each(|one| qualify(&mut one.destination));
    http
}

/// A delegate's rule under that of its root: it matches what both match, and
/// the root says what the delegate does not.
fn merged(root: &HttpRoute, delegate: &HttpRoute) -> Option<HttpRoute> {
    let HttpRoute { rewrite, direct_response, timeout, retries, fault, mirror, .. } = delegate.clone();
    Some(HttpRoute {
        name: joined(&root.name, &delegate.name),
        matches: merged_matches(&root.matches, &delegate.matches)?,
        rewrite: rewrite.or_else(|| root.rewrite.clone()),
        direct_response: direct_response.or_else(|| root.direct_response.clone()),
        timeout: timeout.or(root.timeout),
        retries: retries.or_else(|| root.retries.clone()),
        fault: fault.or_else(|| root.fault.clone()),
        mirror: mirror.or_else(|| root.mirror.clone()),
        mirrors: if delegate.mirrors.is_empty() { root.mirrors.clone() } else { delegate.mirrors.clone() },
        mirror_percent: delegate.mirror_percent.or(root.mirror_percent),
        mirror_percentage: delegate.mirror_percentage.or(root.mirror_percentage),
        cors_policy: delegate.cors_policy.clone().or_else(|| root.cors_policy.clone()),
        headers: delegate.headers.clone().or_else(|| root.headers.clone()),
        ..delegate.clone()
    })
}

fn joined(root: &Arc<str>, delegate: &Arc<str>) -> Arc<str> {
    match (root.is_empty(), delegate.is_empty()) {
        (_, true) => root.clone(),
        (true, false) => delegate.clone(),
        (false, false) => format!("{root}-{delegate}").into(),
    }
}

/// The matches that are in both; none if one of the delegate's is in none of
/// the root's, as it would otherwise be wider than it was meant to be.
fn merged_matches(root: &[HttpMatchRequest], delegate: &[HttpMatchRequest]) -> Option<Vec<HttpMatchRequest>> {
    if root.is_empty() || delegate.is_empty() {
        return Some([root, delegate].concat());
    }
    if root.len().saturating_mul(delegate.len()) > MOST_MATCHES {
        return None;
    }
    let mut matches = Vec::new();
    for leaf in delegate {
        let before = matches.len();
        matches.extend(root.iter().filter_map(|root| merged_match(root, leaf)));
        if matches.len() == before {
            return None;
        }
    }
    Some(matches)
}

/// What matches both; none if that cannot be said in one match.
fn merged_match(root: &HttpMatchRequest, leaf: &HttpMatchRequest) -> Option<HttpMatchRequest> {
    if !root.unknown.is_empty() || !leaf.unknown.is_empty() || root.ignore_uri_case != leaf.ignore_uri_case {
        return None;
    }
    let port = match (root.port, leaf.port) {
        (0, port) | (port, 0) => port,
        (root, leaf) => (root == leaf).then_some(root)?,
    };
    if !root.source_namespace.is_empty() && root.source_namespace != leaf.source_namespace {
        return None;
    }
    if leaf.source_labels.iter().any(|(key, value)| root.source_labels.get(key).is_some_and(|other| other != value)) {
        return None;
    }
    let gateways = match (root.gateways.is_empty(), leaf.gateways.is_empty()) {
        (_, true) => &root.gateways,
        (true, false) => &leaf.gateways,
        (false, false) => Some(&leaf.gateways).filter(|leaf| leaf.iter().all(|one| root.gateways.contains(one)))?,
    };
    let source_labels: Labels = root.source_labels.overlaid(&leaf.source_labels);
    Some(HttpMatchRequest {
        name: joined(&root.name, &leaf.name),
        uri: narrower(root.uri.as_ref(), leaf.uri.as_ref())?,
        scheme: narrower(root.scheme.as_ref(), leaf.scheme.as_ref())?,
        method: narrower(root.method.as_ref(), leaf.method.as_ref())?,
        authority: narrower(root.authority.as_ref(), leaf.authority.as_ref())?,
        headers: narrower_map(&root.headers, &leaf.headers)?,
        query_params: narrower_map(&root.query_params, &leaf.query_params)?,
        without_headers: both(&root.without_headers, &leaf.without_headers)?,
        port,
        source_labels,
        gateways: gateways.clone(),
        stat_prefix: if leaf.stat_prefix.is_empty() { &root.stat_prefix } else { &leaf.stat_prefix }.clone(),
        ..leaf.clone()
    })
}

/// The delegate's condition, if it is within the root's.
fn narrower(root: Option<&StringMatch>, leaf: Option<&StringMatch>) -> Option<Option<StringMatch>> {
    use StringMatch::{Exact, Prefix};
    Some(match (root, leaf) {
        (root, None) => root.cloned(),
        (None, leaf) => leaf.cloned(),
        (Some(root), Some(leaf)) => {
            let within = match (root, leaf) {
                (Exact(root), Exact(leaf)) => root == leaf,
                (Prefix(root), Prefix(leaf) | Exact(leaf)) => leaf.starts_with(&**root),
                _ => false,
            };
            Some(within.then(|| leaf.clone())?)
        }
    })
}

type Matches = BTreeMap<Arc<str>, StringMatch>;

fn narrower_map(root: &Matches, leaf: &Matches) -> Option<Matches> {
    let mut all = root.clone();
    for (name, value) in leaf {
        all.insert(name.clone(), narrower(root.get(name), Some(value))??);
    }
    Some(all)
}

/// Exclusions of both. A narrower exclusion would be a wider match, so two of
/// one header have to be equal.
fn both(root: &Matches, leaf: &Matches) -> Option<Matches> {
    let conflict = leaf.iter().any(|(name, value)| root.get(name).is_some_and(|other| other != value));
    (!conflict).then(|| root.iter().chain(leaf).map(|(name, value)| (name.clone(), value.clone())).collect())
}
