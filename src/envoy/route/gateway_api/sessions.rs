//! How the Gateway API has sessions kept.
//! <https://gateway-api.sigs.k8s.io/geps/gep-1619/>

use rapidhash::v3::rapidhash_v3;

use super::Lowering;
use crate::api::Meta;
use crate::api::route::SessionPersistence;
use crate::api::virtual_service::{HttpRoute, Session};
use crate::envoy::route::session::is_valid;

const FIELD: &str = "sessionPersistence";

impl Lowering<'_> {
    /// What says which session a request is of. What cannot be done is said, and
    /// the rest is.
    pub(super) fn session(&mut self, meta: &Meta, given: &SessionPersistence, rule: &HttpRoute) -> Option<Session> {
        let SessionPersistence { session_name, absolute_timeout, idle_timeout, kind, cookie_config, unknown } = given;
        unknown.names().for_each(|name| self.ignored(&format!("{FIELD}.{name}")));
        if idle_timeout.is_some() {
            let message = "an Envoy does not know how long a session has been unused; ignored";
            self.note(format!("{FIELD}.idleTimeout"), "UnsupportedValue", message);
        }
        if rule.route.len() > 1 {
            let message = "which backend a request goes to is chosen each time; sessions are kept within each of them";
            self.note(FIELD, "UnsupportedValue", message);
        }
        let permanent = match &*cookie_config.lifetime_type {
            "" | "Session" => false,
            "Permanent" => true,
            other => {
                let message = format!("{other:?} is neither Session nor Permanent; Session is used");
                self.note(format!("{FIELD}.cookieConfig.lifetimeType"), "UnsupportedValue", message);
                false
            }
        };
        // Else it is in a cookie, and only clients know when it began.
        let of_cookie = permanent && &**kind != "Header";
        if absolute_timeout.is_some() && !of_cookie {
            let message = "only a permanent cookie ends at a time; ignored";
            self.note(format!("{FIELD}.absoluteTimeout"), "UnsupportedValue", message);
        }
        if of_cookie && absolute_timeout.is_none() {
            let message = "a permanent cookie needs it; it is kept until clients end";
            self.note(format!("{FIELD}.absoluteTimeout"), "InvalidValue", message);
        }
        let name = match session_name.is_empty() {
            // Two rules may be for one host, so theirs have to differ.
            true => {
                let rule = format!("{}/{}/{}", meta.namespace, meta.name, self.rule);
                format!("session-{:016x}", rapidhash_v3(rule.as_bytes())).into()
            }
            false => session_name.clone(),
        };
        let session = match &**kind {
            "" | "Cookie" => {
                Session::Cookie { name, path: "/".into(), lifetime: absolute_timeout.filter(|_| of_cookie) }
            }
            "Header" => Session::Header { name },
            other => {
                let message = format!("{other:?} is neither Cookie nor Header; sessions are not kept");
                self.note(format!("{FIELD}.type"), "UnsupportedValue", message);
                return None;
            }
        };
        if !is_valid(&session) {
            let message = format!("{session_name:?} is not a name for it; sessions are not kept");
            self.note(format!("{FIELD}.sessionName"), "InvalidValue", message);
            return None;
        }
        Some(session)
    }
}
