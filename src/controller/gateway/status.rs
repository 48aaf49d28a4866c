//! What the statuses of a Gateway and of the ListenerSets that add to it say.
//! Conditions are the Gateway API's, with the messages that istiod writes where
//! the meaning is the same.
//!
//! `Programmed` is honest: a proxy has taken its configuration. It says so by its
//! acknowledgements, here or at another replica, which tells of it
//! ([`crate::controller::replicas`]); or by the readiness of its pod, which Istio's
//! agent reports only when its Envoy has clusters and listeners.
//! <https://gateway-api.sigs.k8s.io/reference/spec/#gatewaystatus>

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::api::gateway::Gateway;
use crate::api::route::GROUP;
use crate::controller::resource::Reference;
use crate::model::gateway::kubernetes::listener::{self, Listener};
use crate::model::gateway::kubernetes::{CheckedSet, Placement, Verdict};
use crate::status::facts::GatewayFacts;

use super::Proxies;
use super::address::{self, Reached};
use super::class::{OLD_WAYPOINT_CLASS, Template};
use super::settings::Settings;

const FINE: &str = "No errors found";

/// What is known of what a Gateway stands for.
pub struct Facts<'a> {
    /// The Gateway as the API server has it.
    pub object: &'a Value,
    /// The same.
    pub gateway: &'a Gateway,
    /// What is made for it.
    pub template: Template,
    /// Where its user wants it to be reached.
    pub placement: &'a Placement,
    /// Its listeners, checked.
    pub checked: &'a GatewayFacts,
    /// The Services that its traffic goes to, as far as they are there.
    pub services: Vec<(Reference, Option<&'a Value>)>,
    /// Its Deployment, if it is ours.
    pub deployment: Option<&'a Value>,
    /// Objects of somebody else's with the names that ours would have.
    pub foreign: &'a [Reference],
    /// Why its parameters cannot be honoured.
    pub invalid: Option<&'a str>,
    /// Its proxies that are connected here.
    pub proxies: Proxies,
}

/// A condition: type, status, reason, message.
pub type Said<'a> = (&'a str, bool, &'a str, &'a str);

