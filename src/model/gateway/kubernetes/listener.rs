//! One listener of a Gateway or of a `ListenerSet`: what it asks for, and
//! whether that can be done.
//! <https://gateway-api.sigs.k8s.io/reference/spec/#listener>

use std::sync::Arc;

use crate::api::Meta;
use crate::api::gateway::{self, GatewaySpec, RouteNamespaces};
use crate::api::route::GROUP;
use crate::graph::Ctx;
use crate::model::reference_grant::ReferenceGrants;
use crate::model::secret::Credentials;
use crate::model::{Scope, problem};

use super::super::{Declared, RouteKind, Server, ServerHost, ServerProtocol, ServerTls, TlsMode};
use super::{Role, Said, Verdict, tls};

/// Where waypoints take HBONE.
const HBONE: u16 = 15008;

/// A listener, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// Its name.
    pub name: Arc<str>,
    /// Its port; 0 if it has none.
    pub port: u16,
    /// Its protocol, as the object has it.
    pub protocol: Arc<str>,
    /// The host it is for, in lower case; empty is any.
    pub hostname: Arc<str>,
    /// The kinds of routes that may attach to it.
    pub kinds: Box<[RouteKind]>,
    /// The namespaces whose routes may.
    pub namespaces: RouteNamespaces,
    /// Why it conflicts with another one, if it does.
    pub conflict: Option<&'static str>,
    /// Whether it is one that can be.
    pub accepted: Verdict,
    /// Whether what it refers to is there.
    pub resolved: Verdict,
    /// What should be said of that although it is.
    pub remark: Option<Said>,
    /// Whether proxies are told to listen.
    pub programmed: Verdict,
    /// What they are told.
    pub server: Option<Box<Server>>,
}

impl Listener {
    /// Whether nothing is wrong that would keep it from being listened on. One
    /// that waits for others to complete it is not wrong.
    pub fn valid(&self) -> bool {
        self.conflict.is_none() && self.accepted.is_ok() && (self.programmed.is_ok() || self.placeholder())
    }

    /// Whether it only stands for those that a `ListenerSet` adds: it says TLS,
    /// and not how.
    fn placeholder(&self) -> bool {
        matches!(&self.programmed, Err(said) if said.reason == "Pending")
    }

    /// What proxies are told of it, which is the `at`th of its object: what it
    /// asks for, or else to keep its hosts from other listeners, if it says how
    /// TLS ends and that cannot be had.
    pub(super) fn told(&self, at: usize) -> Option<Server> {
        let impossible = self.conflict.is_none() && !self.placeholder() && self.port != 0;
        match protocol(&self.protocol) {
            _ if self.server.is_some() => self.server.as_deref().cloned(),
            Some(protocol @ (ServerProtocol::Https | ServerProtocol::Tls)) if impossible => {
                Some(self.server(at, protocol, Some(ServerTls::closed())))
            }
            _ => None,
        }
    }

    fn server(&self, at: usize, protocol: ServerProtocol, tls: Option<ServerTls>) -> Server {
        Server {
            name: self.name.clone(),
            port: self.port,
            port_name: "default".into(),
            protocol,
            grpc_web: false,
            bind: "".into(),
            hosts: [host(&self.hostname)].into(),
            tls: tls.map(Box::new),
            field: format!("spec.listeners[{at}]").into(),
        }
    }

    /// Whether routes can attach to it at all.
    pub fn takes_routes(&self) -> bool {
        self.conflict.is_none() && protocol(&self.protocol).is_some()
    }
}

/// Whose listeners are checked.
#[derive(Clone, Copy)]
pub struct Owner<'a> {
    /// The kind of the object.
    pub declared: Declared,
    /// The object.
    pub meta: &'a Meta,
}

/// What is needed to check a listener.
pub(super) struct Checking<'a> {
    pub(super) cx: &'a Ctx<'a>,
    pub(super) scope: &'a Scope,
    pub(super) grants: &'a ReferenceGrants,
    pub(super) credentials: &'a Credentials,
    /// Of the Gateway.
    pub(super) spec: &'a GatewaySpec,
    pub(super) role: Role,
    pub(super) owner: Owner<'a>,
}

