//! TLS of the Gateway API's listeners: which Secrets are presented, who vouches
//! for clients, and whether all of that may be referred to.
//! <https://gateway-api.sigs.k8s.io/guides/tls/>

use std::sync::Arc;

use crate::api::gateway::{FrontendValidation, Gateway, GatewaySpec, ListenerTls, SecretReference};
use crate::api::route::GROUP;
use crate::api::{Meta, ObjectKey};
use crate::credential::{Place, is_name};
use crate::graph::Ctx;
use crate::model::Scope;
use crate::model::reference_grant::ReferenceGrants;
use crate::model::secret::check::{EXPIRES, OTHER_HOST};
use crate::model::secret::{Credentials, Known};

use super::super::{ClientCa, Declared, ServerCertificate, ServerTls, TlsMode};
use super::listener::Checking;
use super::{Said, Verdict};

/// The mode in which clients with certificates of unknown makers are let in.
pub(super) const INSECURE: &str = "AllowInsecureFallback";

/// Istio's options of a listener's TLS.
const TERMINATE_MODE: &str = "gateway.istio.io/tls-terminate-mode";
const CIPHER_SUITES: &str = "gateway.istio.io/tls-cipher-suites";
const LISTENER_PROTOCOL: &str = "gateway.istio.io/listener-protocol";

/// How many certificates there may be: one of each kind of key.
const MOST_CERTIFICATES: usize = 2;

/// Why TLS cannot be had, by one of two reasons at least.
pub(super) struct Fault {
    /// What is wrong with a reference.
    pub(super) resolved: Option<Said>,
    /// Why the listener is refused, if it is.
    pub(super) accepted: Option<Said>,
}

impl Fault {
    fn of_server(reason: &'static str, message: impl Into<Arc<str>>) -> Self {
        Self { resolved: Some(Said::new(reason, message)), accepted: None }
    }

    /// One of Istio's options asks for what is not to be had.
    fn of_option(message: impl Into<Arc<str>>) -> Self {
        Self { resolved: None, accepted: Some(Said::new("UnsupportedValue", message)) }
    }

    /// Nobody could be told from anybody else, so nobody is let in.
    fn of_clients(reason: &'static str, message: impl Into<Arc<str>>) -> Self {
        let message = message.into();
        let accepted = Said::new("NoValidCACertificate", message.clone());
        Self { resolved: Some(Said::new(reason, message)), accepted: Some(accepted) }
    }

    /// What is wrong, for people.
    pub(super) fn message(&self) -> &str {
        self.resolved.as_ref().or(self.accepted.as_ref()).map_or("", |said| &said.message)
    }
}

/// What is to be said of certificates that are presented all the same.
#[derive(Default)]
pub(super) struct Notes {
    /// What is wrong with a part that can be left out, or with one that is used
    /// until it is mended.
    pub(super) fault: Option<Said>,
    /// What may be meant so, or is not yet wrong: a certificate may be for names
    /// that its clients know how to compare, or end soon.
    pub(super) remark: Option<Said>,
}

/// Whether TLS ends at a listener.
pub(super) fn mode(tls: &ListenerTls) -> TlsMode {
    match &*tls.mode {
        "Passthrough" => TlsMode::Passthrough,
        _ => TlsMode::Simple,
    }
}

