//! THE table of GatewayClasses: which there are without anybody making them,
//! and what their controllers do. One row gives a class its object, its status
//! and the life of its Gateways.
//! <https://istio.io/latest/docs/ambient/usage/waypoint/>

use serde_json::{Value, json};

use super::World;
use super::status::condition;
use crate::controller::resource::{Manner, Reference, Resource, Write};
use crate::model::binding::WAYPOINT_CONTROLLER;
use crate::model::gateway::kubernetes::CONTROLLER;

/// What implements the Gateways of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Template {
    /// A waypoint of its own.
    Waypoint,
    /// A gateway of its own.
    Gateway,
}

impl Template {
    /// What the proxy's agent is told to be.
    pub const fn role(self) -> &'static str {
        match self {
            Self::Waypoint => "waypoint",
            Self::Gateway => "router",
        }
    }
}

/// A class.
#[derive(Debug)]
pub struct Class {
    /// Its name.
    pub name: &'static str,
    /// The controller that its object names.
    pub controller: &'static str,
    /// For people.
    pub description: &'static str,
}

/// A controller, which may have classes of others' making.
#[derive(Debug)]
pub struct Controller {
    /// The name that classes use.
    pub name: &'static str,
    /// The label on what is made for a Gateway.
    pub label: &'static str,
    /// What is made for a Gateway.
    pub template: Template,
    /// What the class's status says.
    pub accepted: &'static str,
    /// What of the Gateway API works, by the names of its conformance suite.
    pub features: &'static [&'static str],
}

/// The class with the old name of waypoints.
pub const OLD_WAYPOINT_CLASS: &str = "istio-mesh";

/// The classes that are always there.
pub const CLASSES: &[Class] = &[
    Class { name: "istio", controller: CONTROLLER, description: "Gateways at the edge of the mesh" },
    Class {
        name: "istio-waypoint",
        controller: WAYPOINT_CONTROLLER,
        description: "Waypoints: HTTP routes and policies inside the mesh",
    },
    Class {
        name: OLD_WAYPOINT_CLASS,
        controller: WAYPOINT_CONTROLLER,
        description: "The old name of the class istio-waypoint",
    },
];