/// The port of a listener: in a `ListenerSet` it may be left to the protocol.
pub(super) fn port(listener: &gateway::Listener) -> u16 {
    match (listener.port, &*listener.protocol) {
        (0, "HTTP") => 80,
        (0, "HTTPS") => 443,
        (port, _) => port,
    }
}

fn protocol(name: &str) -> Option<ServerProtocol> {
    Some(match name {
        "HTTP" => ServerProtocol::Http,
        "HTTPS" => ServerProtocol::Https,
        "TLS" => ServerProtocol::Tls,
        "TCP" => ServerProtocol::Tcp,
        _ => return None,
    })
}

impl Checking<'_> {
    /// Checks a listener, and says what is wrong with it.
    pub(super) fn listener(&self, at: usize, one: &gateway::Listener, conflict: Option<&'static str>) -> Listener {
        let mut listener = match self.role {
            Role::Gateway => self.of_gateway(at, one, conflict),
            Role::Waypoint => of_waypoint(one, conflict),
        };
        if let Some(reason) = conflict {
            listener.server = None;
            let message = "the listener conflicts with another one of the same Gateway, which comes first";
            listener.accepted = Err(Said::new(reason, message));
            listener.programmed = Err(Said::new(reason, message));
        }
        let verdicts = [&listener.accepted, &listener.resolved, &listener.programmed];
        // The cause, not all that follows from it.
        if let Some(Err(said)) = verdicts.into_iter().find(|verdict| verdict.is_err()) {
            let field = format!("spec.listeners[{at}]");
            let kind = self.owner.declared.kind();
            self.cx.diagnose(problem(kind, self.owner.meta, field, said.reason, &*said.message));
        }
        listener
    }

    fn of_gateway(&self, at: usize, one: &gateway::Listener, conflict: Option<&'static str>) -> Listener {
        let (kinds, known) = kinds(one);
        let port = port(one);
        let mut listener = Listener {
            name: one.name.clone(),
            port,
            protocol: one.protocol.clone(),
            hostname: one.hostname.to_ascii_lowercase().into(),
            kinds,
            namespaces: one.allowed_routes.namespaces.clone(),
            conflict,
            accepted: Ok(()),
            resolved: match known {
                true => Ok(()),
                false => {
                    Err(Said::new("InvalidRouteKinds", "allowedRoutes.kinds has kinds that this protocol has not"))
                }
            },
            remark: None,
            programmed: Ok(()),
            server: None,
        };
        let Some(protocol) = protocol(&one.protocol) else {
            let message = match &*one.protocol {
                "HBONE" => "protocol HBONE is for waypoints alone".to_owned(),
                other => format!("protocol {other:?} is not one that a gateway serves"),
            };
            listener.accepted = Err(Said::new("UnsupportedProtocol", message));
            listener.programmed = Err(Said::new("Invalid", "the protocol is not supported"));
            return listener;
        };
        if port == 0 {
            let message = format!("protocol {} needs a port", one.protocol);
            listener.accepted = Err(Said::new("UnsupportedProtocol", message));
            listener.programmed = Err(Said::new("Invalid", "there is no port to listen on"));
            return listener;
        }
        let tls = match (&one.tls, protocol) {
            (Some(tls), _) => match tls::server(self, (port, &listener.hostname), tls) {
                Ok((tls, tls::Notes { fault, remark })) => {
                    listener.resolved = fault.map_or(listener.resolved, Err);
                    listener.remark = remark;
                    Some(tls)
                }
                Err(fault) => {
                    let message = format!("bad TLS configuration: {}", fault.message());
                    listener.programmed = Err(Said::new("Invalid", message));
                    listener.resolved = fault.resolved.map_or(listener.resolved, Err);
                    listener.accepted = fault.accepted.map_or(listener.accepted, Err);
                    return listener;
                }
            },
            (None, ServerProtocol::Https | ServerProtocol::Tls) => {
                let message = format!("protocol {} needs tls, and there is none", one.protocol);
                // A Gateway must have a listener, so there are some that stand
                // for those that are added to it.
                (listener.accepted, listener.programmed) = match self.owner.declared {
                    Declared::ListenerSet => {
                        (Err(Said::new("UnsupportedProtocol", message)), Err(Said::new("Invalid", "there is no tls")))
                    }
                    _ => (Ok(()), Err(Said::new("Pending", message))),
                };
                return listener;
            }
            (None, ServerProtocol::Http | ServerProtocol::Tcp) => None,
        };
        listener.server = Some(Box::new(listener.server(at, protocol, tls)));
        listener
    }

    /// Whether a Secret or ConfigMap of another namespace may be referred to.
    pub(super) fn may_refer(&self, kind: &str, target: &crate::api::ObjectKey) -> bool {
        let from = ((GROUP, self.owner.declared.kind()), &*self.owner.meta.namespace);
        self.grants.allow(self.cx, self.scope, from, (("", kind), target))
    }
}

