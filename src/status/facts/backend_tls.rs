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
use crate::model::gateway::Declared;
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
        for key in gateways_of(cx, by_backend, &own) {
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

/// Whether a target is there, and no other policy is stronger.
fn is_there(cx: &Ctx<'_>, model: &Model, policy: &BackendTLSPolicy, target: &BackendTarget) -> Verdict {
    let missing = |message: String| Err(Said::new("TargetNotFound", message));
    let Some((registry, key)) = backend_tls::service(target, &policy.meta.namespace) else {
        return missing(format!("nothing is known of kind {} of group {:?}", target.kind, &*target.group));
    };
    let kind = registry.kind();
    let Some((_, service)) = cx.fetch(model.services_by_origin, &(registry, key.clone())).next() else {
        return missing(format!("there is no {kind} {key}"));
    };
    let section = &target.section_name;
    if !section.is_empty() && service.ports.iter().all(|port| port.name != *section) {
        return missing(format!("{kind} {key} has no port {section}"));
    }
    match model.destination_rules.backend_tls.stronger(cx, model.scope(), policy, target) {
        None => Ok(()),
        Some(other) => {
            let message = format!("BackendTLSPolicy {} is for the same and counts instead", other.meta.key());
            Err(Said::new("Conflicted", message))
        }
    }
}

/// The gateways that lead to a Service.
fn gateways_of(cx: &Ctx<'_>, by_backend: &[ByBackend], service: &ObjectKey) -> Vec<ObjectKey> {
    let mut gateways = Vec::new();
    for index in by_backend {
        for (route, facts) in cx.fetch(*index, service) {
            let About::Route { parents, .. } = &facts.about else { continue };
            let of_gateways = parents.iter().filter_map(|one| parent(&one.reference, &route.namespace));
            gateways.extend(of_gateways.filter(|one| one.declared == Declared::Kubernetes).map(|one| one.object()));
        }
    }
    gateways.sort_unstable();
    gateways.dedup();
    gateways
}