/// What a server does about TLS, and what is to be said of it.
pub(super) fn server(
    cx: &Checking<'_>,
    (port, hostname): (u16, &str),
    tls: &ListenerTls,
) -> Result<(ServerTls, Notes), Fault> {
    let mut server = ServerTls { mode: mode(tls), cipher_suites: cipher_suites(tls), ..ServerTls::default() };
    if !server.mode.terminates() {
        if is_auto_passthrough(cx.owner.meta, port, tls) {
            // Every port of the mesh is open there, which is for the owner of
            // the proxies to say.
            if cx.owner.declared != Declared::Kubernetes {
                let message = "only a Gateway's own listeners pass connections on to any service of the mesh";
                return Err(Fault::of_option(message));
            }
            server.mode = TlsMode::AutoPassthrough;
        }
        return Ok((server, Notes::default()));
    }
    let asked = tls.options.get(TERMINATE_MODE);
    let frontend = frontend(cx.spec, port);
    match asked {
        None | Some("SIMPLE" | "MUTUAL" | "OPTIONAL_MUTUAL") => {}
        // The Gateway's owner says whom to believe; the listener may be in an
        // object of somebody else.
        Some(mode @ ("ISTIO_SIMPLE" | "ISTIO_MUTUAL")) if frontend.is_some() => {
            let message = format!("mode {mode} does not ask clients for what the Gateway's spec.tls.frontend demands");
            return Err(Fault::of_option(message));
        }
        // The certificate of the workload.
        Some("ISTIO_SIMPLE") => {
            server.certificates = [ServerCertificate::Secret("builtin://".into())].into();
            return Ok((server, Notes::default()));
        }
        Some("ISTIO_MUTUAL") => {
            server.mode = TlsMode::IstioMutual;
            return Ok((server, Notes::default()));
        }
        // It may be meant to keep somebody out.
        Some(other) => return Err(Fault::of_option(format!("{TERMINATE_MODE}: {other:?} is not a mode of TLS"))),
    }
    let (certificates, notes) = certificates(cx, hostname, &tls.certificate_refs)?;
    let first = certificates.first().cloned();
    server.certificates = certificates.iter().map(|name| ServerCertificate::Secret(name.clone())).collect();
    server.mode = match asked {
        Some("MUTUAL") => TlsMode::Mutual,
        Some("OPTIONAL_MUTUAL") => TlsMode::OptionalMutual,
        _ => TlsMode::Simple,
    };
    match frontend {
        Some(validation) => {
            server.client_ca = Some(ClientCa::Secret(client_ca(cx, validation)?));
            // An option can make it stricter.
            server.mode = match (asked, &*validation.mode) {
                (Some("MUTUAL"), INSECURE) => TlsMode::Mutual,
                (Some("OPTIONAL_MUTUAL"), INSECURE) => TlsMode::OptionalMutual,
                (_, INSECURE) => {
                    server.accept_untrusted = true;
                    TlsMode::OptionalMutual
                }
                _ => TlsMode::Mutual,
            };
        }
        // Istio's own options take it from beside the certificate.
        None if server.mode != TlsMode::Simple => {
            server.client_ca = first.map(|name| ClientCa::Secret(format!("{name}-cacert").into()));
        }
        None => {}
    }
    Ok((server, notes))
}

/// The names of the certificates that can be had, and what is to be said of
/// them and of the others. Without one there is no TLS.
fn certificates(
    cx: &Checking<'_>,
    hostname: &str,
    references: &[SecretReference],
) -> Result<(Vec<Arc<str>>, Notes), Fault> {
    if references.len() > MOST_CERTIFICATES {
        return Err(Fault::of_server(
            "InvalidCertificateRef",
            format!("there may be {MOST_CERTIFICATES} certificates, and there are {}", references.len()),
        ));
    }
    let (mut names, mut faults, mut remarks): (Vec<Arc<str>>, Vec<Said>, Vec<Said>) = Default::default();
    for reference in references {
        let target = target(reference, &cx.owner.meta.namespace);
        let found = match secret(reference) {
            // It becomes part of a path that the API server is asked for.
            true if !is_name(&target.name) => {
                Err(Said::new("InvalidCertificateRef", format!("{:?} is not the name of a Secret", &*target.name)))
            }
            true => allowed(cx, "Secret", &target).and_then(|()| usable(cx.cx, cx.credentials, &target, hostname)),
            false => Err(Said::new(
                "InvalidCertificateRef",
                format!("a certificate is in a Secret, not in a {} of group {:?}", reference.kind, &*reference.group),
            )),
        };
        match found {
            Ok(Notes { fault, remark }) => {
                names.push(format!("kubernetes-gateway://{target}").into());
                faults.extend(fault);
                remarks.extend(remark);
            }
            Err(said) => faults.push(said),
        }
    }
    match (names.is_empty(), together(faults)) {
        (true, Some(said)) => Err(Fault { resolved: Some(said), accepted: None }),
        (true, None) => Err(Fault::of_server("InvalidCertificateRef", "there is no certificate to present")),
        (false, fault) => Ok((names, Notes { fault, remark: together(remarks) })),
    }
}

