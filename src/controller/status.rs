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
//! There are two instances. What objects say of themselves is the same on every
//! replica, and written by one, under istiod's Lease; it looks at all objects
//! once, when it begins to lead. What proxies rejected is known to the replica
//! that they are connected to, and written by that.

mod plan;
mod run;
#[cfg(test)]
mod tests;

pub use plan::{Plan, of_another_revision, plan};
pub use run::{Completeness, StatusController};

/// What an instance writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The owner of the fields.
    pub manager: &'static str,
    /// The types of its conditions.
    pub types: &'static [&'static str],
    /// Whether it decides which parents of a route have a status of ours.
    pub parents: bool,
    /// The Lease under which it is written, if only one replica may.
    pub lease: Option<&'static str>,
}

/// What is said of objects because of what they are.
pub const OF_OBJECTS: Part = Part {
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
    lease: Some("istio-status-leader"),
};

/// What is said of objects because of what proxies say.
pub const OF_PROXIES: Part =
    Part { manager: "fairway-proxies", types: &[crate::status::PROGRAMMED], parents: false, lease: None };
