//! The Istio wire contracts Fairway speaks: workload discovery, L4
//! authorization and certificate signing, generated from the `.proto` files
//! beside this crate.
//!
//! Map fields are `BTreeMap`s and byte fields are `Bytes`, so equal messages
//! always encode to equal bytes.
#![allow(missing_docs, clippy::large_enum_variant)]

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

/// A `FileDescriptorSet` of every contract above and of the xDS transport,
/// for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