/// Several things in one; the first has the reason.
fn together(all: Vec<Said>) -> Option<Said> {
    let reason = all.first()?.reason;
    let messages: Vec<_> = all.iter().map(|one| &*one.message).collect();
    Some(Said::new(reason, messages.join("; ")))
}

/// Who vouches for clients, by the name that proxies ask for it with.
fn client_ca(cx: &Checking<'_>, validation: &FrontendValidation) -> Result<Arc<str>, Fault> {
    let [reference] = &*validation.ca_certificate_refs else {
        let count = validation.ca_certificate_refs.len();
        let message = format!("there is to be one caCertificateRef, and there are {count}");
        return Err(Fault::of_clients("InvalidCACertificateRef", message));
    };
    let target = target(reference, &cx.owner.meta.namespace);
    if !is_name(&target.name) {
        let message = format!("{:?} is not the name of an object", &*target.name);
        return Err(Fault::of_clients("InvalidCACertificateRef", message));
    }
    let (scheme, kind) = match (&*reference.group, &*reference.kind) {
        ("", "ConfigMap") => ("configmap", "ConfigMap"),
        ("", "Secret") => ("kubernetes-gateway", "Secret"),
        (group, kind) => {
            let message = format!("CA certificates are in a ConfigMap or a Secret, not in a {kind} of group {group:?}");
            return Err(Fault::of_clients("InvalidCACertificateKind", message));
        }
    };
    let of_clients = |said: Said| Fault::of_clients(said.reason, said.message);
    allowed(cx, kind, &target).map_err(of_clients)?;
    usable_ca(cx, kind, &target).map_err(of_clients)?;
    Ok(format!("{scheme}://{target}-cacert").into())
}

/// Whether the certificate can be had that backends are shown. istiod does not
/// show it; what is wrong with it is said all the same.
pub(super) fn client_certificate(
    cx: &Ctx<'_>,
    scope: &Scope,
    grants: &ReferenceGrants,
    credentials: &Credentials,
    gateway: &Gateway,
) -> Verdict {
    let backend = gateway.spec.tls.as_ref().and_then(|tls| tls.backend.as_ref());
    let Some(reference) = backend.and_then(|backend| backend.client_certificate_ref.as_ref()) else { return Ok(()) };
    let own = &gateway.meta.namespace;
    let target = target(reference, own);
    if !secret(reference) {
        let message =
            format!("a certificate is in a Secret, not in a {} of group {:?}", reference.kind, &*reference.group);
        return Err(Said::new("InvalidClientCertificateRef", message));
    }
    if !is_name(&target.name) {
        let message = format!("{:?} is not the name of a Secret", &*target.name);
        return Err(Said::new("InvalidClientCertificateRef", message));
    }
    let from = ((GROUP, "Gateway"), &**own);
    if !grants.allow(cx, scope, from, (("", "Secret"), &target)) {
        return Err(not_permitted("Secret", &target));
    }
    let invalid = |said: Said| Err(Said::new("InvalidClientCertificateRef", said.message));
    usable(cx, credentials, &target, "").map_or_else(invalid, |notes| notes.fault.map_or(Ok(()), invalid))
}

pub(super) fn target(reference: &SecretReference, own: &Arc<str>) -> ObjectKey {
    let namespace = if reference.namespace.is_empty() { own } else { &reference.namespace };
    ObjectKey { namespace: namespace.clone(), name: reference.name.clone() }
}

fn secret(reference: &SecretReference) -> bool {
    reference.group.is_empty() && matches!(&*reference.kind, "" | "Secret")
}

/// Whether a reference is allowed. That is asked before whether the target is
/// there, which is nobody's business who may not refer to it.
fn allowed(cx: &Checking<'_>, kind: &str, target: &ObjectKey) -> Verdict {
    match cx.may_refer(kind, target) {
        true => Ok(()),
        false => Err(not_permitted(kind, target)),
    }
}

