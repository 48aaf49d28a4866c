//! Writes what is to be said of objects into their `status`: one engine for
//! every kind of [`crate::status::ROWS`].
//!
//! Conditions are applied by server-side apply under a field manager of our
//! own. Where the API server takes all conditions for one value, or all parents
//! of a route, those of others are written as they are, and only if nobody has
//! changed the object in between. What has to go is removed whoever wrote it:
//! types of conditions are ours as istiod's successor. When all is as it should
//! be, nothing is written.
//!
//! There are several instances. What objects say of themselves is the same on every
//! replica, and written by one, under the lock that istiod has for their kinds; it
//! looks at all objects once, when it begins to lead. What proxies rejected is known
//! to the replica that they are connected to, and written by that.

mod plan;
mod run;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio::sync::watch;

use super::election::Lock;
use crate::api::Kind;
use crate::model::revision::Revisions;
use crate::status::{Form, Row};

pub use plan::{Plan, of_another_revision, plan};
pub use run::{Completeness, StatusController};

/// What an instance writes.
#[derive(Clone, Copy)]
pub struct Part {
    /// The forms of the statuses of the kinds that it is about.
    pub forms: &'static [Form],
    /// The owner of the fields.
    pub manager: &'static str,
    /// The types of its conditions.
    pub types: &'static [&'static str],
    /// Whether it decides which parents of a route have a status of ours.
    pub parents: bool,
    /// Whether it is enough that somebody says the same, in whatever words.
    pub any_words: bool,
    /// The lock under which it is written, if only one replica may.
    pub lock: Option<fn(watch::Receiver<Arc<Revisions>>) -> Lock>,
}

impl Part {
    /// Whether it is about a kind.
    pub fn writes(&self, kind: Kind) -> bool {
        Row::of(kind).is_some_and(|row| self.forms.contains(&row.form))
    }
}

/// What is said of objects because of what they are.
pub const OF_OBJECTS: Part = Part {
    forms: &[Form::Map, Form::List],
    manager: "fairway-status",
    types: &[
        "Accepted",
        "ResolvedRefs",
        "ResolvedWaypoints",
        "PartiallyInvalid",
        "ZtunnelAccepted",
        "WaypointAccepted",
        crate::status::WAYPOINT_BOUND,
    ],
    parents: true,
    any_words: false,
    lock: Some(|revisions| Lock::lease("istio-status-leader", revisions).apart()),
};

/// The same of the Gateway API's routes and policies.
pub const OF_ROUTES: Part = Part {
    forms: &[Form::Parents, Form::Ancestors],
    lock: Some(|revisions| Lock::of_revision("istio-gateway-status-leader", revisions)),
    ..OF_OBJECTS
};

/// Where Ingresses are reached. istiod wrote that before it wrote anything else.
pub const OF_INGRESSES: Part = Part {
    forms: &[Form::LoadBalancer],
    lock: Some(|revisions| Lock::config_map("istio-leader", revisions).apart()),
    ..OF_OBJECTS
};

/// What is said of objects because of what proxies say.
pub const OF_PROXIES: Part = Part {
    forms: &[Form::Map, Form::List, Form::Parents, Form::Ancestors],
    manager: "fairway-proxies",
    types: &[crate::status::PROGRAMMED],
    parents: false,
    any_words: false,
    lock: None,
};
