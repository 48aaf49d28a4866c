//! The credentials of Istio's Gateways. They are named without a namespace: that
//! of the proxies counts, which may be anywhere. Proxies say where they are when
//! they connect, and each to one replica; what is wrong with a certificate is
//! true before, and for all replicas. So the Services in front of proxies are
//! looked at, of which there is one in nearly every installation.
//! <https://istio.io/latest/docs/reference/config/networking/gateway/#ServerTLSSettings>

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::credential::{Asked, Scheme};
use crate::graph::{Collection, Ctx, Graph};
use crate::model::secret::check::OTHER_HOST;
use crate::model::secret::{By, Credentials, Flaw, Known, Needed, Reference};
use crate::model::selection::Selection;
use crate::model::service::{Service, ServiceKey};

use super::{ClientCa, GatewayKey, GatewayServers, Proxies, Server, ServerCertificate, ServerHost, ServerTls};

/// A gateway, and a Service that leads to proxies that it selects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Led {
    /// The gateway.
    pub gateway: GatewayKey,
    /// The Service.
    pub service: ServiceKey,
}

/// Where the proxies of Istio's Gateways are, and the gateways' servers. Only
/// gateways with credentials have rows. A Service costs a look at each label of
/// its selector.
pub fn led(
    graph: &mut Graph,
    services: Collection<ServiceKey, Arc<Service>>,
    selection: Selection,
    servers: Collection<GatewayKey, Arc<GatewayServers>>,
) -> Collection<Led, Arc<GatewayServers>> {
    let by_label = graph.index(servers, |_: &GatewayKey, gateway: &Arc<GatewayServers>, keys| {
        if let Proxies::Selected { labels, .. } = &gateway.proxies
            && gateway.servers.iter().any(|server| names(server).next().is_some())
        {
            keys.extend(labels.pairs().first().cloned());
        }
    });
    graph.derive("services_of_istio_gateways", services, move |cx, key: &ServiceKey, service: &Arc<Service>| {
        let labels = &service.selector;
        let gateways = labels.pairs().iter().flat_map(|pair| cx.fetch(by_label, pair));
        let mut found: Vec<_> = gateways
            .filter(|(_, gateway)| match &gateway.proxies {
                Proxies::Selected { labels: selector, namespace } => {
                    selector.select(labels) && namespace.as_ref().is_none_or(|only| *only == key.namespace)
                }
                Proxies::Made { .. } | Proxies::Behind(_) => false,
            })
            .map(|(gateway, of)| (Led { gateway: gateway.clone(), service: key.clone() }, of.clone()))
            .collect();
        // A Service that leads nowhere says nothing of where proxies are.
        if !found.is_empty() && cx.fetch(selection.of_service, key).next().is_none() {
            found.clear();
        }
        found
    })
}

/// What the proxies behind Services will ask for.
pub fn references(graph: &mut Graph, led: Collection<Led, Arc<GatewayServers>>) -> Collection<Reference, Needed> {
    graph.derive("credentials_of_led_proxies", led, |_, key: &Led, of: &Arc<GatewayServers>| {
        let namespace = &key.service.namespace;
        let asked = of.servers.iter().flat_map(names).filter_map(|name| Asked::parse(name, namespace));
        // What is named by a namespace is needed already.
        let own = asked.filter(|asked| asked.scheme == Scheme::Kubernetes).flat_map(|asked| asked.places);
        let places: BTreeSet<_> = own.filter(|place| place.namespace == *namespace).collect();
        let reference = |place| (Reference { by: By::Led(key.clone()), place }, Needed::default());
        places.into_iter().map(reference).collect::<Vec<_>>()
    })
}

/// The names of the credentials of a server.
fn names(server: &Server) -> impl Iterator<Item = &str> {
    let tls = server.tls.as_deref().filter(|tls| !tls.closed).into_iter();
    tls.flat_map(|tls| {
        let certificates = tls.certificates.iter().filter_map(|one| match one {
            ServerCertificate::Secret(name) => Some(&**name),
            ServerCertificate::Files { .. } => None,
        });
        let authority = match &tls.client_ca {
            Some(ClientCa::Secret(name)) => Some(&**name),
            Some(ClientCa::File(_)) | None => None,
        };
        certificates.chain(authority)
    })
}

/// What is the matter with what a server presents and whom it trusts, where its
/// proxies are in a namespace: a field below `tls`, and what. It is served all
/// the same: clients are refused until it is mended.
pub fn flaws(
    cx: &Ctx<'_>,
    known: &Credentials,
    server: &Server,
    tls: &ServerTls,
    namespace: &Arc<str>,
) -> Vec<(&'static str, Flaw)> {
    let (mut found, mut covering) = (Vec::new(), Vec::new());
    for certificate in &tls.certificates {
        let ServerCertificate::Secret(name) = certificate else { return found };
        found.extend(known.flaw(cx, name, namespace).map(|flaw| ("credentialName", flaw)));
        let place = Asked::parse(name, namespace).and_then(|asked| asked.places.into_iter().next());
        match place.map(|place| known.certificate(cx, &place)) {
            Some(Known::Good(certificate)) => covering.push(certificate),
            // What is not known may cover anything.
            _ => return found,
        }
    }
    let other = |host: &&ServerHost| *host.host != *"*" && !covering.iter().any(|one| one.covers(&host.host));
    let other: Vec<_> = server.hosts.iter().filter(other).map(|host| &*host.host).collect();
    if !other.is_empty() && !covering.is_empty() {
        let message = format!("the certificate is not for {}", other.join(", "));
        found.push(("credentialName", Flaw::new(OTHER_HOST, message)));
    }
    if let Some(ClientCa::Secret(name)) = &tls.client_ca {
        found.extend(known.flaw(cx, name, namespace).map(|flaw| ("caCertCredentialName", flaw)));
    }
    found
}