fn not_permitted(kind: &str, target: &ObjectKey) -> Said {
    Said::new("RefNotPermitted", format!("no ReferenceGrant lets this one refer to {kind} {target}"))
}

/// Whether a Secret is there and has a certificate with its key in it; what
/// should be said about it although it is used.
fn usable(cx: &Ctx<'_>, credentials: &Credentials, target: &ObjectKey, hostname: &str) -> Result<Notes, Said> {
    let place = Place::secret(target.namespace.clone(), target.name.clone());
    let said = |message: String| Said::new("InvalidCertificateRef", message);
    match credentials.certificate(cx, &place) {
        Known::Bad(flaw) => Err(said(flaw.message)),
        // It is being looked for.
        Known::Nothing => Ok(Notes::default()),
        Known::Good(certificate) => {
            let (ends, flaw) = match credentials.age(cx, &place, certificate) {
                Some(flaw) if flaw.reason == EXPIRES => (Some(Said::new(flaw.reason, flaw.message)), None),
                flaw => (None, flaw),
            };
            let other = !hostname.is_empty() && !certificate.covers(hostname);
            let other = other.then(|| Said::new(OTHER_HOST, format!("{place}: the certificate is not for {hostname}")));
            Ok(Notes {
                fault: flaw.map(|flaw| said(flaw.message)),
                remark: together(other.into_iter().chain(ends).collect()),
            })
        }
    }
}

/// Whether a ConfigMap or Secret is there and has CA certificates in it.
fn usable_ca(cx: &Checking<'_>, kind: &str, target: &ObjectKey) -> Verdict {
    let places: Vec<_> = authorities(kind, target).filter(|place| cx.may_refer(kind, &object(place))).collect();
    match cx.credentials.authority(cx.cx, &places) {
        Known::Bad(flaw) => Err(Said::new("InvalidCACertificateRef", flaw.message)),
        Known::Good(_) | Known::Nothing => Ok(()),
    }
}

/// Where certificates of authorities may be for a name: those of a Secret may be
/// beside it, away from keys. The first that is there counts.
pub(super) fn authorities(kind: &str, target: &ObjectKey) -> impl Iterator<Item = Place> {
    let ObjectKey { namespace, name } = target.clone();
    let beside = (kind == "Secret").then(|| Place::secret(namespace.clone(), format!("{name}-cacert")));
    let own = if kind == "Secret" { Place::secret(namespace, name) } else { Place::config_map(namespace, name) };
    beside.into_iter().chain([own])
}

/// The name of the object in a place.
pub(super) fn object(place: &Place) -> ObjectKey {
    ObjectKey { namespace: place.namespace.clone(), name: place.name.clone() }
}

/// Whether Istio's options have clients prove who they are.
pub(super) fn asks_clients(tls: &ListenerTls) -> bool {
    matches!(tls.options.get(TERMINATE_MODE), Some("MUTUAL" | "OPTIONAL_MUTUAL"))
}

/// What is asked of clients on a port.
pub(super) fn frontend(spec: &GatewaySpec, port: u16) -> Option<&FrontendValidation> {
    let frontend = spec.tls.as_ref()?.frontend.as_ref()?;
    let of_port = frontend.per_port.iter().find(|one| one.port == port).map(|one| &one.tls);
    let validation = of_port.unwrap_or(&frontend.default).validation.as_ref()?;
    (!validation.ca_certificate_refs.is_empty()).then_some(validation)
}

fn cipher_suites(tls: &ListenerTls) -> Box<[Arc<str>]> {
    let named = tls.options.get(CIPHER_SUITES).unwrap_or_default();
    named.split(',').map(str::trim).filter(|name| !name.is_empty()).map(Into::into).collect()
}

/// Whether a listener is for the proxies of other networks, whose server names
/// say where they want to go.
fn is_auto_passthrough(meta: &Meta, port: u16, tls: &ListenerTls) -> bool {
    if tls.options.get(LISTENER_PROTOCOL) == Some("auto-passthrough") {
        return true;
    }
    let expected = meta.label("networking.istio.io/gatewayPort").unwrap_or("15443");
    meta.label("topology.istio.io/network").is_some() && port.to_string() == expected
}
