//! What the statuses of objects say: a pure function of what the graph knows
//! of an object ([`facts`]), of what is wrong with it (its diagnostics), and of
//! whether a proxy rejected what was made from it.
//!
//! Conditions have istiod's names and reasons where it has them, and those of
//! the Gateway API for its routes. `Accepted` of Istio's other kinds, and
//! `Programmed` of whatever a proxy rejected, are ours: `docs/status.md`.
//! <https://gateway-api.sigs.k8s.io/reference/spec/#routeparentstatus>

mod conditions;
pub mod facts;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::api::compact::Uid;
use crate::api::core::LoadBalancerIngress;
use crate::api::meta::Generation;
use crate::api::route::ParentReference;
use crate::api::{Kind, ObjectKey};
use crate::graph::{Diagnostic, Severity, Subject};

pub use conditions::{rejected, status};
pub use facts::{About, Facts};

/// The condition of a service that asks for a waypoint.
pub const WAYPOINT_BOUND: &str = "istio.io/WaypointBound";
/// The condition of what was rejected by a proxy.
pub const PROGRAMMED: &str = "Programmed";
/// Its reason.
pub const REJECTED: &str = "RejectedByProxy";
/// The reason of an object that does not decode.
pub const UNREADABLE: &str = "Unreadable";

/// What is said of objects.
pub type Statuses = imbl::OrdMap<(Kind, ObjectKey), Arc<Status>>;

/// What is said of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The object that was judged, which may be another one of its name by now;
    /// any, if there is none.
    pub uid: Uid,
    /// The change of the object that was judged; any, if none.
    pub generation: Option<Generation>,
    /// The conditions.
    pub conditions: Conditions,
}

/// Conditions, of the object or of each of its parents, or what else a status
/// has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conditions {
    /// Of the object.
    OfObject(Vec<Condition>),
    /// Of each parent of a route.
    OfParents(Vec<(ParentReference, Vec<Condition>)>),
    /// Of what a policy has an effect on.
    OfAncestors(Vec<Ancestor>),
    /// There is no place for any; where the object is reached instead.
    Addresses(Vec<LoadBalancerIngress>),
}

/// What a policy has an effect on, and what is said of it there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ancestor {
    /// The object.
    pub reference: ParentReference,
    /// Who says it.
    pub controller: &'static str,
    /// What is said.
    pub conditions: Vec<Condition>,
}

/// A condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What it is about.
    pub kind: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// Why, in one word.
    pub reason: &'static str,
    /// Why, for people.
    pub message: Arc<str>,
}

/// Where a kind has its conditions, and whether other people's conditions can
/// be told from ours by the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// In `status.conditions`, which is merged by type.
    Map,
    /// In `status.conditions`, which is one value as far as the API server is
    /// concerned.
    List,
    /// In `status.parents`, which is one value too.
    Parents,
    /// In `status.ancestors`, which is one value too.
    Ancestors,
    /// Nowhere: all there is are addresses in `status.loadBalancer`.
    LoadBalancer,
}

/// When there is something to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// Of every object that is ours.
    Always,
    /// Only of an object that asks for something, or has a problem.
    WhenAsked,
}

/// A kind that has a status of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The kind.
    pub kind: Kind,
    /// Where its conditions are.
    pub form: Form,
    /// When there is something to say.
    pub says: Says,
}

const fn row(kind: Kind, form: Form, says: Says) -> Row {
    Row { kind, form, says }
}

/// THE table of kinds with a status of ours. The one of Gateways and their
/// classes is written by the controller that deploys them.
pub const ROWS: &[Row] = &[
    row(Kind::Service, Form::Map, Says::WhenAsked),
    row(Kind::ServiceEntry, Form::List, Says::WhenAsked),
    row(Kind::WorkloadEntry, Form::List, Says::WhenAsked),
    row(Kind::VirtualService, Form::List, Says::Always),
    row(Kind::DestinationRule, Form::List, Says::Always),
    row(Kind::IstioGateway, Form::List, Says::Always),
    row(Kind::AuthorizationPolicy, Form::List, Says::Always),
    row(Kind::RequestAuthentication, Form::List, Says::Always),
    row(Kind::PeerAuthentication, Form::List, Says::Always),
    row(Kind::Telemetry, Form::List, Says::WhenAsked),
    row(Kind::HTTPRoute, Form::Parents, Says::Always),
    row(Kind::GRPCRoute, Form::Parents, Says::Always),
    row(Kind::TCPRoute, Form::Parents, Says::Always),
    row(Kind::TLSRoute, Form::Parents, Says::Always),
    row(Kind::Ingress, Form::LoadBalancer, Says::Always),
    row(Kind::BackendTLSPolicy, Form::Ancestors, Says::Always),
];

impl Row {
    /// The row of a kind, if it has one.
    pub fn of(kind: Kind) -> Option<&'static Self> {
        ROWS.iter().find(|row| row.kind == kind)
    }
}

/// The object that a diagnostic is about, if its kind has a status of ours.
pub fn object(subject: &Subject) -> Option<(Kind, ObjectKey)> {
    let row = ROWS.iter().find(|row| row.kind.info().subject == subject.kind)?;
    Some((row.kind, ObjectKey { namespace: subject.namespace.clone(), name: subject.name.clone() }))
}

/// The finding that a proxy rejected what was made from an object.
pub fn diagnostic((kind, key): &(Kind, ObjectKey), message: &str) -> Diagnostic {
    let ObjectKey { namespace, name } = key.clone();
    Diagnostic {
        subject: Subject { kind: kind.info().subject, namespace, name },
        field: String::new(),
        severity: Severity::Error,
        reason: REJECTED,
        message: message.to_owned(),
    }
}

/// The part of sorted diagnostics that is about one object.
pub fn about<'a>(all: &'a [Diagnostic], (kind, key): &(Kind, ObjectKey)) -> &'a [Diagnostic] {
    let order = |one: &Diagnostic| {
        let Subject { kind: other, namespace, name } = &one.subject;
        (*other, namespace, name).cmp(&(kind.info().subject, &key.namespace, &key.name))
    };
    let start = all.partition_point(|one| order(one).is_lt());
    let length = all[start..].partition_point(|one| order(one).is_eq());
    &all[start..start + length]
}
