//! Which `BackendTLSPolicy` counts for a port of a service, and what it says as
//! TLS settings of a DestinationRule, which are the ones that clusters know.
//! <https://gateway-api.sigs.k8s.io/geps/gep-1897/>

#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::api::backend_tls::{BackendTLSPolicy, BackendTarget};
use crate::api::destination_rule::ClientTlsSettings;
use crate::api::{Meta, ObjectKey};
use crate::credential::{Asked, CA_SUFFIX, Place, is_name};
use crate::graph::{Ctx, Graph, Index};

use super::Scope;
use super::gateway::kubernetes::Said;
use super::service::{Registry, Service};

/// Says that we are to leave a policy alone.
const IGNORED: &str = "istio.io/ignore-policy-attachment";

/// What stands for roots that are not there: nobody has it, so that there are
/// no connections.
const INVALID: &str = "invalid://";

/// The policies, by the services that they are for.
#[derive(Clone, Copy)]
pub struct BackendTls(Index<(Registry, ObjectKey), ObjectKey, BackendTLSPolicy>);

/// Declares the index.
pub(super) fn backend_tls(graph: &mut Graph, scope: &Scope) -> BackendTls {
    BackendTls(graph.index(scope.inputs.backend_tls_policies, |key: &ObjectKey, policy: &BackendTLSPolicy, keys| {
        if ignored(&policy.meta) {
            return;
        }
        for target in policy.spec.target_refs.iter().filter_map(|target| service(target, &key.namespace)) {
            if !keys.contains(&target) {
                keys.push(target);
            }
        }
    }))
}

/// Whether a policy is not for us.
pub fn ignored(meta: &Meta) -> bool {
    meta.annotation(IGNORED).is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

/// The service that a policy of a namespace is for.
pub fn service(target: &BackendTarget, namespace: &Arc<str>) -> Option<(Registry, ObjectKey)> {
    let registry = match (&*target.group, &*target.kind) {
        ("", "Service") => Registry::Kubernetes,
        ("networking.istio.io", "ServiceEntry") => Registry::ServiceEntry,
        _ => return None,
    };
    Some((registry, ObjectKey { namespace: namespace.clone(), name: target.name.clone() }))
}

impl BackendTls {
    /// TLS for the ports of a service, by number; that for all ports comes
    /// last.
    pub fn of_service(&self, cx: &Ctx<'_>, scope: &Scope, service: &Service) -> Vec<(Option<u16>, ClientTlsSettings)> {
        let policies = self.of(cx, scope, (service.registry, service.meta.key()));
        if policies.is_empty() {
            return Vec::new();
        }
        let named = |name: &str| policies.iter().find(|(section, _)| ***section == *name).map(|(_, policy)| *policy);
        let ports = service.ports.iter().filter(|port| !port.name.is_empty());
        let of_ports = ports.filter_map(|port| Some((Some(port.number), named(&port.name)?)));
        let of_all = named("").map(|policy| (None, policy));
        of_ports.chain(of_all).map(|(port, policy)| (port, settings(policy))).collect()
    }

    /// The policy that counts instead of another one for a target of it.
    pub fn stronger<'g>(
        &self,
        cx: &Ctx<'g>,
        scope: &Scope,
        policy: &BackendTLSPolicy,
        target: &BackendTarget,
    ) -> Option<&'g BackendTLSPolicy> {
        let of = service(target, &policy.meta.namespace)?;
        let policies = self.of(cx, scope, of);
        let (_, counts) = policies.into_iter().find(|(section, _)| **section == target.section_name)?;
        (counts.meta.key() != policy.meta.key()).then_some(counts)
    }

    /// The policies for a service, one for each name of a port and one for all:
    /// the oldest, and of equals the first by name.
    fn of<'g>(
        &self,
        cx: &Ctx<'g>,
        scope: &Scope,
        of: (Registry, ObjectKey),
    ) -> Vec<(&'g Arc<str>, &'g BackendTLSPolicy)> {
        let mut found: Vec<_> = cx.fetch(self.0, &of).map(|(_, policy)| policy).collect();
        found.retain(|policy| scope.configures(cx, &policy.meta));
        found.sort_by_key(|policy| (policy.meta.created, policy.meta.name.clone()));
        let mut counts: Vec<(&Arc<str>, &BackendTLSPolicy)> = Vec::new();
        for policy in found {
            for target in &policy.spec.target_refs {
                let same = service(target, &policy.meta.namespace).as_ref() == Some(&of);
                if same && counts.iter().all(|(section, _)| **section != target.section_name) {
                    counts.push((&target.section_name, policy));
                }
            }
        }
        counts
    }
}

/// Who vouches for servers, by the name that proxies ask for it with; empty is
/// whom the proxy's system believes.
pub fn roots(policy: &BackendTLSPolicy) -> Result<String, Said> {
    let validation = &policy.spec.validation;
    match (&*validation.well_known, &*validation.ca_certificate_refs) {
        ("System", _) => Ok(String::new()),
        ("", [first, ..]) => match (&*first.group, &*first.kind) {
            ("", "ConfigMap") if !is_name(&first.name) => {
                let message = format!("{:?} is not the name of a ConfigMap", &*first.name);
                Err(Said::new("InvalidCACertificateRef", message))
            }
            ("", "ConfigMap") => Ok(format!("configmap://{}/{}", policy.meta.namespace, first.name)),
            (group, kind) => {
                let message = format!("CA certificates are in a ConfigMap, not in a {kind} of group {group:?}");
                Err(Said::new("InvalidKind", message))
            }
        },
        ("", []) => Err(Said::new("Invalid", "nobody vouches for servers")),
        (other, _) => Err(Said::new("Invalid", format!("{other:?} is not known as wellKnownCACertificates"))),
    }
}

/// Where the roots of a policy are, if it has roots of its own.
pub fn place(policy: &BackendTLSPolicy) -> Option<Place> {
    let roots = roots(policy).ok().filter(|roots| !roots.is_empty())?;
    // By the name that proxies ask for it with.
    Asked::parse(&(roots + CA_SUFFIX), "").and_then(|asked| asked.places.into_iter().next())
}

/// A policy as a DestinationRule has it.
fn settings(policy: &BackendTLSPolicy) -> ClientTlsSettings {
    let validation = &policy.spec.validation;
    let names = validation.subject_alt_names.iter().map(|name| match &*name.kind {
        "URI" => name.uri.clone(),
        _ => name.hostname.clone(),
    });
    let mut names: Vec<_> = names.filter(|name| !name.is_empty()).collect();
    // A certificate is for the host, unless names are given.
    if names.is_empty() {
        names.push(validation.hostname.clone());
    }
    ClientTlsSettings {
        mode: "SIMPLE".into(),
        sni: validation.hostname.clone(),
        subject_alt_names: names.into(),
        credential_name: roots(policy).unwrap_or_else(|_| INVALID.into()).into(),
        ..ClientTlsSettings::default()
    }
}