/// The controllers we are.
pub const CONTROLLERS: &[Controller] = &[
    Controller {
        name: CONTROLLER,
        label: "istio.io-gateway-controller",
        template: Template::Gateway,
        accepted: "Handled by Istio controller",
        features: &[
            "BackendTLSPolicy",
            "BackendTLSPolicySANValidation",
            "GRPCRoute",
            "GRPCRouteNamedRouteRule",
            "Gateway",
            "GatewayAddressEmpty",
            "GatewayFrontendClientCertificateValidation",
            "GatewayFrontendClientCertificateValidationInsecureFallback",
            "GatewayHTTPListenerIsolation",
            "GatewayInfrastructure",
            "GatewayPort8080",
            "GatewayStaticAddresses",
            "HTTPRoute",
            "HTTPRoute303RedirectStatusCode",
            "HTTPRoute307RedirectStatusCode",
            "HTTPRoute308RedirectStatusCode",
            "HTTPRouteBackendProtocolH2C",
            "HTTPRouteBackendProtocolWebSocket",
            "HTTPRouteBackendRequestHeaderModification",
            "HTTPRouteBackendTimeout",
            "HTTPRouteCORS",
            "HTTPRouteDestinationPortMatching",
            "HTTPRouteHostRewrite",
            "HTTPRouteMethodMatching",
            "HTTPRouteNamedRouteRule",
            "HTTPRouteParentRefPort",
            "HTTPRoutePathRedirect",
            "HTTPRoutePathRewrite",
            "HTTPRoutePortRedirect",
            "HTTPRouteQueryParamMatching",
            "HTTPRouteRequestMirror",
            "HTTPRouteRequestMultipleMirrors",
            "HTTPRouteRequestPercentageMirror",
            "HTTPRouteRequestTimeout",
            "HTTPRouteResponseHeaderModification",
            "HTTPRouteRetry",
            "HTTPRouteRetryBackendTimeout",
            "HTTPRouteRetryConnectionError",
            "HTTPRouteSchemeRedirect",
            "ListenerSet",
            "ReferenceGrant",
            "TCPRoute",
            "TLSRoute",
            "TLSRouteModeMixed",
            "TLSRouteModeTerminate",
        ],
    },
    Controller {
        name: WAYPOINT_CONTROLLER,
        label: "istio.io-mesh-controller",
        template: Template::Waypoint,
        accepted: "Handled by Istio controller",
        // Sorted, as the API asks for.
        features: &[
            "GRPCRoute",
            "HTTPRoute",
            "HTTPRoute303RedirectStatusCode",
            "HTTPRoute307RedirectStatusCode",
            "HTTPRoute308RedirectStatusCode",
            "HTTPRouteBackendProtocolH2C",
            "HTTPRouteBackendProtocolWebSocket",
            "HTTPRouteBackendRequestHeaderModification",
            "HTTPRouteBackendTimeout",
            "HTTPRouteCORS",
            "HTTPRouteHostRewrite",
            "HTTPRouteMethodMatching",
            "HTTPRouteParentRefPort",
            "HTTPRoutePathRedirect",
            "HTTPRoutePathRewrite",
            "HTTPRoutePortRedirect",
            "HTTPRouteQueryParamMatching",
            "HTTPRouteRequestMirror",
            "HTTPRouteRequestMultipleMirrors",
            "HTTPRouteRequestPercentageMirror",
            "HTTPRouteRequestTimeout",
            "HTTPRouteResponseHeaderModification",
            "HTTPRouteSchemeRedirect",
            "Mesh",
            "MeshClusterIPMatching",
            "MeshHTTPRouteBackendRequestHeaderModification",
            "MeshHTTPRouteNamedRouteRule",
            "MeshHTTPRouteQueryParamMatching",
            "MeshHTTPRouteRedirectPath",
            "MeshHTTPRouteRedirectPort",
            "MeshHTTPRouteRewritePath",
            "MeshHTTPRouteSchemeRedirect",
            "ReferenceGrant",
        ],
    },
];

/// The controller of a Gateway's class. A class without an object is what the
/// table says; one with an object is what the object says.
pub fn controller(world: &World, class: &str) -> Option<&'static Controller> {
    let name = match world.classes.get(class) {
        Some(object) => object["spec"]["controllerName"].as_str()?,
        None => CLASSES.iter().find(|one| one.name == class)?.controller,
    };
    CONTROLLERS.iter().find(|one| one.name == name)
}

/// What there is to write about one class: its object if there is none, its
/// status if it names a controller of ours. An object that somebody else made
/// is theirs.
pub fn plan(world: &World, name: &str, now: &str) -> Option<Write> {
    let Some(live) = world.classes.get(name) else {
        let class = CLASSES.iter().find(|class| class.name == name)?;
        return Some(Write {
            object: Reference::new(Resource::GatewayClass, "", name),
            manner: Manner::Create,
            body: json!({
                "apiVersion": Resource::GatewayClass.api_version(),
                "kind": Resource::GatewayClass.kind(),
                "metadata": { "name": name },
                "spec": { "controllerName": class.controller, "description": class.description },
            }),
        });
    };
    let controller = live["spec"]["controllerName"].as_str()?;
    let controller = CONTROLLERS.iter().find(|one| one.name == controller)?;
    let features: Vec<Value> = controller.features.iter().map(|name| json!({ "name": name })).collect();
    let accepted =
        condition(live, &live["status"]["conditions"], now, ("Accepted", true, "Accepted", controller.accepted));
    let body = json!({
        "apiVersion": Resource::GatewayClass.api_version(),
        "kind": Resource::GatewayClass.kind(),
        "metadata": { "name": name },
        "status": { "conditions": [accepted], "supportedFeatures": features },
    });
    Some(Write { object: Reference::new(Resource::GatewayClass, "", name), manner: Manner::ApplyStatus, body })
}
