//! From what is known of an object to its conditions.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::api::Kind;
use crate::graph::{Diagnostic, Severity};
use crate::model::gateway::kubernetes::Verdict;
use crate::model::waypoint::USE_WAYPOINT_FIELD;

use super::facts::{About, Bound, Facts, Parent, Target, Waypoint};
use super::{
    Ancestor, Condition, Conditions, Form, PROGRAMMED, REJECTED, Row, Says, Status, UNREADABLE, WAYPOINT_BOUND,
};

/// How many problems a message names.
const NAMED: usize = 8;
/// The longest message. Gateway API and Kubernetes allow 32 KiB.
const LONGEST: usize = 4096;

fn condition(kind: &'static str, holds: bool, reason: &'static str, message: impl Into<Arc<str>>) -> Condition {
    Condition { kind, holds, reason, message: message.into() }
}

/// What is said of an object, given what is wrong with it. Nothing is said of
/// objects that are not ours.
pub fn status(kind: Kind, facts: Option<&Facts>, found: &[Diagnostic]) -> Option<Status> {
    let row = Row::of(kind)?;
    // Of what cannot be read, an older state may be in force.
    if let Some(unread) = found.iter().find(|one| one.reason == UNREADABLE) {
        let message = said(&[unread]);
        return match facts.map(|facts| &facts.about) {
            Some(About::Route { parents, .. }) => {
                let each = |parent: &Parent| {
                    (parent.reference.clone(), vec![condition("Accepted", false, UNREADABLE, message.clone())])
                };
                of(None, Conditions::OfParents(parents.iter().map(each).collect()))
            }
            Some(About::Reached(addresses)) => of(None, Conditions::Addresses(addresses.clone())),
            None if row.form == Form::Parents => None,
            _ if matches!(row.form, Form::Ancestors | Form::LoadBalancer) => None,
            Some(_) | None => of_object(None, vec![condition("Accepted", false, UNREADABLE, message)]),
        };
    }
    // Whether there is a waypoint has a condition of its own.
    let found: Vec<_> = found.iter().filter(|one| one.field != USE_WAYPOINT_FIELD).collect();
    let Some(Facts { about, .. }) = facts else {
        return match row.says {
            Says::WhenAsked if kind != Kind::Service && !found.is_empty() => of_object(None, vec![accepted(&found)]),
            Says::WhenAsked | Says::Always => None,
        };
    };
    match about {
        About::Policy(targets) => of(facts, Conditions::OfAncestors(targets.iter().map(ancestor).collect())),
        About::Route { rules, parents, .. } => {
            let each = |parent: &Parent| (parent.reference.clone(), of_parent(kind, *rules, parent, &found));
            of(facts, Conditions::OfParents(parents.iter().map(each).collect()))
        }
        About::Ztunnel { enforced } => {
            let (reason, message) = match found.first() {
                Some(first) => (first.reason, said(&found)),
                None => ("Accepted", "attached to ztunnel".into()),
            };
            of_object(facts, vec![condition("ZtunnelAccepted", *enforced, reason, message)])
        }
        About::Attached(targets) => of_object(facts, vec![attached(targets, &found)]),
        About::Bound(binding) => {
            let bound = condition(WAYPOINT_BOUND, binding.bound, binding.reason, binding.message.clone());
            let problems = (kind != Kind::Service && !found.is_empty()).then(|| accepted(&found));
            of_object(facts, [Some(bound), problems].into_iter().flatten().collect())
        }
        About::Reached(addresses) => of(facts, Conditions::Addresses(addresses.clone())),
        About::Plain => of_object(facts, vec![accepted(&found)]),
    }
}

/// What is said of an object that a proxy rejected.
pub fn rejected(kind: Kind, facts: Option<&Facts>, message: &str) -> Option<Status> {
    Row::of(kind)?;
    let facts = facts?;
    let condition = condition(PROGRAMMED, false, REJECTED, clipped(message.to_owned()));
    let conditions = match &facts.about {
        About::Route { parents, .. } => {
            let each = |parent: &Parent| (parent.reference.clone(), vec![condition.clone()]);
            Conditions::OfParents(parents.iter().map(each).collect())
        }
        // The API has no place for more than what ancestors say.
        About::Policy(_) | About::Reached(_) => return None,
        _ => Conditions::OfObject(vec![condition]),
    };
    of(Some(facts), conditions)
}

/// Conditions of what is known, or of whatever is there.
fn of(facts: Option<&Facts>, conditions: Conditions) -> Option<Status> {
    let uid = facts.map(|facts| facts.uid.clone()).unwrap_or_default();
    Some(Status { uid, generation: facts.map(|facts| facts.generation), conditions })
}

fn of_object(facts: Option<&Facts>, conditions: Vec<Condition>) -> Option<Status> {
    of(facts, Conditions::OfObject(conditions))
}

/// `Accepted` of Istio's kinds, which have no such condition in istiod. What is
/// in force as it was asked for is accepted, whatever there is to say about it.
fn accepted(found: &[&Diagnostic]) -> Condition {
    let worst = found.iter().find(|one| one.severity == Severity::Error);
    match (worst, found.first()) {
        (None, None) => condition("Accepted", true, "Accepted", "No problems found"),
        (None, Some(first)) => condition("Accepted", true, first.reason, said(found)),
        (Some(worst), _) => condition("Accepted", false, worst.reason, said(found)),
    }
}

