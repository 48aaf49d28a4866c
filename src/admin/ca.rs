//! What signs certificates, and who was refused one.

use std::sync::{Arc, OnceLock};

use axum::http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Admin;
use super::debug::{Arguments, Shown};
use crate::ca::authority::Authority;
use crate::ca::denials::Denials;

/// What the pages show. They answer before there is an authority.
#[derive(Clone, Default)]
pub struct Ca {
    /// Who was refused.
    pub denials: Denials,
    authority: Arc<OnceLock<Arc<Authority>>>,
}

impl Ca {
    /// There is an authority.
    pub fn show(&self, authority: Arc<Authority>) {
        // There is one in the life of a process.
        let _ = self.authority.set(authority);
    }
}

/// What signs, and who holds what was signed.
pub(super) fn authority(admin: &Admin) -> Shown {
    match admin.ca.authority.get() {
        Some(authority) => Ok(json!(authority.report(Timestamp::now()))),
        None => Err((StatusCode::NOT_FOUND, "no certificates are signed here, or not yet".into())),
    }
}

/// Those who were refused a certificate, or the one with an id.
pub(super) fn denials(admin: &Admin, arguments: &Arguments) -> Value {
    json!({"denials": admin.ca.denials.list(arguments.get("id").map(String::as_str))})
}
