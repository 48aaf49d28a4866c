//! Sessions, whose requests go to one endpoint for as long as it is there: its
//! address is in a cookie or a header, which clients send again.
//! <https://gateway-api.sigs.k8s.io/geps/gep-1619/>,
//! <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/stateful_session_filter>

use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::config::route::v3::Route;
use envoy_types::pb::envoy::extensions::filters::http::stateful_session::v3::stateful_session_per_route::Override;
use envoy_types::pb::envoy::extensions::filters::http::stateful_session::v3::{
    StatefulSession, StatefulSessionPerRoute,
};
use envoy_types::pb::envoy::extensions::http::stateful_session::cookie::v3::CookieBasedSessionState;
use envoy_types::pb::envoy::extensions::http::stateful_session::header::v3::HeaderBasedSessionState;
use envoy_types::pb::envoy::r#type::http::v3::Cookie;

use crate::api::virtual_service::Session;
use crate::envoy::authorization::matcher::is_header_name;
use crate::envoy::encode::{any, duration};

/// The name of the filter, whose settings are per route.
pub const FILTER: &str = "envoy.filters.http.stateful_session";

/// Whether a name is one: of a header, or of a cookie, which has the same
/// characters.
pub fn is_valid(session: &Session) -> bool {
    let (Session::Cookie { name, .. } | Session::Header { name }) = session;
    is_header_name(name) && !name.starts_with(':')
}

/// Has the requests of a route kept.
pub(super) fn keep(route: &mut Route, session: &Session) {
    let (name, typed_config) = match session {
        Session::Cookie { name, path, lifetime } => {
            // In whole seconds; none at all would be until clients end.
            let lifetime = lifetime.map(|time| time.as_secs_f64().ceil().max(1.0));
            let ttl = lifetime.and_then(|seconds| duration(std::time::Duration::from_secs(seconds as u64)));
            let cookie = Cookie { name: name.to_string(), path: path.to_string(), ttl, ..Cookie::default() };
            ("envoy.http.stateful_session.cookie", any(&CookieBasedSessionState { cookie: Some(cookie) }))
        }
        Session::Header { name } => {
            ("envoy.http.stateful_session.header", any(&HeaderBasedSessionState { name: name.to_string() }))
        }
    };
    let state = TypedExtensionConfig { name: name.into(), typed_config: Some(typed_config) };
    let session = StatefulSession { session_state: Some(state), ..StatefulSession::default() };
    let settings = StatefulSessionPerRoute { r#override: Some(Override::StatefulSession(session)) };
    route.typed_per_filter_config.insert(FILTER.into(), any(&settings));
}

/// Whether the requests of any of these routes are kept, hence the filter is
/// needed.
pub fn any_kept(routes: &[Route]) -> bool {
    routes.iter().any(|route| route.typed_per_filter_config.contains_key(FILTER))
}
