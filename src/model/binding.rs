//! Whether what asks for a waypoint has it, as users are told: istiod's
//! condition `istio.io/WaypointBound` of Services and ServiceEntries, with its
//! reasons and messages.
//! <https://istio.io/latest/docs/ambient/usage/waypoint/>

use std::sync::Arc;

use crate::api::{Meta, ObjectKey};
use crate::graph::Ctx;

use super::Model;
use super::service::{ServiceKey, hostname};
use super::waypoint::canary::canary;
use super::waypoint::{MANAGED, TrafficType, Unattached, is_gateway};

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

/// The controller of the classes of waypoints, as GatewayClasses name it.
pub const WAYPOINT_CONTROLLER: &str = "istio.io/mesh-controller";

/// The same for a Service, which may also have one by the account of its pods.
pub fn binding_of_service(cx: &Ctx<'_>, model: &Model, meta: &Meta) -> Option<Binding> {
    of_account(cx, model, &meta.key()).or_else(|| binding(cx, model, meta))
}

/// Whether an object, or else its namespace, says that traffic from gateways goes
/// through its waypoint; none if neither says anything.
pub fn ingress_use(cx: &Ctx<'_>, model: &Model, meta: &Meta) -> Option<bool> {
    let inherited = || model.scope().namespace(cx, &meta.namespace)?.label(INGRESS);
    let value = meta.label(INGRESS).or_else(inherited)?;
    Some(matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True"))
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

/// Whether an object has the waypoint that it asks for; none if it does not
/// ask.
pub fn binding(cx: &Ctx<'_>, model: &Model, meta: &Meta) -> Option<Binding> {
    if is_gateway(meta.label(MANAGED)) || !model.scope().discovers(cx, &meta.namespace) {
        return None;
    }
    let traffic = &TrafficType::Service;
    match model.attached(cx, &meta.namespace, &meta.labels, traffic) {
        Ok(None) => None,
        Ok(Some((waypoint, _))) => {
            let canary = canary(cx, model.scope(), model.waypoints, meta, &waypoint).err();
            let canary = canary.map(|why| format!(". Canary waypoint not attached: {}", message(&why)));
            let canary = canary.unwrap_or_default();
            let ingress = match ingress_use(cx, model, meta) {
                None => "",
                Some(true) => ". Ingress traffic will traverse the waypoint",
                Some(false) => {
                    ". Ingress traffic is not using the waypoint, set the istio.io/ingress-use-waypoint label to true \
                     if desired."
                }
            };
            let message = format!("Successfully attached to waypoint {waypoint}{ingress}{canary}").into();
            Some(Binding { bound: true, reason: "WaypointAccepted", message })
        }
        Err(unattached) => {
            let message = message(&unattached).into();
            Some(Binding { bound: false, reason: unattached.reason, message })
        }
    }
}

/// istiod's message.
fn message(Unattached { waypoint, reason, .. }: &Unattached) -> String {
    match *reason {
        "AttachmentDenied" => {
            format!("we are not permitted to attach to waypoint \"{waypoint}\" (missing allowedRoutes?)")
        }
        "UnsupportedTrafficType" => {
            format!("attempting to bind to traffic type \"service\" which the waypoint \"{waypoint}\" does not support")
        }
        "CanaryInvalidWeight" => {
            format!("canary waypoint \"{waypoint}\" has an invalid weight; must be an integer in [0,100]")
        }
        "CanarySameAsPrimary" => format!("canary waypoint \"{waypoint}\" must differ from the primary waypoint"),
        _ => format!("waypoint \"{waypoint}\" is not ready"),
    }
}