/// Whether something holds, why in a word, and why for people.
type Answer = (bool, &'static str, String);

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

/// The statuses to be: that of the Gateway, and of what adds listeners to it by
/// its place in the facts.
pub struct Statuses {
    /// Of the Gateway.
    pub gateway: Value,
    accepted: Answer,
    programmed: Answer,
}

/// Works out the status of a Gateway.
pub fn status(settings: &Settings, facts: &Facts<'_>, now: &str) -> Statuses {
    let known = &facts.object["status"];
    let reached = match facts.template {
        Template::Waypoint => address::of_waypoint(settings, facts),
        Template::Gateway => address::of_gateway(settings, facts, &ports(facts)),
    };
    let accepted = accepted(facts);
    let programmed = programmed(settings, facts, &reached);
    let mut answers = vec![("Accepted", accepted.clone()), ("Programmed", programmed.clone())];
    let checked = &facts.checked.checked;
    if facts.template == Template::Gateway {
        answers.push(("ResolvedRefs", answer(&checked.client_certificate, "ResolvedRefs", "All references resolved")));
        if checked.insecure {
            let message = "clients are let in whose certificates nobody vouches for: AllowInsecureFallback".to_owned();
            answers.push(("InsecureFrontendValidationMode", (true, "ConfigurationChanged", message)));
        }
    }
    let conditions: Vec<_> = answers
        .iter()
        .map(|(kind, (status, reason, message))| {
            condition(facts.object, &known["conditions"], now, (kind, *status, reason, message))
        })
        .collect();
    let mut status = json!({
        "conditions": conditions,
        "listeners": listeners(facts.object, &checked.listeners, &facts.checked.attached, &programmed, now),
    });
    // An address that was given to a waypoint stays: one without is none, and
    // its traffic would go past it. That of a load balancer may be somebody
    // else's by now.
    let kept = known["addresses"].as_array().filter(|list| !list.is_empty());
    let kept = kept.filter(|_| facts.template == Template::Waypoint);
    match (reached.addresses.is_empty(), kept) {
        (false, _) => status["addresses"] = json!(reached.addresses),
        (true, Some(kept)) => status["addresses"] = json!(kept),
        (true, None) => {}
    }
    // Not every version of the API has the field, so it is there if need be.
    let attached = checked.sets.iter().filter(|set| set.listeners.iter().any(Listener::valid)).count();
    if attached > 0 || !known["attachedListenerSets"].is_null() {
        status["attachedListenerSets"] = json!(attached);
    }
    Statuses { gateway: status, accepted, programmed }
}

impl Statuses {
    /// The status of one that adds listeners to the Gateway, with the number of
    /// routes that are attached to each.
    pub fn of_set(&self, object: &Value, set: &CheckedSet, attached: &[u32], now: &str) -> Value {
        let no = |reason, message: &str| (false, reason, message.to_owned());
        let valid = set.listeners.iter().any(Listener::valid);
        let (accepted, programmed) = match &set.denied {
            Err(said) => (no(said.reason, &said.message), no(said.reason, &said.message)),
            Ok(()) if !self.accepted.0 && self.accepted.1 != "ListenersNotValid" => {
                let message = format!("the Gateway is not accepted: {}", self.accepted.2);
                (no("ParentNotAccepted", &message), no("ParentNotAccepted", &message))
            }
            Ok(()) if !valid => {
                let message = "none of its listeners is valid";
                (no("ListenersNotValid", message), no("ListenersNotValid", message))
            }
            Ok(()) => ((true, "Accepted", "Resource accepted".to_owned()), of_part(&self.programmed)),
        };
        let known = &object["status"]["conditions"];
        let said =
            |kind, (status, reason, message): &Answer| condition(object, known, now, (kind, *status, reason, message));
        json!({
            "conditions": [said("Accepted", &accepted), said("Programmed", &programmed)],
            "listeners": listeners(object, &set.listeners, attached, &self.programmed, now),
        })
    }
}

/// The ports that a gateway is to be reached at, each once.
fn ports(facts: &Facts<'_>) -> Vec<u16> {
    let checked = &facts.checked.checked;
    let all = checked.listeners.iter().chain(checked.sets.iter().flat_map(|set| &*set.listeners));
    let mut ports: Vec<_> = all.filter(|one| one.server.is_some()).map(|one| one.port).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn answer(verdict: &Verdict, reason: &'static str, message: &str) -> Answer {
    match verdict {
        Ok(()) => (true, reason, message.to_owned()),
        Err(said) => (false, said.reason, said.message.to_string()),
    }
}

fn accepted(facts: &Facts<'_>) -> Answer {
    if let Some(message) = facts.invalid {
        return (false, "InvalidParameters", message.to_owned());
    }
    if facts.template == Template::Gateway && !facts.placement.refused.is_empty() {
        let message = format!("only hostnames are supported, and not {}", facts.placement.refused.join(", "));
        return (false, "UnsupportedAddress", message);
    }
    let own = &facts.checked.checked.listeners;
    let invalid: Vec<_> = own.iter().filter(|one| !one.valid()).map(|one| &*one.name).collect();
    match (&*invalid, &*facts.gateway.spec.gateway_class_name) {
        ([], OLD_WAYPOINT_CLASS) => (true, "Accepted", old_form(facts)),
        ([], _) => (true, "Accepted", "Resource accepted".to_owned()),
        (invalid, _) => {
            let some = invalid.len() < own.len();
            (some, "ListenersNotValid", format!("Invalid listeners: {}", invalid.join(", ")))
        }
    }
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

fn programmed(settings: &Settings, facts: &Facts<'_>, reached: &Reached) -> Answer {
    let foreign: Vec<_> =
        facts.foreign.iter().map(|one| format!("{one} does not belong to this Gateway and is left alone")).collect();
    let foreign = if foreign.is_empty() { String::new() } else { format!("; {}", foreign.join("; ")) };
    if facts.template == Template::Gateway && ports(facts).is_empty() {
        return (false, "Invalid", format!("there is no listener that can be served{foreign}"));
    }
    if let Some((reason, message)) = &reached.fault {
        return (false, reason, format!("{message}{foreign}"));
    }
    let assigned = || format!("Resource programmed, assigned to service(s) {}{foreign}", joined(&reached.assigned));
    if settings.programmed_by_address {
        return (true, "Programmed", assigned());
    }
    let Proxies { connected, current, rejected } = &facts.proxies;
    if let Some(reason) = rejected {
        let message = format!("a proxy refuses its configuration ({current} of {connected} have taken it): {reason}");
        return (false, "Invalid", message);
    }
    let ready = facts.deployment.map_or(0, |deployment| deployment["status"]["readyReplicas"].as_u64().unwrap_or(0));
    // Pods that somebody else made may not say which Gateway they serve.
    let theirs = facts.template == Template::Gateway && !facts.placement.managed;
    if *current > 0 || ready > 0 || theirs {
        return (true, "Programmed", assigned());
    }
    // Counts would make every step of a start a write.
    let message = match connected {
        0 => format!("no proxy of this Gateway is connected{foreign}"),
        _ => format!("no proxy of this Gateway has taken its configuration yet{foreign}"),
    };
    (false, "Pending", message)
}

/// Names as people list them.
fn joined(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [start @ .., last] => format!("{} and {last}", start.join(", ")),
    }
}

/// The same answer for a part of a Gateway, which has fewer reasons.
fn of_part(programmed: &Answer) -> Answer {
    match programmed {
        (true, ..) => (true, "Programmed", FINE.to_owned()),
        (false, "Invalid", message) => (false, "Invalid", message.clone()),
        (false, _, message) => (false, "Pending", message.clone()),
    }
}

/// What is to be said of what a listener refers to, if it is all there.
fn remark(listener: &Listener) -> &str {
    listener.remark.as_ref().map_or(FINE, |said| &said.message)
}

/// What is the matter with what listeners refer to that their status of before
/// did not say yet: a certificate that is not there, is not its key's, has
/// expired or will soon. Whoever owns it learns of it from clients, else. By
/// reason, as one Secret may be everybody's.
pub fn complaints(before: &Value, listeners: &[Listener]) -> BTreeMap<&'static str, String> {
    let known = before["listeners"].as_array().map(Vec::as_slice).unwrap_or_default();
    let was = |listener: &Listener| {
        let status = known.iter().find(|one| one["name"] == *listener.name)?;
        status["conditions"].as_array()?.iter().find(|one| one["type"] == "ResolvedRefs")?["message"].as_str()
    };
    let mut all: BTreeMap<&'static str, String> = BTreeMap::new();
    for listener in listeners {
        let told = listener.resolved.as_ref().err().or(listener.remark.as_ref());
        if let Some(told) = told.filter(|told| was(listener) != Some(&told.message)) {
            let message = all.entry(told.reason).or_default();
            let dot = if message.is_empty() { "" } else { "; " };
            *message += &format!("{dot}listener {}: {}", listener.name, told.message);
        }
    }
    all
}

/// The statuses of listeners, given how many routes are attached to each.
fn listeners(object: &Value, listeners: &[Listener], attached: &[u32], programmed: &Answer, now: &str) -> Vec<Value> {
    let known = object["status"]["listeners"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of_gateway = of_part(programmed);
    let one = |(at, listener): (usize, &Listener)| {
        let conditions =
            known.iter().find(|one| one["name"] == *listener.name).map_or(&Value::Null, |one| &one["conditions"]);
        let said = |kind, (status, reason, message): &Answer| {
            condition(object, conditions, now, (kind, *status, reason, message))
        };
        let conflicted = match listener.conflict {
            None => (false, "NoConflicts", FINE.to_owned()),
            Some(reason) => {
                (true, reason, listener.accepted.as_ref().err().map_or(FINE, |said| &said.message).to_owned())
            }
        };
        let programmed = match &listener.programmed {
            Ok(()) => of_gateway.clone(),
            failed => answer(failed, "Programmed", FINE),
        };
        let kind = |kind| json!({ "group": GROUP, "kind": listener::name(kind) });
        json!({
            "name": &*listener.name,
            "attachedRoutes": attached.get(at).copied().unwrap_or(0),
            "supportedKinds": listener.kinds.iter().copied().map(kind).collect::<Vec<_>>(),
            "conditions": [
                said("Accepted", &answer(&listener.accepted, "Accepted", FINE)),
                said("Conflicted", &conflicted),
                said("Programmed", &programmed),
                said("ResolvedRefs", &answer(&listener.resolved, "ResolvedRefs", remark(listener))),
            ],
        })
    };
    listeners.iter().enumerate().map(one).collect()
}
