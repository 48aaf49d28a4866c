//! What writes to Kubernetes. A controller sees the same facts as everything
//! else, compares them with what is there, and writes only differences, by
//! server-side apply. One replica at a time does, under a lock ([`election`]);
//! serving proxies never depends on who that is.

pub mod auto_allocation;
pub mod covers;
pub mod election;
pub mod event;
pub mod gateway;
pub mod pace;
pub mod replicas;
pub mod resource;
pub mod rights;
pub mod root_config_map;
pub mod status;
pub mod watch;

/// The name under which we own fields of objects.
pub const FIELD_MANAGER: &str = "fairway";
