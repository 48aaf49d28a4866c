//! The keys of token issuers that are not given in place: where they are, and
//! what was found there. Fetching is done at the edge; what was fetched is an
//! input like the objects.
//! <https://istio.io/latest/docs/reference/config/security/request_authentication/#JWTRule>

use std::sync::Arc;
use std::time::Duration;

use crate::api::ObjectKey;
use crate::api::duration;
use crate::api::request_authentication::{JwtRule, RequestAuthentication};
use crate::graph::{Collection, Ctx, Diagnostic, Graph, Severity};

use super::service::ServiceKey;
use super::{Scope, problem, waypoint_policy};

/// How long fetching keys may take where nothing else is said, as in Istio.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// Where the keys of an issuer are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeySource {
    /// At this URI.
    Uri(Arc<str>),
    /// Where the OpenID configuration of this issuer says.
    Issuer(Arc<str>),
}

/// What was found there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySet {
    /// The keys, a JWKS; those of an earlier time if they cannot be fetched now.
    pub keys: Option<Arc<str>>,
    /// Why they cannot be fetched.
    pub problem: Option<Arc<str>>,
}

/// Keys that have been fetched, by where.
pub type Fetched = imbl::OrdMap<KeySource, KeySet>;

/// Keys that are needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Where they are.
    pub source: KeySource,
    /// How long it may take.
    pub timeout: Duration,
}

/// Who fetches keys: `PILOT_JWT_ENABLE_REMOTE_JWKS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FetchedBy {
    /// The control plane.
    #[default]
    ControlPlane,
    /// Envoy what is at a service of the mesh, the control plane all else.
    Either,
    /// Envoy, if it can.
    Envoy,
}

/// Key sets, and who needs them.
#[derive(Clone, Copy)]
pub struct KeySets {
    /// What has been fetched: an input.
    pub fetched: Collection<KeySource, KeySet>,
    /// What the control plane has to fetch for a RequestAuthentication.
    pub wanted: Collection<ObjectKey, Arc<[Wanted]>>,
}

/// What to do about the keys of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keys {
    /// Envoy fetches them, from this service and port.
    AtService(ServiceKey, u16),
    /// They are these.
    Known(Arc<str>),
    /// There are none to be had, as this says.
    Missing(Arc<str>),
}

impl KeySource {
    /// Where the keys of a rule are that does not have them in place.
    pub fn of(rule: &JwtRule) -> Option<Self> {
        match (&*rule.jwks, &*rule.jwks_uri, &*rule.issuer) {
            ("", "", "") => None,
            ("", "", _) => Some(Self::Issuer(rule.issuer.clone())),
            ("", ..) => Some(Self::Uri(rule.jwks_uri.clone())),
            _ => None,
        }
    }
}

impl std::fmt::Display for KeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Uri(uri) => f.write_str(uri),
            Self::Issuer(issuer) => write!(f, "issuer {issuer}"),
        }
    }
}

impl KeySets {
    /// Declares the collections. Only a policy that is attached to something
    /// has keys fetched for it.
    pub fn new(graph: &mut Graph, scope: &Scope, canonical: Collection<Arc<str>, ServiceKey>) -> Self {
        let fetched = graph.input("key_sets");
        let scope = scope.clone();
        let wanted =
            graph.derive("wanted_keys", scope.inputs.request_authentications, move |cx, key: &ObjectKey, policy| {
                let wanted = wanted(cx, &scope, canonical, fetched, policy);
                (!wanted.is_empty()).then(|| (key.clone(), Arc::from(wanted)))
            });
        Self { fetched, wanted }
    }

    /// What to do about the keys of a rule that does not have them in place.
    pub fn keys(
        &self,
        cx: &Ctx<'_>,
        scope: &Scope,
        canonical: Collection<Arc<str>, ServiceKey>,
        rule: &JwtRule,
    ) -> Keys {
        if let Some((service, port)) = at_service(cx, scope, canonical, rule) {
            return Keys::AtService(service, port);
        }
        let Some(source) = KeySource::of(rule) else { return Keys::Missing("it is not said where keys are".into()) };
        if !fetches(scope, rule) {
            return Keys::Missing("no service of the mesh has the host, and only proxies are to fetch keys".into());
        }
        let found = cx.get(self.fetched, &source).cloned().unwrap_or_default();
        match (found.keys, found.problem) {
            (Some(keys), _) => Keys::Known(keys),
            (None, Some(problem)) => Keys::Missing(format!("the issuer's keys cannot be fetched: {problem}").into()),
            (None, None) => Keys::Missing("the issuer's keys have not been fetched yet".into()),
        }
    }
}

fn wanted(
    cx: &Ctx<'_>,
    scope: &Scope,
    canonical: Collection<Arc<str>, ServiceKey>,
    fetched: Collection<KeySource, KeySet>,
    policy: &RequestAuthentication,
) -> Vec<Wanted> {
    if waypoint_policy::targets(policy).next().is_none() || !scope.configures(cx, &policy.meta) {
        return Vec::new();
    }
    let mut wanted = Vec::new();
    for (at, rule) in policy.spec.jwt_rules.iter().enumerate() {
        let Some(source) = KeySource::of(rule).filter(|_| fetches(scope, rule)) else { continue };
        if at_service(cx, scope, canonical, rule).is_some() {
            continue;
        }
        if let Some(KeySet { keys: Some(_), problem: Some(why) }) = cx.get(fetched, &source) {
            let message = format!("the issuer's keys cannot be fetched again: {why}; those of before are used");
            let found = problem(KIND, &policy.meta, format!("spec.jwtRules[{at}].jwksUri"), "KeysUnavailable", message);
            cx.diagnose(Diagnostic { severity: Severity::Warning, ..found });
        }
        let timeout = duration::parse(&rule.timeout).filter(|timeout| !timeout.is_zero());
        wanted.push(Wanted { source, timeout: timeout.unwrap_or(TIMEOUT) });
    }
    wanted
}

const KIND: &str = "RequestAuthentication";

/// Whether the control plane may fetch the keys of a rule.
fn fetches(scope: &Scope, rule: &JwtRule) -> bool {
    scope.settings.keys_fetched_by != FetchedBy::Envoy || rule.jwks_uri.is_empty()
}

/// The service that Envoy is to fetch the keys of a rule from.
fn at_service(
    cx: &Ctx<'_>,
    scope: &Scope,
    canonical: Collection<Arc<str>, ServiceKey>,
    rule: &JwtRule,
) -> Option<(ServiceKey, u16)> {
    if scope.settings.keys_fetched_by == FetchedBy::ControlPlane || !rule.jwks.is_empty() {
        return None;
    }
    let uri: http::Uri = rule.jwks_uri.parse().ok()?;
    let port = match uri.scheme_str()? {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let service = cx.get(canonical, &Arc::from(uri.host()?))?;
    Some((service.clone(), uri.port_u16().unwrap_or(port)))
}
