//! What is known of VirtualServices.

use std::sync::Arc;

use crate::api::virtual_service::{Destination, VirtualService};
use crate::api::{Kind, Meta, ObjectKey};
use crate::envoy::route::{self, Clients, ClusterRef, RouteRequest, Semantics, delegate};
use crate::graph::{Collection, Ctx, Graph};
use crate::model::destination_rule::Client;
use crate::model::gateway::istio::gateway_key;
use crate::model::{Model, not_known, problem};

use super::{About, Facts, NOT_FOUND, host_is_there};

const KIND: &str = "VirtualService";

pub(super) fn add(graph: &mut Graph, model: &Model) -> (Kind, Collection<ObjectKey, Facts>) {
    super::add(
        (graph, model),
        "virtual_service_facts",
        Kind::VirtualService,
        model.inputs.virtual_services,
        |one| &one.meta,
        |cx, model, one| {
            if !model.scope().configures(cx, &one.meta) {
                return None;
            }
            not_known(cx, KIND, &one.meta, "", &one.unknown);
            rules(cx, model, one);
            destinations(cx, model, one);
            gateways(cx, model, one);
            // At a gateway the rules of all of them count.
            if one.spec.of_mesh() {
                conflicts(cx, model, one);
            }
            Some(About::Plain)
        },
    )
}

/// Says what of the rules cannot be done.
fn rules(cx: &Ctx<'_>, model: &Model, one: &VirtualService) {
    let find = |key: &ObjectKey| model.routes.delegate(cx, model.scope(), key, &one.meta.namespace);
    let resolved = delegate::resolve(one, &model.settings.domain, &find);
    let VirtualService { meta: Meta { namespace, .. }, spec, .. } = one;
    let gateway = spec.gateways.first().map(|name| gateway_key(name, namespace));
    let clients = match &gateway {
        Some(gateway) if !spec.of_mesh() => Clients::Gateway { gateway, from: namespace, namespace, labels: &[] },
        _ => Clients::Mesh,
    };
    let request = RouteRequest {
        config: "",
        name: "",
        semantics: Semantics::Istio,
        port: 0,
        clients,
        tls: false,
        append_x_forwarded_host: false,
        default_retry: None,
        cluster_of: &|_| ClusterRef { name: "a".into(), ..ClusterRef::default() },
    };
    let (_, mut problems) = route::routes(&request, &resolved.http);
    for found in &mut problems {
        found.rule = resolved.origins.get(found.rule).copied().unwrap_or(found.rule);
    }
    for found in resolved.problems.iter().chain(&problems) {
        cx.diagnose(problem(KIND, &one.meta, found.path("spec.http"), found.reason, &*found.message));
    }
}

/// Says which gateways are not there.
fn gateways(cx: &Ctx<'_>, model: &Model, VirtualService { meta, spec, .. }: &VirtualService) {
    for (at, name) in spec.gateways.iter().enumerate().filter(|(_, name)| &***name != "mesh") {
        let key = gateway_key(name, &meta.namespace).object();
        if cx.get(model.inputs.istio_gateways, &key).is_none() {
            let message = format!("there is no Gateway {key} of Istio's");
            cx.diagnose(problem(KIND, meta, format!("spec.gateways[{at}]"), NOT_FOUND, message));
        }
    }
}

/// Says which destinations are not there.
fn destinations(cx: &Ctx<'_>, model: &Model, VirtualService { meta, spec, .. }: &VirtualService) {
    for (at, rule) in spec.http.iter().enumerate() {
        let routed =
            rule.route.iter().enumerate().map(|(to, one)| (format!("route[{to}].destination"), &one.destination));
        let mirror = rule.mirror.iter().map(|one| ("mirror".to_owned(), one));
        let mirrors = rule.mirrors.iter().enumerate();
        let mirrors = mirrors.map(|(to, one)| (format!("mirrors[{to}].destination"), &one.destination));
        for (field, destination) in routed.chain(mirror).chain(mirrors) {
            is_there(cx, model, meta, &format!("spec.http[{at}].{field}"), destination);
        }
    }
    let tcp = spec.tcp.iter().enumerate().map(|(at, rule)| (format!("spec.tcp[{at}]"), &rule.route));
    let tls = spec.tls.iter().enumerate().map(|(at, rule)| (format!("spec.tls[{at}]"), &rule.route));
    for (rule, route) in tcp.chain(tls) {
        for (to, one) in route.iter().enumerate() {
            let field = format!("{rule}.route[{to}]");
            if one.weight < 0 {
                let message = format!("{} is not a weight; taken for none", one.weight);
                cx.diagnose(problem(KIND, meta, format!("{field}.weight"), "InvalidValue", message));
            }
            is_there(cx, model, meta, &format!("{field}.destination"), &one.destination);
        }
    }
}

fn is_there(cx: &Ctx<'_>, model: &Model, meta: &Meta, field: &str, destination: &Destination) {
    let host = format!("{field}.host");
    let Some(key) = host_is_there(cx, model, KIND, meta, &host, &destination.host) else { return };
    let say = |part: &str, message: String| {
        cx.diagnose(problem(KIND, meta, format!("{field}.{part}"), NOT_FOUND, message));
    };
    if !destination.subset.is_empty() {
        let client = Client { namespace: &meta.namespace, labels: &[] };
        let rule = model.destination_rules.rule(cx, model.scope(), client, &key);
        let given = rule.is_some_and(|rule| rule.subset(&destination.subset).is_some())
            || model.destination_rules.gives_some(cx, &meta.namespace, &key, &destination.subset);
        if !given {
            let (host, subset) = (&key.hostname, &destination.subset);
            say("subset", format!("no DestinationRule for {host} that counts here has a subset {subset}"));
        }
    }
    let service = cx.get(model.services, &key);
    if let (Some(port), Some(service)) = (destination.port, service)
        && service.ports.iter().all(|one| u32::from(one.number) != port.number)
    {
        say("port.number", format!("{} has no port {}", key.hostname, port.number));
    }
}

/// Says which of its hosts have no use for its rules, because those of an older
/// one always apply.
fn conflicts(cx: &Ctx<'_>, model: &Model, one: &VirtualService) {
    if one.spec.http.is_empty() {
        return;
    }
    for (at, host) in one.spec.hosts.iter().enumerate() {
        let older = model.routes.older(cx, model.scope(), one, host);
        let whole = |other: &&VirtualService| other.spec.http.iter().any(|rule| rule.matches.is_empty());
        if let Some(older) = older.into_iter().find(whole) {
            let message =
                format!("VirtualService {} is older and has a rule for all requests to {host}", older.meta.key());
            let field = format!("spec.hosts[{at}]");
            cx.diagnose(problem(KIND, &one.meta, field, "ConflictingHosts", message));
        }
    }
}

impl crate::api::virtual_service::VirtualServiceSpec {
    /// Whether it is for the mesh, and not for gateways alone.
    fn of_mesh(&self) -> bool {
        let of_mesh = |gateway: &Arc<str>| &**gateway == "mesh";
        self.gateways.is_empty() || self.gateways.iter().any(of_mesh)
    }
}
