//! Istio's `Gateway`, and the VirtualServices that are bound to one.
//! <https://istio.io/latest/docs/reference/config/networking/gateway/>
//!
//! A server that asks for something impossible is left out and reported; it
//! never becomes one that asks for less, such as one without its client
//! certificates. If it is its TLS that is impossible it keeps its hosts to
//! itself, as they would be those of a wildcard's server otherwise.

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use crate::api::istio_gateway::{self as api, IstioGateway, ServerTlsSettings};
use crate::api::virtual_service::VirtualService;
use crate::api::{Meta, ObjectKey};
use crate::graph::{Ctx, Graph};
use crate::model::by_host::resolve;
use crate::model::service::ServiceKey;
use crate::model::{Scope, problem};

use super::{
    Binding, Bound, ClientCa, Declared, GatewayKey, GatewayServers, Proxies, RouteKey, RouteKind, Server,
    ServerCertificate, ServerHost, ServerProtocol, ServerTls, Source, TlsMode, TlsVersion,
};

/// The name that stands for all proxies that are no gateways.
const MESH: &str = "mesh";

/// Declares the collections.
pub(in crate::model) fn source(graph: &mut Graph, scope: &Scope) -> Source {
    let scope_of = scope.clone();
    let servers = graph.derive("istio_gateway_servers", scope.inputs.istio_gateways, move |cx, key, gateway| {
        scope_of.configures(cx, &gateway.meta).then(|| {
            let ObjectKey { namespace, name } = key.clone();
            let namespace_only = scope_of.settings.gateways_in_own_namespace.then(|| namespace.clone());
            let proxies = match behind(&gateway.meta) {
                Some(services) => Proxies::Behind(services),
                None => Proxies::Selected { labels: gateway.spec.selector.clone(), namespace: namespace_only },
            };
            let key = GatewayKey { declared: Declared::Istio, namespace, name };
            let meta = gateway.meta.clone();
            (key, Arc::new(GatewayServers { meta, proxies, servers: servers(cx, gateway) }))
        })
    });
    let scope_of = scope.clone();
    let bound = graph.derive("bound_virtual_services", scope.inputs.virtual_services, move |cx, key, one| {
        let to = bindings(one, &scope_of.settings.domain);
        (!to.is_empty() && scope_of.configures(cx, &one.meta)).then(|| {
            let key = RouteKey { kind: RouteKind::VirtualService, object: key.clone() };
            let connections = !one.spec.tcp.is_empty() || !one.spec.tls.is_empty();
            (key, Arc::new(Bound { created: one.meta.created, connections, to: to.into() }))
        })
    });
    Source { servers, bound }
}

/// The services that a gateway's proxies are behind, where tools say so instead
/// of a selector. They are of its own namespace: the proxies of others are not to
/// be had by their services' names.
fn behind(meta: &Meta) -> Option<Box<[ServiceKey]>> {
    const GATEWAY_SERVICE: &str = "internal.istio.io/gateway-service";
    let names = meta.annotation(GATEWAY_SERVICE)?.split(',').map(str::trim).filter(|name| !name.is_empty());
    Some(names.map(|name| ServiceKey { namespace: meta.namespace.clone(), hostname: name.into() }).collect())
}

/// The gateways that a virtual service names.
fn bindings(one: &VirtualService, domain: &str) -> Vec<Binding> {
    let host = |host: &Arc<str>| lower(&resolve(host, &one.meta.namespace, domain));
    let hosts: Vec<_> = one.spec.hosts.iter().map(host).collect();
    let mut keys: Vec<_> = one
        .spec
        .gateways
        .iter()
        .filter(|name| &***name != MESH)
        .map(|name| gateway_key(name, &one.meta.namespace))
        .collect();
    keys.sort_unstable();
    keys.dedup();
    if hosts.is_empty() {
        return Vec::new();
    }
    keys.into_iter().map(|gateway| Binding { gateway, server: None, hosts: hosts.clone().into() }).collect()
}

