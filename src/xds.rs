//! The xDS server: what a connected proxy is told, and when.
//!
//! Data flows through the modules in this order. A [`resource::Resource`] is
//! encoded once; [`view::Views`] is an immutable picture of all of them; a
//! [`stream::Stream`] decides what one connection is sent next, without a
//! socket or a clock; [`codec`] turns that into bytes; [`server`] is the gRPC
//! service around it. [`secret::Vault`] has what is not for everybody. Nothing here knows
//! what a workload or a policy means.
//!
//! The rules are those of the xDS protocol
//! (<https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol>).
//! Where istiod breaks them, we follow the specification.

pub mod codec;
pub mod demand;
pub mod reflection;
pub mod resource;
pub mod secret;
pub mod server;
pub mod stream;
pub mod verdict;
pub mod view;
