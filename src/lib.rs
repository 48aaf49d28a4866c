//! Fairway is a service-mesh control plane that replaces istiod under
//! unmodified data planes.
//!
//! A control plane is one pure function, evaluated incrementally: (objects,
//! mesh config) → (resources per proxy, statuses). Everything else is plumbing
//! at its two ends. The modules below are in reading order; data flows one way
//! through them, and a test checks the allowed edges between them.
//!
//! ```text
//! source ─ Change ─▶ graph (model ▶ workload) ─ watch<Views> ─▶ xds streams
//! ```

pub mod intern;
pub mod wire;
pub mod credential;
pub mod graph;
pub mod api;
pub mod source;
pub mod model;
pub mod proxy;
pub mod spans;
pub mod workload;
pub mod envoy;
pub mod xds;
pub mod status;
pub mod ca;
pub mod controller;
pub mod translation;
pub mod writer;
pub mod jwks;
pub mod admin;
pub mod config;
pub mod app;
pub mod cli;
pub mod token;
pub mod agent;

#[cfg(test)]
mod edges;
