//! What is known of AuthorizationPolicies and RequestAuthentications.
//! <https://istio.io/latest/docs/ambient/usage/l7-features/#targeting-policies>

use std::sync::Arc;

use crate::api::istio::PolicyTargetRef;
use crate::api::request_authentication::JwtRule;
use crate::api::{Kind, Meta, ObjectKey};
use crate::envoy::authorization::provider::Provider;
use crate::envoy::authorization::{self, Identity};
use crate::envoy::request_authentication::{self, Keys};
use crate::graph::{Collection, Ctx, Graph};
use crate::model::authorization::enforced;
use crate::model::binding::WAYPOINT_CONTROLLER;
use crate::model::service::Registry;
use crate::model::waypoint_policy::Attachable;
use crate::model::{Model, key_set};

use super::{About, Bound, Facts};

pub(super) fn add(graph: &mut Graph, model: &Model) -> [(Kind, Collection<ObjectKey, Facts>); 2] {
    let authorization = super::add(
        (graph, model),
        "authorization_policy_facts",
        Kind::AuthorizationPolicy,
        model.inputs.authorization_policies,
        |policy| &policy.meta,
        |cx, model, policy| {
            if !model.scope().configures(cx, &policy.meta) {
                return None;
            }
            let targets = targets(cx, model, policy);
            if targets.is_empty() {
                let enforced = enforced(cx, model.scope(), policy, false).is_some();
                return Some(About::Ztunnel { enforced });
            }
            let mesh = model.scope().mesh(cx);
            let domains: Vec<_> =
                std::iter::once(&mesh.trust_domain).chain(&mesh.trust_domain_aliases).cloned().collect();
            let providers: Vec<_> = mesh.extension_providers.iter().filter_map(Provider::new).collect();
            let request = authorization::Request {
                trust_domains: &domains,
                identity: Identity::FilterState,
                // Where a proxy does not, that is said about its configuration.
                knows_address: true,
                providers: &providers,
                cluster: &|service, _| crate::envoy::policies::called(cx, model, service).map(|key| key.to_string()),
            };
            for found in authorization::http_filters(&request, &[policy]).problems {
                cx.diagnose(found);
            }
            Some(About::Attached(targets))
        },
    );
    let authentication = super::add(
        (graph, model),
        "request_authentication_facts",
        Kind::RequestAuthentication,
        model.inputs.request_authentications,
        |policy| &policy.meta,
        |cx, model, policy| {
            if !model.scope().configures(cx, &policy.meta) {
                return None;
            }
            let keys = |rule: &JwtRule| match model.key_sets.keys(cx, model.scope(), model.canonical, rule) {
                key_set::Keys::AtService(service, _) => Keys::Remote { cluster: service.to_string() },
                key_set::Keys::Known(keys) => Keys::Local(keys.to_string()),
                key_set::Keys::Missing(why) => Keys::Missing(why.to_string()),
            };
            let request = request_authentication::Request { keys: &keys, clear_route_cache: true };
            for found in request_authentication::filter(&request, &[policy]).1 {
                cx.diagnose(found);
            }
            let targets = targets(cx, model, policy);
            Some(if targets.is_empty() { About::Plain } else { About::Attached(targets) })
        },
    );
    [authorization, authentication]
}

/// What a policy names as its targets, and whether it is bound to them.
fn targets<P: Attachable>(cx: &Ctx<'_>, model: &Model, policy: &P) -> Vec<Bound> {
    let several = policy.target_refs();
    let single = policy.target_ref().filter(|_| several.is_empty());
    several.iter().chain(single).map(|reference| target(cx, model, policy.meta(), reference)).collect()
}

fn target(cx: &Ctx<'_>, model: &Model, meta: &Meta, reference: &PolicyTargetRef) -> Bound {
    let own = &meta.namespace;
    let namespace = if reference.namespace.is_empty() { own } else { &reference.namespace };
    let key = ObjectKey { namespace: namespace.clone(), name: reference.name.clone() };
    let group = if reference.group.is_empty() { "core" } else { &reference.group };
    let (bound, reason, message) = match (group, &*reference.kind) {
        _ if namespace != own => (false, "Invalid", "a target has to be in the namespace of the policy".into()),
        ("gateway.networking.k8s.io", "GatewayClass") => class(cx, model, own, &reference.name),
        ("gateway.networking.k8s.io", "Gateway") => match cx.get(model.waypoints, &key) {
            Some(_) => (true, "Accepted", format!("bound to {key}")),
            None => (false, "TargetNotFound", format!("there is no waypoint {key}")),
        },
        ("core", "Service") => service(cx, model, Registry::Kubernetes, &key),
        ("networking.istio.io", "ServiceEntry") => service(cx, model, Registry::ServiceEntry, &key),
        (group, kind) => (false, "Invalid", format!("nothing can be attached to kind {kind} of group {group}")),
    };
    Bound { ancestor: format!("{}.{group}:{key}", reference.kind).into(), bound, reason, message: message.into() }
}

fn class(cx: &Ctx<'_>, model: &Model, own: &Arc<str>, name: &Arc<str>) -> (bool, &'static str, String) {
    let root = &model.scope().mesh(cx).root_namespace;
    if own != root {
        let message =
            format!("AuthorizationPolicy must be in the root namespace `{root}` when referencing a GatewayClass");
        return (false, "Invalid", message);
    }
    let key = ObjectKey { namespace: "".into(), name: name.clone() };
    match cx.get(model.inputs.gateway_classes, &key) {
        None => (false, "TargetNotFound", format!("there is no GatewayClass {name}")),
        Some(class) if &*class.spec.controller_name != WAYPOINT_CONTROLLER => {
            (false, "Invalid", format!("GatewayClass must use controller name `{WAYPOINT_CONTROLLER}` for waypoints"))
        }
        Some(_) => (true, "Accepted", format!("bound to {name}")),
    }
}

fn service(cx: &Ctx<'_>, model: &Model, registry: Registry, key: &ObjectKey) -> (bool, &'static str, String) {
    let kind = registry.kind();
    // A ServiceEntry may be several services; they have one waypoint.
    let Some((found, _)) = cx.fetch(model.services_by_origin, &(registry, key.clone())).next() else {
        return (false, "TargetNotFound", format!("{kind} {key} was not found"));
    };
    match cx.get(model.service_waypoints, found) {
        Some(waypoint) => (true, "Accepted", format!("bound to {waypoint}")),
        None => (false, "AncestorNotBound", format!("{kind} {key} is not bound to a waypoint")),
    }
}
