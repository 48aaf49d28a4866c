//! What is known of BackendTLSPolicies: whether each of their targets is there,
//! and which gateways lead to it.
//! <https://gateway-api.sigs.k8s.io/reference/spec/#policystatus>

use std::sync::Arc;

use crate::api::backend_tls::{BackendTLSPolicy, BackendTarget};
use crate::api::route::{GROUP, ParentReference};
use crate::api::{Kind, ObjectKey, intern};
use crate::graph::{Collection, Ctx, Graph, Index};
use crate::model::backend_tls::{self, roots};
use crate::model::binding::WAYPOINT_CONTROLLER;
use crate::model::destination_rule::Client;
use crate::model::gateway::kubernetes::{CONTROLLER, Said, Verdict, parent};
use crate::model::secret::Known;
use crate::model::{Model, problem};

use super::{About, Facts, Target};

const KIND: &str = "BackendTLSPolicy";

type ByBackend = Index<ObjectKey, ObjectKey, Facts>;

pub(super) fn add(
    graph: &mut Graph,
    model: &Model,
    routes: &[(Kind, Collection<ObjectKey, Facts>)],
) -> (Kind, Collection<ObjectKey, Facts>) {
    let by_backend: Vec<ByBackend> = routes
        .iter()
        .map(|(_, facts)| {
            graph.index(*facts, |_: &ObjectKey, facts: &Facts, keys| {
                if let About::Route { backends, .. } = &facts.about {
                    keys.extend_from_slice(backends);
                }
            })
        })
        .collect();
    super::add(
        (graph, model),
        "backend_tls_policy_facts",
        Kind::BackendTLSPolicy,
        model.inputs.backend_tls_policies,
        |policy| &policy.meta,
        move |cx, model, policy| {
            let ours = model.scope().configures(cx, &policy.meta) && !backend_tls::ignored(&policy.meta);
            ours.then(|| About::Policy(targets(cx, model, policy, &by_backend)))
        },
    )
}

/// What a policy has an effect on: its targets, and the gateways that lead to
/// them. The targets come first, as there is not room for everything.
fn targets(cx: &Ctx<'_>, model: &Model, policy: &BackendTLSPolicy, by_backend: &[ByBackend]) -> Vec<Target> {
    let (resolved, usable) = references(cx, model, policy);
    if let Err(said) = &resolved {
        let field = "spec.validation.caCertificateRefs";
        cx.diagnose(problem(KIND, &policy.meta, field, said.reason, &*said.message));
    }
    let (mut targets, mut gateways): (Vec<Target>, Vec<Target>) = (Vec::new(), Vec::new());
    for (at, target) in policy.spec.target_refs.iter().enumerate() {
        let there = is_there(cx, model, policy, target);
        if let Err(said) = &there {
            let field = format!("spec.targetRefs[{at}]");
            cx.diagnose(problem(KIND, &policy.meta, field, said.reason, &*said.message));
        }
        let accepted = usable.clone().and(there);
        let named = |group: &Arc<str>, kind: &Arc<str>, key: &ObjectKey| ParentReference {
            group: group.clone(),
            kind: kind.clone(),
            name: key.name.clone(),
            ..ParentReference::default()
        };
        let own = ObjectKey { namespace: policy.meta.namespace.clone(), name: target.name.clone() };
        targets.push(Target {
            reference: ParentReference {
                section_name: target.section_name.clone(),
                ..named(&target.group, &target.kind, &own)
            },
            controller: WAYPOINT_CONTROLLER,
            accepted: accepted.clone(),
            resolved: resolved.clone(),
        });
        for key in gateways_of(cx, model, by_backend, &own) {
            let namespace = key.namespace.clone();
            let reference = ParentReference { namespace, ..named(&intern(GROUP), &intern("Gateway"), &key) };
            match gateways.iter_mut().find(|known| known.reference == reference) {
                // It has an effect there if it has one for any of its targets.
                Some(known) if accepted.is_ok() => known.accepted = Ok(()),
                Some(_) => {}
                None => gateways.push(Target {
                    reference,
                    controller: CONTROLLER,
                    accepted: accepted.clone(),
                    resolved: resolved.clone(),
                }),
            }
        }
    }
    gateways.sort_by(|a, b| a.reference.cmp(&b.reference));
    targets.extend(gateways);
    targets
}

