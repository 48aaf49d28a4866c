//! What services say of sessions by label: that requests of one go to the same
//! endpoint, also while that is about to end.
//! <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/stateful_session_filter>

use crate::api::virtual_service::Session;

use super::service::Service;

const COOKIE: &str = "istio.io/persistent-session";
const HEADER: &str = "istio.io/persistent-session-header";

impl Service {
    /// How sessions are told: `NAME` or `NAME:PATH` of a cookie, or the name of a
    /// header.
    pub fn session(&self) -> Option<Session> {
        match (self.labelled(COOKIE), self.labelled(HEADER)) {
            (Some(cookie), _) => {
                let (name, path) = cookie.split_once(':').unwrap_or((cookie, "/"));
                Some(Session::Cookie { name: name.into(), path: path.into(), lifetime: None })
            }
            (None, Some(header)) => Some(Session::Header { name: header.into() }),
            (None, None) => None,
        }
    }

    /// Whether sessions are kept.
    pub fn keeps_sessions(&self) -> bool {
        self.labelled(COOKIE).or_else(|| self.labelled(HEADER)).is_some()
    }

    fn labelled(&self, label: &str) -> Option<&str> {
        self.meta.label(label).filter(|value| !value.is_empty())
    }
}
