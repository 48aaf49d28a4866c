//! PeerAuthentication as policies for ztunnel, which knows no other way to
//! refuse plaintext: a DENY of callers without an identity.

use std::sync::Arc;

use fairway_proto::security as proto;
use proto::string_match::MatchType;

use crate::api::{Labels, ObjectKey};
use crate::graph::{Collection, Ctx, Graph};
use crate::model::peer_authentication::{Mode, Policy};
use crate::model::{Model, Scope};
use crate::xds::resource::Resource;

use super::authorization::row;

/// The policy that workloads without port exceptions name.
const STATIC_STRICT: &str = "istio_converted_static_strict";

/// What a PeerAuthentication comes to for the workloads it selects.
enum Effect {
    /// Plaintext is accepted.
    Open,
    /// Plaintext is refused.
    Strict,
    /// Plaintext is refused, but not on these ports.
    StrictExcept(Vec<u16>),
    /// Plaintext is refused on these ports.
    StrictOn(Vec<u16>),
}

fn effect(policy: &Policy, parent: Mode) -> Effect {
    let mode = if policy.mode == Mode::Unset { parent } else { policy.mode };
    let ports = |wanted: Mode| -> Vec<u16> {
        policy.ports.iter().filter(|(_, mode)| mode.inbound() == wanted).map(|(port, _)| *port).collect()
    };
    match mode.inbound() {
        Mode::Strict => match ports(Mode::Permissive) {
            ports if ports.is_empty() => Effect::Strict,
            ports => Effect::StrictExcept(ports),
        },
        Mode::Disable | Mode::Permissive | Mode::Unset => match ports(Mode::Strict) {
            ports if ports.is_empty() => Effect::Open,
            ports => Effect::StrictOn(ports),
        },
    }
}

/// The policies a workload names because of PeerAuthentication. Each of them
/// exists: reference and policy are decided by the same [`effect`].
pub(super) fn of_workload(
    cx: &Ctx<'_>,
    model: &Model,
    scope: &Scope,
    namespace: &Arc<str>,
    labels: &Labels,
) -> Option<String> {
    let policies = &model.peer_authentications;
    let parent = policies.namespace_mode(cx, scope, namespace);
    let own = policies.of_workload(cx, scope, namespace, labels);
    let strict = || format!("{}/{STATIC_STRICT}", scope.mesh(cx).root_namespace);
    match own.map(|(key, policy)| (key, effect(policy, parent))) {
        None if parent == Mode::Strict => Some(strict()),
        None | Some((_, Effect::Open)) => None,
        Some((_, Effect::Strict)) => Some(strict()),
        Some((key, Effect::StrictExcept(_) | Effect::StrictOn(_))) => {
            Some(format!("{}/{}", key.namespace, converted_name(key)))
        }
    }
}

fn converted_name(key: &ObjectKey) -> String {
    format!("converted_peer_authentication_{}", key.name)
}

/// The policy for workloads without exceptions. It is there as soon as any
/// PeerAuthentication is, and does nothing until a workload names it.
pub(super) fn static_strict(graph: &mut Graph, model: &Model) -> Collection<Arc<str>, Resource> {
    let policies = model.peer_authentications.policies;
    let any = graph.index(policies, |_: &ObjectKey, _: &Policy, keys| keys.push(()));
    let there = graph.group("peer_authentication_exists", any, |_, ()| Some(()));
    let model = model.clone();
    graph.derive("static_strict_policy", there, move |cx, (), ()| {
        let root = &model.scope().mesh(cx).root_namespace;
        let rules = vec![proto::Rule { clauses: vec![anonymous()] }];
        Some(row(deny(root, STATIC_STRICT.into(), rules)))
    })
}

/// The policies for workloads with port exceptions.
pub(super) fn converted(graph: &mut Graph, model: &Model) -> Collection<Arc<str>, Resource> {
    let model_of = model.clone();
    graph.derive("converted_peer_authentications", model.peer_authentications.policies, move |cx, key, policy| {
        let scope = model_of.scope();
        if policy.selector.is_none() || key.namespace == scope.mesh(cx).root_namespace {
            return None;
        }
        let parent = model_of.peer_authentications.namespace_mode(cx, scope, &key.namespace);
        let rules = match effect(policy, parent) {
            Effect::Open | Effect::Strict => return None,
            Effect::StrictExcept(ports) => {
                let exempt = ports.into_iter().map(|port| {
                    clause(proto::Match { not_destination_ports: vec![port.into()], ..Default::default() })
                });
                vec![proto::Rule { clauses: [anonymous()].into_iter().chain(exempt).collect() }]
            }
            Effect::StrictOn(ports) => {
                let strict = |port: u16| {
                    let port = proto::Match { destination_ports: vec![port.into()], ..Default::default() };
                    proto::Rule { clauses: vec![anonymous(), clause(port)] }
                };
                ports.into_iter().map(strict).collect()
            }
        };
        Some(row(deny(&key.namespace, converted_name(key), rules)))
    })
}

fn deny(namespace: &str, name: String, rules: Vec<proto::Rule>) -> proto::Authorization {
    proto::Authorization {
        name,
        namespace: namespace.to_string(),
        scope: proto::Scope::WorkloadSelector.into(),
        action: proto::Action::Deny.into(),
        rules,
        ..Default::default()
    }
}

/// A caller that did not prove who it is.
fn anonymous() -> proto::Clause {
    let presence = proto::StringMatch { match_type: Some(MatchType::Presence(())) };
    clause(proto::Match { not_principals: vec![presence], ..Default::default() })
}

fn clause(one: proto::Match) -> proto::Clause {
    proto::Clause { matches: vec![one] }
}
