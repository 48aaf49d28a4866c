//! TLS of the Gateway API's listeners: which Secrets are presented, who vouches
//! for clients, and whether all of that may be referred to.
//! <https://gateway-api.sigs.k8s.io/guides/tls/>

use std::sync::Arc;

use crate::api::gateway::{FrontendValidation, Gateway, GatewaySpec, ListenerTls, SecretReference};
use crate::api::route::GROUP;
use crate::api::{Meta, ObjectKey};
use crate::credential::Place;
use crate::graph::Ctx;
use crate::model::Scope;
use crate::model::reference_grant::ReferenceGrants;
use crate::model::secret::check::EXPIRES;
use crate::model::secret::{Credentials, Known};

use super::super::{ClientCa, ServerCertificate, ServerTls, TlsMode};
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

/// Why TLS cannot be had.
pub(super) struct Fault {
    /// What is wrong with a reference.
    pub(super) resolved: Said,
    /// Whether the listener is refused for that, and why.
    pub(super) accepted: Option<Said>,
}

impl Fault {
    fn of_server(reason: &'static str, message: impl Into<Arc<str>>) -> Self {
        Self { resolved: Said::new(reason, message), accepted: None }
    }

    /// Nobody could be told from anybody else, so nobody is let in.
    fn of_clients(reason: &'static str, message: impl Into<Arc<str>>) -> Self {
        let message = message.into();
        let accepted = Said::new("NoValidCACertificate", message.clone());
        Self { resolved: Said::new(reason, message), accepted: Some(accepted) }
    }
}

/// What is to be said of certificates that are presented all the same.
#[derive(Default)]
pub(super) struct Notes {
    /// What is wrong with a part that can be left out, or with one that is used
    /// until it is mended.
    pub(super) fault: Option<Said>,
    /// What may be meant so: a certificate may be for names that its clients
    /// know how to compare.
    pub(super) remark: Option<Arc<str>>,
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
            server.mode = TlsMode::AutoPassthrough;
        }
        return Ok((server, Notes::default()));
    }
    let asked = tls.options.get(TERMINATE_MODE);
    match asked {
        // The certificate of the workload.
        Some("ISTIO_SIMPLE") => {
            server.certificates = [ServerCertificate::Secret("builtin://".into())].into();
            return Ok((server, Notes::default()));
        }
        Some("ISTIO_MUTUAL") => {
            server.mode = TlsMode::IstioMutual;
            return Ok((server, Notes::default()));
        }
        _ => {}
    }
    let (certificates, notes) = certificates(cx, hostname, &tls.certificate_refs)?;
    let first = certificates.first().cloned();
    server.certificates = certificates.iter().map(|name| ServerCertificate::Secret(name.clone())).collect();
    server.mode = match asked {
        Some("MUTUAL") => TlsMode::Mutual,
        Some("OPTIONAL_MUTUAL") => TlsMode::OptionalMutual,
        _ => TlsMode::Simple,
    };
    match frontend(cx.spec, port) {
        Some(validation) => {
            server.client_ca = Some(ClientCa::Secret(client_ca(cx, validation)?));
            server.mode = match (asked, &*validation.mode) {
                (Some("MUTUAL"), _) => TlsMode::Mutual,
                (Some("OPTIONAL_MUTUAL"), _) => TlsMode::OptionalMutual,
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
    let (mut names, mut faults, mut remarks): (Vec<Arc<str>>, Vec<Said>, Vec<Arc<str>>) = Default::default();
    for reference in references {
        let target = target(reference, &cx.owner.meta.namespace);
        let found = match secret(reference) {
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
    let said = faults.first().map(|first| {
        let messages: Vec<_> = faults.iter().map(|one| &*one.message).collect();
        Said::new(first.reason, messages.join("; "))
    });
    match (names.is_empty(), said) {
        (true, Some(said)) => Err(Fault { resolved: said, accepted: None }),
        (true, None) => Err(Fault::of_server("InvalidCertificateRef", "there is no certificate to present")),
        (false, fault) => {
            let remark = (!remarks.is_empty()).then(|| remarks.join("; ").into());
            Ok((names, Notes { fault, remark }))
        }
    }
}

/// Who vouches for clients, by the name that proxies ask for it with.
fn client_ca(cx: &Checking<'_>, validation: &FrontendValidation) -> Result<Arc<str>, Fault> {
    let [reference] = &*validation.ca_certificate_refs else {
        let count = validation.ca_certificate_refs.len();
        let message = format!("there is to be one caCertificateRef, and there are {count}");
        return Err(Fault::of_clients("InvalidCACertificateRef", message));
    };
    let target = target(reference, &cx.owner.meta.namespace);
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
    usable_ca(cx.cx, cx.credentials, kind, &target).map_err(of_clients)?;
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
            let flaw = credentials.age(cx, &place, certificate).filter(|flaw| flaw.reason != EXPIRES);
            let other = !hostname.is_empty() && !certificate.covers(hostname);
            Ok(Notes {
                fault: flaw.map(|flaw| said(flaw.message)),
                remark: other.then(|| format!("{place}: the certificate is not for {hostname}").into()),
            })
        }
    }
}

/// Whether a ConfigMap or Secret is there and has CA certificates in it.
fn usable_ca(cx: &Ctx<'_>, credentials: &Credentials, kind: &str, target: &ObjectKey) -> Verdict {
    let ObjectKey { namespace, name } = target.clone();
    let places = match kind {
        "ConfigMap" => vec![Place::config_map(namespace, name)],
        _ => vec![Place::secret(namespace.clone(), format!("{name}-cacert")), Place::secret(namespace, name)],
    };
    match credentials.authority(cx, &places) {
        Known::Bad(flaw) => Err(Said::new("InvalidCACertificateRef", flaw.message)),
        Known::Good(_) | Known::Nothing => Ok(()),
    }
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
