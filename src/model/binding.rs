//! Whether what asks for a waypoint has it, as users are told: istiod's
//! condition `istio.io/WaypointBound` of Services and ServiceEntries, with its
//! reasons and messages.
//! <https://istio.io/latest/docs/ambient/usage/waypoint/>

use std::sync::Arc;

use crate::api::{Kind, Meta, ObjectKey};
use crate::graph::{Collection, Ctx, Graph};

use super::Model;
use super::service::{ServiceKey, hostname};
use super::waypoint::{MANAGED, TrafficType, is_gateway};

const INGRESS: &str = "istio.io/ingress-use-waypoint";

/// What the condition says of an object that asks for a waypoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Whether traffic goes through it.
    pub bound: bool,
    /// istiod's reason.
    pub reason: &'static str,
    /// istiod's message.
    pub message: Arc<str>,
}

/// The bindings of all objects that ask for a waypoint, with their kinds.
pub type Collections = [(Kind, Collection<ObjectKey, Binding>); 2];

/// Declares the bindings.
pub fn bindings(graph: &mut Graph, model: &Model) -> Collections {
    let of_services = model.clone();
    let services = graph.derive("service_bindings", model.inputs.services, move |cx, key, service| {
        let found = of_account(cx, &of_services, key).or_else(|| binding(cx, &of_services, &service.meta));
        found.map(|binding| (key.clone(), binding))
    });
    let of_entries = model.clone();
    let entries = graph.derive("service_entry_bindings", model.inputs.service_entries, move |cx, key, entry| {
        binding(cx, &of_entries, &entry.meta).map(|binding| (key.clone(), binding))
    });
    [(Kind::Service, services), (Kind::ServiceEntry, entries)]
}

/// What is said of a Service that has a waypoint by the account of its pods.
fn of_account(cx: &Ctx<'_>, model: &Model, key: &ObjectKey) -> Option<Binding> {
    let hostname = hostname(&key.name, &key.namespace, &model.settings.domain);
    let service = ServiceKey { namespace: key.namespace.clone(), hostname };
    let waypoint = cx.get(model.service_waypoints, &service)?;
    let account = cx.get(model.waypoints, waypoint)?.account.as_ref()?;
    let message = format!("Successfully attached to waypoint {waypoint}, by the service account {account}");
    Some(Binding { bound: true, reason: "WaypointAccepted", message: message.into() })
}

fn binding(cx: &Ctx<'_>, model: &Model, meta: &Meta) -> Option<Binding> {
    if is_gateway(meta.label(MANAGED)) || !model.scope().discovers(cx, &meta.namespace) {
        return None;
    }
    let traffic = &TrafficType::Service;
    match model.attached(cx, &meta.namespace, &meta.labels, traffic) {
        Ok(None) => None,
        Ok(Some((waypoint, _))) => {
            let own = meta.label(INGRESS);
            let inherited = || model.scope().namespace(cx, &meta.namespace)?.label(INGRESS);
            let ingress = match own.or_else(inherited) {
                None => "",
                Some("1" | "t" | "T" | "true" | "TRUE" | "True") => ". Ingress traffic will traverse the waypoint",
                Some(_) => {
                    ". Ingress traffic is not using the waypoint, set the istio.io/ingress-use-waypoint label to true \
                     if desired."
                }
            };
            let message = format!("Successfully attached to waypoint {waypoint}{ingress}").into();
            Some(Binding { bound: true, reason: "WaypointAccepted", message })
        }
        Err(unattached) => {
            let waypoint = &unattached.waypoint;
            let message = match unattached.reason {
                "AttachmentDenied" => {
                    format!("we are not permitted to attach to waypoint \"{waypoint}\" (missing allowedRoutes?)")
                }
                "UnsupportedTrafficType" => format!(
                    "attempting to bind to traffic type \"service\" which the waypoint \"{waypoint}\" does not support"
                ),
                _ => format!("waypoint \"{waypoint}\" is not ready"),
            };
            Some(Binding { bound: false, reason: unattached.reason, message: message.into() })
        }
    }
}
