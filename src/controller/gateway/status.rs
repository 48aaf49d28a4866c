//! What the status of a Gateway says. Conditions are the Gateway API's, with
//! the messages that istiod writes where the meaning is the same.
//!
//! `Programmed` is honest: a waypoint has taken its configuration. A proxy that
//! is connected here says so by its acknowledgements; one that is connected to
//! another replica, by the readiness of its pod, which Istio's agent reports
//! only when its Envoy has clusters and listeners.
//! <https://gateway-api.sigs.k8s.io/reference/spec/#gatewaystatus>

use serde_json::{Value, json};

use crate::api::gateway::{Gateway, Listener};
use crate::controller::resource::Reference;

use super::Proxies;
use super::class::OLD_WAYPOINT_CLASS;
use super::settings::Settings;
use super::template::HBONE;

/// What is known of what a Gateway stands for.
pub struct Facts<'a> {
    /// The Gateway as the API server has it.
    pub object: &'a Value,
    /// The same.
    pub gateway: &'a Gateway,
    /// The Service that its traffic goes to, and its name.
    pub service: (&'a Reference, Option<&'a Value>),
    /// Its Deployment, if it is ours.
    pub deployment: Option<&'a Value>,
    /// Objects of somebody else's with the names that ours would have.
    pub foreign: &'a [Reference],
    /// Why its parameters cannot be honoured.
    pub invalid: Option<&'a str>,
    /// Its proxies that are connected here.
    pub proxies: Proxies,
    /// Whether its proxies are ours to make.
    pub managed: bool,
}

/// A condition: type, status, reason, message.
pub type Said<'a> = (&'a str, bool, &'a str, &'a str);

/// A condition of an object. The time of a status that has not changed stays.
pub fn condition(object: &Value, known: &Value, now: &str, (kind, status, reason, message): Said<'_>) -> Value {
    let status = if status { "True" } else { "False" };
    let known = known.as_array().into_iter().flatten().find(|one| one["type"] == kind && one["status"] == status);
    let since = known.and_then(|one| one["lastTransitionTime"].as_str()).unwrap_or(now);
    json!({
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": object["metadata"]["generation"].as_i64().unwrap_or(0),
        "lastTransitionTime": since,
    })
}

/// The status to be.
pub fn status(settings: &Settings, facts: &Facts<'_>, now: &str) -> Value {
    let known = &facts.object["status"];
    let addresses = addresses(settings, facts);
    let invalid: Vec<_> = facts.gateway.spec.listeners.iter().filter(|one| refusal(one).is_some()).collect();
    let accepted = match (invalid.as_slice(), &*facts.gateway.spec.gateway_class_name) {
        _ if facts.invalid.is_some() => (false, "InvalidParameters", facts.invalid.unwrap_or_default().to_owned()),
        ([], OLD_WAYPOINT_CLASS) => (true, "Accepted", old_form(facts)),
        ([], _) => (true, "Accepted", "Resource accepted".to_owned()),
        (invalid, _) => {
            let names: Vec<_> = invalid.iter().map(|one| &*one.name).collect();
            let some = invalid.len() < facts.gateway.spec.listeners.len();
            (some, "ListenersNotValid", format!("Invalid listeners: {}", names.join(", ")))
        }
    };
    let programmed = programmed(settings, facts, !addresses.is_empty());
    let conditions = [("Accepted", &accepted), ("Programmed", &programmed)];
    let conditions = conditions.map(|(kind, (status, reason, message))| {
        condition(facts.object, &known["conditions"], now, (kind, *status, reason, message))
    });
    let mut status = json!({
        "conditions": conditions,
        "listeners": listeners(facts, &programmed, now),
    });
    // An address that was given stays: a waypoint without one is none, and its
    // traffic would go past it.
    let kept = known["addresses"].as_array().filter(|list| !list.is_empty());
    match (addresses.is_empty(), kept) {
        (false, _) => status["addresses"] = json!(addresses),
        (true, Some(kept)) => status["addresses"] = json!(kept),
        (true, None) => {}
    }
    status
}

/// What the user of the old class is told to write instead.
fn old_form(facts: &Facts<'_>) -> String {
    let account = facts.gateway.meta.annotation("istio.io/service-account");
    let label = format!("istio.io/use-waypoint: {}", facts.gateway.meta.name);
    match account {
        Some(account) => format!(
            "Resource accepted. It serves the workloads of the service account {account}. The class is now called \
             istio-waypoint, and what uses a waypoint is labelled: write {label} on the services and the pods of \
             {account} instead of the annotation istio.io/service-account, and istio.io/waypoint-for: all on this \
             Gateway"
        ),
        None => format!(
            "Resource accepted. The class is now called istio-waypoint: label what uses this waypoint, or its namespace, \
             {label}"
        ),
    }
}

