//! What the Gateway API's gateways refer to that proxies are given: certificates
//! with their keys, and whom to believe. A reference that is not allowed is
//! none, so that nobody learns whether there is anything behind it.
//! <https://gateway-api.sigs.k8s.io/guides/tls/#cross-namespace-certificate-references>

use std::sync::Arc;

use crate::api::backend_tls::BackendTLSPolicy;
use crate::api::gateway::{self, Gateway, GatewaySpec, ListenerSet, SecretReference};
use crate::api::route::GROUP;
use crate::api::{Meta, ObjectKey};
use crate::credential::{Grant, Part, Place, is_name};
use crate::graph::{Collection, Ctx, Graph};
use crate::model::Scope;
use crate::model::backend_tls;
use crate::model::gateway::Declared;
use crate::model::reference_grant::ReferenceGrants;
use crate::model::secret::{By, Needed, Reference};

use super::listener::{Owner, port};
use super::{Role, key, parent, placement, role, tls};

/// The account of the proxies of a Gateway, if its user names one.
const SERVICE_ACCOUNT: &str = "gateway.istio.io/service-account";

type References = Collection<Reference, Needed>;

/// What is referred to by Gateways, by what adds listeners to them, and by TLS
/// policies for backends.
pub fn references(graph: &mut Graph, scope: &Scope, grants: ReferenceGrants) -> [References; 3] {
    let inputs = scope.inputs;
    let of_gateways = Refers { scope: scope.clone(), grants };
    let of_sets = of_gateways.clone();
    let policies = scope.clone();
    [
        graph.derive("credentials_of_gateways", inputs.gateways, move |cx, _: &ObjectKey, gateway| {
            let owner = Owner { declared: Declared::Kubernetes, meta: &gateway.meta };
            let listeners = &gateway.spec.listeners;
            let client =
                gateway.spec.tls.as_ref().and_then(|tls| tls.backend.as_ref()?.client_certificate_ref.as_ref());
            let client = client.map(|one| (Part::Certificate, one));
            of_gateways.of(cx, gateway, owner, listeners, client)
        }),
        graph.derive(
            "credentials_of_listener_sets",
            inputs.listener_sets,
            move |cx, own: &ObjectKey, set: &ListenerSet| {
                let gateway =
                    parent(&set.spec.parent_ref, &own.namespace).filter(|one| one.declared == Declared::Kubernetes);
                let gateway = gateway.and_then(|gateway| cx.get(of_sets.scope.inputs.gateways, &gateway.object()));
                let owner = Owner { declared: Declared::ListenerSet, meta: &set.meta };
                let of = |gateway| of_sets.of(cx, gateway, owner, &set.spec.listeners, None);
                gateway.map(of).unwrap_or_default()
            },
        ),
        graph.derive(
            "credentials_of_backend_policies",
            inputs.backend_tls_policies,
            move |cx, own: &ObjectKey, policy| of_policy(cx, &policies, own, policy),
        ),
    ]
}

#[derive(Clone)]
struct Refers {
    scope: Scope,
    grants: ReferenceGrants,
}

impl Refers {
    fn of(
        &self,
        cx: &Ctx<'_>,
        gateway: &Gateway,
        owner: Owner<'_>,
        listeners: &[gateway::Listener],
        client: Option<(Part, &SecretReference)>,
    ) -> Vec<(Reference, Needed)> {
        let Self { scope, grants } = self;
        let ours = scope.configures(cx, owner.meta)
            && role(cx, scope.inputs.gateway_classes, &gateway.spec.gateway_class_name) == Some(Role::Gateway);
        if !ours {
            return Vec::new();
        }
        let all = listeners.iter().flat_map(|one| of_listener(&gateway.spec, one)).chain(client);
        let by = By::Gateway(key(owner.declared, owner.meta));
        let account = account(gateway);
        let from = ((GROUP, owner.declared.kind()), &*owner.meta.namespace);
        let mut found: Vec<(Reference, Needed)> = Vec::new();
        for (part, reference) in all {
            let target = tls::target(reference, &owner.meta.namespace);
            if !is_name(&target.namespace) || !is_name(&target.name) {
                continue;
            }
            let (kind, places) = match (&*reference.group, &*reference.kind, part) {
                ("", "" | "Secret", Part::Certificate) => {
                    ("Secret", vec![Place::secret(target.namespace, target.name)])
                }
                ("", "" | "Secret", Part::Authority) => ("Secret", tls::authorities("Secret", &target).collect()),
                ("", "ConfigMap", Part::Authority) => ("ConfigMap", tls::authorities("ConfigMap", &target).collect()),
                _ => continue,
            };
            // A grant may be for one name, and does not cover what is beside it.
            let may = |place: &Place| grants.allow(cx, scope, from, (("", kind), &tls::object(place)));
            let places = places.into_iter().filter(may);
            let grant = Grant { namespace: gateway.meta.namespace.clone(), account: account.clone(), part };
            for place in places {
                let (reference, grant) = (Reference { by: by.clone(), place }, grant.clone());
                match found.iter_mut().find(|(known, _)| *known == reference) {
                    Some((_, needed)) if needed.grants.contains(&grant) => {}
                    Some((_, needed)) => needed.grants = needed.grants.iter().cloned().chain([grant]).collect(),
                    None => found.push((reference, Needed { grants: [grant].into() })),
                }
            }
        }
        found
    }
}

/// What one listener refers to: its certificates, and what comes with them when
/// clients have to prove who they are.
fn of_listener<'a>(
    spec: &'a GatewaySpec,
    listener: &'a gateway::Listener,
) -> impl Iterator<Item = (Part, &'a SecretReference)> {
    let tls = listener.tls.as_ref().filter(|one| tls::mode(one).terminates());
    let certificates = tls.into_iter().flat_map(|tls| &*tls.certificate_refs);
    // Istio's own options take the authority from beside the certificate.
    let beside = tls.filter(|one| tls::asks_clients(one)).into_iter().flat_map(|tls| &*tls.certificate_refs);
    let validation = tls.and_then(|_| tls::frontend(spec, port(listener)));
    let authorities = validation.into_iter().flat_map(|validation| &*validation.ca_certificate_refs);
    let certificates = certificates.map(|one| (Part::Certificate, one));
    certificates.chain(beside.chain(authorities).map(|one| (Part::Authority, one)))
}

/// The service account of the proxies that are made for a Gateway; nothing is
/// known of those of others.
/// <https://istio.io/latest/docs/tasks/traffic-management/ingress/gateway-api/#automated-deployment>
pub fn account(gateway: &Gateway) -> Option<Arc<str>> {
    if !placement(&gateway.spec, Role::Gateway).managed {
        return None;
    }
    let Meta { name, .. } = &gateway.meta;
    let own = gateway.meta.annotation(SERVICE_ACCOUNT).filter(|name| !name.is_empty());
    Some(own.map_or_else(|| format!("{name}-{}", gateway.spec.gateway_class_name).into(), Into::into))
}

/// What a TLS policy for backends refers to: ConfigMaps, which anybody may have
/// whose traffic goes there.
fn of_policy(cx: &Ctx<'_>, scope: &Scope, own: &ObjectKey, policy: &BackendTLSPolicy) -> Option<(Reference, Needed)> {
    if !scope.configures(cx, &policy.meta) || backend_tls::ignored(&policy.meta) {
        return None;
    }
    let place = backend_tls::place(policy)?;
    Some((Reference { by: By::BackendTLSPolicy(own.clone()), place }, Needed::default()))
}
