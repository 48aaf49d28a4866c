//! The Kubernetes objects Fairway reads, as slim and lenient serde models.
//!
//! Only the fields that something uses are kept, so that a pod costs hundreds
//! of bytes and an update of a field nobody reads changes nothing. Unknown
//! fields are skipped and unknown enum values are kept as text: an object
//! written for a newer API must not be lost. `null` means "not set", as it
//! does in Kubernetes and in protobuf's JSON.
//!
//! [`kinds`] is the table of all kinds that are watched; a kind is a struct
//! here and one line there.

pub mod backend_tls;
pub mod compact;
pub mod core;
pub mod definition;
pub mod destination_rule;
pub mod duration;
pub mod extension_provider;
pub mod gateway;
pub mod ingress;
mod intern;
pub mod istio;
pub mod istio_gateway;
pub mod kinds;
pub mod mesh;
pub mod meta;
pub mod protobuf;
pub mod route;
pub mod request_authentication;
pub mod schema;
pub mod secret;
pub mod telemetry;
#[cfg(test)]
mod tests;
pub mod unknown;
pub mod virtual_service;

pub use kinds::{Change, Inputs, Kind, Object};
pub use meta::{Labels, Meta, ObjectKey};

pub use crate::intern::intern;

/// Reads YAML the way Kubernetes' own tools do, with octal numbers and YAML 1.1
/// booleans. Two equal keys are a mistake, as for `kubectl --validate`.
pub fn yaml<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, serde_saphyr::Error> {
    serde_saphyr::from_str_with_options(text, yaml_options())
}

/// The same of a text that anybody in the mesh may have written: one that is
/// nested deeply, or that grows while it is read, is an error.
pub fn yaml_of_users<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, serde_saphyr::Error> {
    let mut options = yaml_options();
    options.budget = serde_saphyr::budget! { max_nodes: 100_000 };
    options.alias_limits.max_total_replayed_events = 10_000;
    serde_saphyr::from_str_with_options(text, options)
}

pub(crate) fn yaml_options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        // Files are the operator's own, and meshes are large.
        budget: None,
        emit_comments: false,
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        legacy_octal_numbers: true,
    }
}