/// Where a Gateway is reached: what it says itself, or its Service. Of that
/// both the name and the addresses are listed, as readers want one or the
/// other.
fn addresses(settings: &Settings, facts: &Facts<'_>) -> Vec<Value> {
    if !facts.managed {
        let own = facts.gateway.spec.addresses.iter().filter(|address| !address.value.is_empty());
        return own
            .map(|address| {
                let hostname = &*address.kind == "Hostname";
                match hostname {
                    true => json!({ "type": "Hostname", "value": hostname_of(settings, facts, &address.value) }),
                    false => json!({ "type": "IPAddress", "value": &*address.value }),
                }
            })
            .collect();
    }
    let (name, Some(service)) = facts.service else { return Vec::new() };
    let takes_hbone =
        service["spec"]["ports"].as_array().is_some_and(|ports| ports.iter().any(|one| one["port"] == HBONE));
    let ips = service["spec"]["clusterIPs"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let ips: Vec<_> = ips.filter(|ip| !ip.is_empty() && *ip != "None").collect();
    if !takes_hbone || ips.is_empty() {
        return Vec::new();
    }
    let hostname = json!({ "type": "Hostname", "value": hostname_of(settings, facts, &name.name) });
    let ips = ips.into_iter().map(|ip| json!({ "type": "IPAddress", "value": ip }));
    ips.chain([hostname]).collect()
}

/// The full name of a Service, which may be given short.
fn hostname_of(settings: &Settings, facts: &Facts<'_>, name: &str) -> String {
    match name.contains('.') {
        true => name.to_owned(),
        false => format!("{name}.{}.svc.{}", facts.gateway.meta.namespace, settings.domain),
    }
}

fn programmed(settings: &Settings, facts: &Facts<'_>, addressed: bool) -> (bool, &'static str, String) {
    let foreign: Vec<_> =
        facts.foreign.iter().map(|one| format!("{one} does not belong to this Gateway and is left alone")).collect();
    let foreign = if foreign.is_empty() { String::new() } else { format!("; {}", foreign.join("; ")) };
    let (service, _) = facts.service;
    if !addressed {
        let message = format!("no address: {service} is not there, or has no port {HBONE}{foreign}");
        return (false, "AddressNotAssigned", message);
    }
    let assigned = || {
        let host = hostname_of(settings, facts, &service.name);
        format!("Resource programmed, assigned to service(s) {host}:{HBONE}{foreign}")
    };
    if settings.programmed_by_address {
        return (true, "Programmed", assigned());
    }
    let Proxies { connected, current, rejected } = &facts.proxies;
    if let Some(reason) = rejected {
        let message = format!("a proxy refuses its configuration ({current} of {connected} have taken it): {reason}");
        return (false, "Invalid", message);
    }
    let ready = facts.deployment.map_or(0, |deployment| deployment["status"]["readyReplicas"].as_u64().unwrap_or(0));
    if *current > 0 || ready > 0 {
        return (true, "Programmed", assigned());
    }
    // Counts would make every step of a start a write.
    let message = match connected {
        0 => format!("no proxy of this Gateway is connected{foreign}"),
        _ => format!("no proxy of this Gateway has taken its configuration yet{foreign}"),
    };
    (false, "Pending", message)
}

/// Why a listener is not one of a waypoint.
fn refusal(listener: &Listener) -> Option<(&'static str, String)> {
    match &*listener.protocol {
        "HBONE" if listener.port != HBONE => {
            Some(("PortUnavailable", format!("protocol HBONE is served at port {HBONE}, not at {}", listener.port)))
        }
        "HBONE" | "HTTP" | "HTTPS" | "TLS" | "TCP" | "ALL" | "istio.io/PROXY" => None,
        other => Some(("UnsupportedProtocol", format!("protocol {other} is not one that a waypoint serves"))),
    }
}

/// No route attaches to a listener of a waypoint: routes are of the services
/// that use it.
fn listeners(facts: &Facts<'_>, programmed: &(bool, &'static str, String), now: &str) -> Vec<Value> {
    const FINE: &str = "No errors found";
    let known = facts.object["status"]["listeners"].as_array().map(Vec::as_slice).unwrap_or_default();
    let listener = |listener: &Listener| {
        let refused = refusal(listener);
        let conditions =
            known.iter().find(|one| one["name"] == *listener.name).map_or(&Value::Null, |one| &one["conditions"]);
        let condition = |said: Said<'_>| condition(facts.object, conditions, now, said);
        let (accepted, is_programmed) = match &refused {
            Some((reason, message)) => ((false, *reason, message.as_str()), (false, "Invalid", message.as_str())),
            None if programmed.0 => ((true, "Accepted", FINE), (true, "Programmed", FINE)),
            // Listeners have fewer reasons than Gateways.
            None => {
                let reason = if programmed.1 == "Invalid" { "Invalid" } else { "Pending" };
                ((true, "Accepted", FINE), (false, reason, programmed.2.as_str()))
            }
        };
        json!({
            "name": &*listener.name,
            "attachedRoutes": 0,
            "supportedKinds": [],
            "conditions": [
                condition(("Accepted", accepted.0, accepted.1, accepted.2)),
                condition(("Conflicted", false, "NoConflicts", FINE)),
                condition(("Programmed", is_programmed.0, is_programmed.1, is_programmed.2)),
                condition(("ResolvedRefs", true, "ResolvedRefs", FINE)),
            ],
        })
    };
    facts.gateway.spec.listeners.iter().map(listener).collect()
}
