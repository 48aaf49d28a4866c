//! Who is connected: what a proxy says about itself, what it can do, and the
//! [`Scope`] of what it is told.
//!
//! A scope holds exactly the facts of a proxy that may influence what is
//! generated for it. Two proxies with equal scopes are sent the same bytes; a
//! generator that needs another fact has to add it to the scope, so that
//! nothing can leak from one tenant's proxy to another's.

pub mod capabilities;
pub mod node;
pub mod own;
pub mod scope;

pub use capabilities::Capabilities;
pub use node::{Node, NodeKind};
pub use own::OwnConfig;
pub use scope::{GatewayScope, Place, Scope, WaypointScope};
