//! The wire contracts Fairway speaks and envoy-types does not have: workload
//! discovery, L4 authorization and certificate signing for ztunnel, and Istio's
//! extensions of Envoy, generated from the `.proto` files beside this crate.
//!
//! Map fields are `BTreeMap`s and byte fields are `Bytes`, so equal messages
//! always encode to equal bytes. Those of envoy-types do not, until they went
//! through [`canonical`]. [`describe`] shows any of them to people.
#![allow(missing_docs, clippy::large_enum_variant)]

pub mod canonical;
pub mod describe;

/// `istio.workload`: the address table ztunnel reads.
pub mod workload {
    tonic::include_proto!("istio.workload");
}

/// `istio.security`: L4 authorization for ztunnel.
pub mod security {
    tonic::include_proto!("istio.security");
}

/// `istio.v1.auth`: certificate signing requests.
pub mod auth {
    tonic::include_proto!("istio.v1.auth");
}

/// `stats`: what Istio's proxy is told about the metrics it counts.
pub mod stats {
    tonic::include_proto!("stats");
}

/// `io.istio.http.peer_metadata`: how Istio's proxy learns who the peer is.
pub mod peer_metadata {
    tonic::include_proto!("io.istio.http.peer_metadata");
}

/// `udpa.type.v1`: configuration as JSON.
pub mod udpa {
    tonic::include_proto!("udpa.r#type.v1");
}

/// `xds.type.v3`: configuration as JSON, by its newer name.
pub mod xds {
    tonic::include_proto!("xds.r#type.v3");
}

/// `xds.type.matcher.v3`: the matcher of addresses.
pub mod matcher {
    tonic::include_proto!("xds.r#type.matcher.v3");
}

/// A `FileDescriptorSet` of ztunnel's contracts and of the xDS transport, for
/// server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