/// Whether there are roots to be had, and what follows for the policy.
fn references(cx: &Ctx<'_>, model: &Model, policy: &BackendTLSPolicy) -> (Verdict, Verdict) {
    let flaw = backend_tls::place(policy).and_then(|place| match model.credentials.authority(cx, &[place]) {
        Known::Bad(flaw) => Some(flaw.message),
        Known::Good(_) | Known::Nothing => None,
    });
    let found = flaw.map_or_else(|| roots(policy), |message| Err(Said::new("InvalidCACertificateRef", message)));
    match found {
        Ok(_) => (Ok(()), Ok(())),
        Err(said) if said.reason == "Invalid" => (Ok(()), Err(said)),
        Err(said) => {
            let follows = Said::new("NoValidCACertificate", said.message.clone());
            (Err(said), Err(follows))
        }
    }
}

/// Whether a target is there, and nothing else is stronger.
fn is_there(cx: &Ctx<'_>, model: &Model, policy: &BackendTLSPolicy, target: &BackendTarget) -> Verdict {
    let missing = |message: String| Err(Said::new("TargetNotFound", message));
    let Some((registry, key)) = backend_tls::service(target, &policy.meta.namespace) else {
        return missing(format!("nothing is known of kind {} of group {:?}", target.kind, &*target.group));
    };
    let kind = registry.kind();
    let Some((service_key, service)) = cx.fetch(model.services_by_origin, &(registry, key.clone())).next() else {
        return missing(format!("there is no {kind} {key}"));
    };
    let section = &target.section_name;
    if !section.is_empty() && service.ports.iter().all(|port| port.name != *section) {
        return missing(format!("{kind} {key} has no port {section}"));
    }
    let conflicted = |message: String| Err(Said::new("Conflicted", message));
    // As clients in the namespace of the service have it.
    let client = Client { namespace: &key.namespace, labels: &[] };
    let rule = model.destination_rules.rule(cx, model.scope(), client, service_key).unwrap_or_default();
    let own = |port: u16| {
        let tls = rule.policy(port, "").tls;
        tls.is_some_and(|tls| rule.backend_tls.iter().all(|(_, other)| !std::ptr::eq(tls, other)))
    };
    let mut ports = service.ports.iter().filter(|port| section.is_empty() || port.name == *section).peekable();
    if ports.peek().is_some() && ports.all(|port| own(port.number)) {
        let rule = rule.origin.clone().unwrap_or_default();
        return conflicted(format!("DestinationRule {rule} says what TLS there is, and counts instead"));
    }
    match model.destination_rules.backend_tls.stronger(cx, model.scope(), policy, target) {
        None => Ok(()),
        Some(other) => conflicted(format!("BackendTLSPolicy {} is for the same and counts instead", other.meta.key())),
    }
}

/// The Gateways that lead to a Service, by listeners of their own or of those
/// that add to them.
fn gateways_of(cx: &Ctx<'_>, model: &Model, by_backend: &[ByBackend], service: &ObjectKey) -> Vec<ObjectKey> {
    let mut gateways = Vec::new();
    for index in by_backend {
        for (route, facts) in cx.fetch(*index, service) {
            let About::Route { parents, .. } = &facts.about else { continue };
            let of_gateways = parents.iter().filter_map(|one| parent(&one.reference, &route.namespace));
            gateways.extend(of_gateways.filter_map(|one| model.gateway_api.gateway_of(cx, &one)));
        }
    }
    gateways.sort_unstable();
    gateways.dedup();
    gateways
}