/// The gateway that a VirtualService in a namespace means by a name:
/// `namespace/name`, a name in the same namespace, or, as in old versions of
/// Istio, `name.namespace` with whatever follows.
pub fn gateway_key(name: &str, namespace: &Arc<str>) -> GatewayKey {
    let (namespace, name) = match (name.split_once('/'), name.split_once('.')) {
        (Some((".", name)), _) => (namespace.clone(), name),
        (Some((other, name)), _) => (other.into(), name),
        (None, Some((name, rest))) => (rest.split('.').next().unwrap_or(rest).into(), name),
        (None, None) => (namespace.clone(), name),
    };
    GatewayKey { declared: Declared::Istio, namespace, name: name.into() }
}

fn lower(text: &Arc<str>) -> Arc<str> {
    match text.bytes().any(|c| c.is_ascii_uppercase()) {
        true => text.to_ascii_lowercase().into(),
        false => text.clone(),
    }
}

/// Why a server is left out: the field, relative to the server, the reason in
/// one word and for people.
type Refused = (String, &'static str, String);

fn refused<T>(field: &str, reason: &'static str, message: impl Into<String>) -> Result<T, Refused> {
    Err((field.into(), reason, message.into()))
}

fn servers(cx: &Ctx<'_>, gateway: &IstioGateway) -> Box<[Server]> {
    // One that is meant for `selector` leaves none, which is all proxies.
    for name in gateway.spec.unknown.names() {
        let message = "this version does not know the field; ignored";
        cx.diagnose(problem("IstioGateway", &gateway.meta, format!("spec.{name}"), "UnknownField", message));
    }
    let mut servers = Vec::with_capacity(gateway.spec.servers.len());
    for (index, one) in gateway.spec.servers.iter().enumerate() {
        let at = format!("spec.servers[{index}]");
        let say = |field: &str, reason, message: String| {
            let dot = if field.is_empty() || field.starts_with('[') { "" } else { "." };
            cx.diagnose(problem("IstioGateway", &gateway.meta, format!("{at}{dot}{field}"), reason, message));
        };
        match server(&gateway.meta, one, &at, &say) {
            Ok(server) => servers.push(server),
            Err((field, reason, message)) => say(&field, reason, message + "; the server is left out"),
        }
    }
    servers.into()
}

fn server(
    meta: &Meta,
    one: &api::Server,
    at: &str,
    say: &dyn Fn(&str, &'static str, String),
) -> Result<Server, Refused> {
    let api::Server { port, bind, hosts, tls, name, unknown } = one;
    // Nothing reads it, in Istio either.
    for field in unknown.names().filter(|name| *name != "defaultEndpoint") {
        say(field, "UnknownField", "this version does not know the field; ignored".into());
    }
    let Some(port) = port.as_ref().filter(|port| port.number != 0) else {
        return refused("port", "InvalidValue", "a server needs a port with a number");
    };
    let Some(protocol) = protocol(&port.protocol) else {
        let message = format!("{:?} is not a protocol that is known", port.protocol);
        return refused("port.protocol", "UnsupportedValue", message);
    };
    let bind = match bind.parse::<IpAddr>().map(|bind| bind.to_canonical()) {
        _ if bind.is_empty() => "".into(),
        // One address has one listener, however it is written.
        Ok(any) if any.is_unspecified() => "".into(),
        Ok(bind) => bind.to_string().into(),
        Err(_) => return refused("bind", "UnsupportedValue", format!("{bind:?} is not an IP address")),
    };
    let mut kept = Vec::with_capacity(hosts.len());
    for (index, host) in hosts.iter().enumerate() {
        match server_host(host, &meta.namespace) {
            Some(host) if kept.contains(&host) => {}
            Some(host) => kept.push(host),
            None => {
                let message = format!("{host:?} is not a host, possibly with a leading *; it is left out");
                say(&format!("hosts[{index}]"), "InvalidValue", message);
            }
        }
    }
    if kept.is_empty() {
        return refused("hosts", "InvalidValue", "a server needs a host");
    }
    let tls = match (protocol, tls) {
        (ServerProtocol::Https | ServerProtocol::Tls, None) => {
            Some(refused("", "InvalidValue", format!("protocol {} needs tls", port.protocol)))
        }
        (ServerProtocol::Http, Some(tls)) if !tls.https_redirect => {
            say("tls", "InvalidValue", "HTTP is without TLS, so all but httpsRedirect is ignored".into());
            None
        }
        (ServerProtocol::Http, Some(_)) => Some(Ok(ServerTls { https_redirect: true, ..ServerTls::default() })),
        (_, Some(tls)) => Some(server_tls(tls, say)),
        (ServerProtocol::Http | ServerProtocol::Tcp, None) => None,
    };
    let closed = |(field, reason, message): Refused| {
        let dot = if field.is_empty() { "" } else { "." };
        say(&format!("tls{dot}{field}"), reason, message + "; the server is left out");
        ServerTls::closed()
    };
    let tls = tls.map(|tls| tls.unwrap_or_else(closed));
    Ok(Server {
        name: name.clone(),
        port: port.number,
        port_name: port.name.clone(),
        protocol,
        grpc_web: port.protocol.eq_ignore_ascii_case("GRPC-WEB"),
        bind,
        hosts: kept.into(),
        tls: tls.map(Box::new),
        field: at.into(),
    })
}

/// What a port's protocol is to a gateway. Case does not matter.
fn protocol(name: &str) -> Option<ServerProtocol> {
    Some(match name.to_ascii_uppercase().as_str() {
        "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB" => ServerProtocol::Http,
        "HTTPS" => ServerProtocol::Https,
        "TLS" => ServerProtocol::Tls,
        "TCP" | "MONGO" | "MYSQL" | "REDIS" => ServerProtocol::Tcp,
        _ => return None,
    })
}

/// `host`, `namespace/host`, `./host` of the gateway's own namespace, or
/// `*/host`.
pub(super) fn server_host(text: &str, own: &Arc<str>) -> Option<ServerHost> {
    let (namespace, host) = match text.split_once('/') {
        None | Some(("*", _)) => (None, text.rsplit('/').next()?),
        Some((".", host)) => (Some(own.clone()), host),
        Some((namespace, host)) => (Some(namespace.into()), host),
    };
    let rest = host.strip_prefix('*').unwrap_or(host);
    let name = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_');
    let valid = match rest {
        "" => host == "*",
        // What follows the wildcard is whole labels.
        rest if rest.len() < host.len() => rest.len() > 1 && rest.starts_with('.'),
        _ => true,
    };
    // An IP address stands for itself.
    let valid = valid && (rest.bytes().all(name) || host.parse::<IpAddr>().is_ok());
    valid.then(|| ServerHost { namespace, host: host.to_ascii_lowercase().into() })
}

fn server_tls(tls: &ServerTlsSettings, say: &dyn Fn(&str, &'static str, String)) -> Result<ServerTls, Refused> {
    let mode = match &*tls.mode {
        "" | "PASSTHROUGH" => TlsMode::Passthrough,
        "SIMPLE" => TlsMode::Simple,
        "MUTUAL" => TlsMode::Mutual,
        "AUTO_PASSTHROUGH" => TlsMode::AutoPassthrough,
        "ISTIO_MUTUAL" => TlsMode::IstioMutual,
        "OPTIONAL_MUTUAL" => TlsMode::OptionalMutual,
        other => return refused("mode", "UnsupportedValue", format!("{other:?} is not a mode of TLS")),
    };
    // Any of these may be what keeps somebody out.
    if let Some(name) = tls.unknown.names().next() {
        return refused(name, "UnknownField", "this version does not know the field");
    }
    let minimum = version("minProtocolVersion", &tls.min_protocol_version)?;
    let maximum = version("maxProtocolVersion", &tls.max_protocol_version)?;
    if let (Some(minimum), Some(maximum)) = (minimum, maximum)
        && minimum > maximum
    {
        return refused("minProtocolVersion", "InvalidValue", "greater than maxProtocolVersion");
    }
    let (certificates, client_ca) = match mode {
        TlsMode::Passthrough | TlsMode::AutoPassthrough => {
            if !tls.credential_name.is_empty() || !tls.credential_names.is_empty() || !tls.server_certificate.is_empty()
            {
                let message = format!("mode {} does not end TLS, so its certificates are ignored", tls.mode);
                say("tls", "InvalidValue", message);
            }
            (Vec::new(), None)
        }
        TlsMode::IstioMutual => (Vec::new(), None),
        TlsMode::Simple | TlsMode::Mutual | TlsMode::OptionalMutual => {
            let (certificates, ca) = certificates(tls)?;
            let mutual = mode != TlsMode::Simple;
            if mutual && ca.is_none() {
                let message = format!("mode {} needs caCertificates or a credential", tls.mode);
                return refused("caCertificates", "InvalidValue", message);
            }
            (certificates, ca.filter(|_| mutual))
        }
    };
    Ok(ServerTls {
        mode,
        closed: false,
        https_redirect: tls.https_redirect,
        certificates: certificates.into(),
        client_ca,
        crl_file: tls.ca_crl.clone(),
        subject_alt_names: tls.subject_alt_names.clone(),
        verify_certificate_spki: tls.verify_certificate_spki.clone(),
        verify_certificate_hash: tls.verify_certificate_hash.clone(),
        accept_untrusted: tls.insecure_skip_verify == Some(true),
        minimum,
        maximum,
        cipher_suites: tls.cipher_suites.clone(),
        ecdh_curves: tls.ecdh_curves.clone(),
    })
}

fn version(field: &str, name: &str) -> Result<Option<TlsVersion>, Refused> {
    Ok(match name {
        "" | "TLS_AUTO" => None,
        "TLSV1_0" => Some(TlsVersion::V1_0),
        "TLSV1_1" => Some(TlsVersion::V1_1),
        "TLSV1_2" => Some(TlsVersion::V1_2),
        "TLSV1_3" => Some(TlsVersion::V1_3),
        other => return refused(field, "UnsupportedValue", format!("{other:?} is not a version of TLS")),
    })
}

/// The certificates of a server, and who vouches for its clients: Secrets, or
/// files. There are several ways to say it, of which one may be used.
fn certificates(tls: &ServerTlsSettings) -> Result<(Vec<ServerCertificate>, Option<ClientCa>), Refused> {
    let one = std::slice::from_ref(&tls.credential_name);
    let secrets = if tls.credential_names.is_empty() { one } else { &tls.credential_names };
    let secrets: Vec<_> = secrets.iter().filter(|name| !name.is_empty()).collect();
    if let Some(first) = secrets.first() {
        let ca = match tls.ca_cert_credential_name.is_empty() {
            true => format!("{}-cacert", credential(first)),
            false => credential(&tls.ca_cert_credential_name),
        };
        let certificates = secrets.iter().map(|name| ServerCertificate::Secret(credential(name).into()));
        return Ok((certificates.collect(), Some(ClientCa::Secret(ca.into()))));
    }
    let single = api::TlsCertificate {
        server_certificate: tls.server_certificate.clone(),
        private_key: tls.private_key.clone(),
        ca_certificates: tls.ca_certificates.clone(),
    };
    let single = std::slice::from_ref(&single);
    let pairs = if tls.tls_certificates.is_empty() { single } else { &tls.tls_certificates };
    let mut certificates = Vec::with_capacity(pairs.len());
    for pair in pairs {
        if pair.server_certificate.is_empty() || pair.private_key.is_empty() {
            return refused("", "InvalidValue", "a certificate and its key are needed, or a credential");
        }
        let (certificate, private_key) = (pair.server_certificate.clone(), pair.private_key.clone());
        certificates.push(ServerCertificate::Files { certificate, private_key });
    }
    let ca = pairs.iter().map(|pair| &pair.ca_certificates).chain([&tls.ca_certificates]).find(|ca| !ca.is_empty());
    Ok((certificates, ca.map(|ca| ClientCa::File(ca.clone()))))
}

/// The name that proxies ask for a credential with. It may be given as such.
fn credential(name: &str) -> String {
    if name.contains("://") { name.to_owned() } else { format!("kubernetes://{name}") }
}