fn host(hostname: &Arc<str>) -> ServerHost {
    ServerHost { namespace: None, host: if hostname.is_empty() { "*".into() } else { hostname.clone() } }
}

/// The kinds of routes that a listener takes, and whether those are all that it
/// lists.
fn kinds(one: &gateway::Listener) -> (Box<[RouteKind]>, bool) {
    let terminates = one.tls.as_ref().is_some_and(|tls| tls::mode(tls) != TlsMode::Passthrough);
    let of_protocol: &[RouteKind] = match &*one.protocol {
        "HTTP" | "HTTPS" => &[RouteKind::HTTPRoute, RouteKind::GRPCRoute],
        "TLS" if terminates => &[RouteKind::TLSRoute, RouteKind::TCPRoute],
        "TLS" => &[RouteKind::TLSRoute],
        "TCP" => &[RouteKind::TCPRoute],
        _ => &[],
    };
    let listed = &one.allowed_routes.kinds;
    if listed.is_empty() {
        return (of_protocol.into(), true);
    }
    let names = |kind: RouteKind, listed: &gateway::RouteGroupKind| {
        listed.group.as_deref().unwrap_or(GROUP) == GROUP && *listed.kind == *name(kind)
    };
    let kinds: Box<[_]> =
        of_protocol.iter().copied().filter(|kind| listed.iter().any(|one| names(*kind, one))).collect();
    let known = listed.iter().all(|one| of_protocol.iter().any(|kind| names(*kind, one)));
    (kinds, known)
}

/// The name of a kind of routes.
pub const fn name(kind: RouteKind) -> &'static str {
    match kind {
        RouteKind::VirtualService => "VirtualService",
        RouteKind::HTTPRoute => "HTTPRoute",
        RouteKind::GRPCRoute => "GRPCRoute",
        RouteKind::TLSRoute => "TLSRoute",
        RouteKind::TCPRoute => "TCPRoute",
        RouteKind::Ingress => "Ingress",
    }
}

/// A listener of a waypoint. No route attaches to it by name: routes are of the
/// services that use the waypoint.
fn of_waypoint(one: &gateway::Listener, conflict: Option<&'static str>) -> Listener {
    let accepted = match &*one.protocol {
        "HBONE" if one.port != HBONE => {
            let message = format!("protocol HBONE is served at port {HBONE}, not at {}", one.port);
            Err(Said::new("PortUnavailable", message))
        }
        "HBONE" | "HTTP" | "HTTPS" | "TLS" | "TCP" | "ALL" | "istio.io/PROXY" => Ok(()),
        other => Err(Said::new("UnsupportedProtocol", format!("protocol {other} is not one that a waypoint serves"))),
    };
    Listener {
        name: one.name.clone(),
        port: one.port,
        protocol: one.protocol.clone(),
        hostname: one.hostname.clone(),
        kinds: Box::default(),
        namespaces: one.allowed_routes.namespaces.clone(),
        conflict,
        programmed: accepted.clone().map_err(|said| Said::new("Invalid", said.message)),
        accepted,
        resolved: Ok(()),
        remark: None,
        server: None,
    }
}
