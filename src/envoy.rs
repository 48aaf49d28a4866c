//! What Envoys are told: clusters, endpoints, listeners and routes, made from
//! the model for one scope at a time.
//!
//! Names, filters and metadata are Istio's wherever a tool can see them. The
//! generators are plain functions from model rows to messages of
//! `envoy_types`; [`encode`] is the only place that turns a message into bytes.

pub mod authorization;
pub mod encode;
pub mod request_authentication;