/// `WaypointAccepted`, as istiod puts several targets together. A policy with
/// problems is in force and lets less through than was meant.
fn attached(targets: &[Bound], found: &[&Diagnostic]) -> Condition {
    const KIND: &str = "WaypointAccepted";
    let unbound: Vec<_> = targets.iter().filter(|target| !target.bound).map(|target| &*target.ancestor).collect();
    let bound = unbound.len() < targets.len();
    let (reason, mut message) = match targets {
        [only] => (only.reason, only.message.to_string()),
        _ if unbound.is_empty() => ("Accepted", String::new()),
        _ => {
            let reason = if bound { "PartiallyInvalid" } else { "Invalid" };
            (reason, format!("Invalid targetRefs: {}", unbound.join(", ")))
        }
    };
    if found.is_empty() {
        return condition(KIND, bound, reason, message);
    }
    if !message.is_empty() {
        message += "; ";
    }
    let reason = if bound { "PartiallyInvalid" } else { reason };
    condition(KIND, bound, reason, clipped(message + &said(found)))
}

/// What is said of a policy where it has an effect.
fn ancestor(target: &Target) -> Ancestor {
    let said = |kind, verdict: &Verdict, reason| match verdict {
        Ok(()) => condition(kind, true, reason, "Configuration is valid"),
        Err(said) => condition(kind, false, said.reason, said.message.clone()),
    };
    Ancestor {
        reference: target.reference.clone(),
        controller: target.controller,
        conditions: vec![
            said("Accepted", &target.accepted, "Accepted"),
            said("ResolvedRefs", &target.resolved, "ResolvedRefs"),
        ],
    }
}

/// Reasons that are about what a route refers to.
const REFERENCES: [&str; 4] = ["RefNotPermitted", "InvalidKind", "BackendNotFound", "UnsupportedProtocol"];

/// The conditions of a route at one of its parents.
fn of_parent(kind: Kind, rules: usize, parent: &Parent, found: &[&Diagnostic]) -> Vec<Condition> {
    let (references, others): (Vec<_>, Vec<_>) =
        found.iter().copied().partition(|one| REFERENCES.contains(&one.reason));
    // A field that is ignored costs no rule.
    let (ignored, dropped): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|one| one.reason == "UnknownField" && !one.field.contains(".matches["));
    let concerned: BTreeSet<_> = dropped.iter().map(|one| rule(&one.field)).collect();
    let all = !dropped.is_empty() && (concerned.contains(&None) || concerned.len() >= rules);
    let accepted = match (&parent.denied, all, ignored.is_empty()) {
        (Some((reason, message)), ..) => condition("Accepted", false, reason, message.clone()),
        (None, true, _) => condition("Accepted", false, "UnsupportedValue", said(&dropped)),
        (None, false, true) if parent.listeners > 1 => {
            let message = format!("Route was valid, bound to {} parents", parent.listeners);
            condition("Accepted", true, "Accepted", message)
        }
        (None, false, true) => condition("Accepted", true, "Accepted", "Route was valid"),
        (None, false, false) => condition("Accepted", true, "Accepted", said(&ignored)),
    };
    let mut conditions = vec![accepted];
    if !dropped.is_empty() && !all && parent.denied.is_none() {
        // "the message must start with the prefix "Dropped Rule"".
        let message = clipped(format!("Dropped Rule or part of one: {}", said(&dropped)));
        conditions.push(condition("PartiallyInvalid", true, "UnsupportedValue", message));
    }
    let reason = REFERENCES.iter().find(|reason| references.iter().any(|one| one.reason == **reason));
    conditions.push(match reason {
        Some(reason) => condition("ResolvedRefs", false, reason, said(&references)),
        None => condition("ResolvedRefs", true, "ResolvedRefs", "All references resolved"),
    });
    if kind == Kind::HTTPRoute {
        conditions.extend(match &parent.waypoint {
            Waypoint::NotAsked => None,
            Waypoint::Served(_) => {
                Some(condition("ResolvedWaypoints", true, "ResolvedWaypoints", "All waypoints resolved"))
            }
            Waypoint::Missing(reason, message) => Some(condition("ResolvedWaypoints", false, reason, message.clone())),
        });
    }
    conditions
}

/// The rule that a field is in; none if it is in no rule.
fn rule(field: &str) -> Option<usize> {
    field.strip_prefix("spec.rules[")?.split(']').next()?.parse().ok()
}

/// Problems as one text that names their fields.
fn said(found: &[&Diagnostic]) -> Arc<str> {
    let one = |one: &&Diagnostic| match one.field.is_empty() {
        true => one.message.clone(),
        false => format!("{}: {}", one.field, one.message),
    };
    let mut text = found.iter().take(NAMED).map(one).collect::<Vec<_>>().join("; ");
    if found.len() > NAMED {
        text += &format!("; and {} more", found.len() - NAMED);
    }
    clipped(text)
}

fn clipped(mut text: String) -> Arc<str> {
    text.truncate(text.floor_char_boundary(LONGEST));
    text.into()
}
