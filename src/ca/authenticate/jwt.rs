//! JSON Web Tokens: parsing with hard limits, and an authenticator for the
//! tokens of one issuer.
//!
//! The algorithms are a closed set of public-key signatures, so "none" and a
//! MAC keyed with a public key are not refused but unknown.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::{BoxFuture, FutureExt};
use jiff::Timestamp;
use serde::Deserialize;

use super::chain::{Bearer, MAX_TOKEN, TokenAuthenticator};
use super::jwks::{Jwks, RemoteJwks};
use super::remembered::{Remembered, lifetime, token_hash};
use super::{Caller, Denial, PodBinding, Proof, service_account};
use crate::ca::identity::{SpiffeId, TrustDomain, TrustDomains};

/// How far the clocks of issuer and verifier may differ, in seconds.
const SKEW: f64 = 60.0;

/// The `JWT_RULE` setting: whose tokens are accepted besides Kubernetes'.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JwtRule {
    /// The `iss` claim of the tokens.
    pub issuer: String,
    /// Where the issuer publishes its keys; found by OpenID discovery if
    /// neither this nor `jwks` is given.
    #[serde(default, alias = "jwks_uri")]
    pub jwks_uri: String,
    /// The keys themselves.
    #[serde(default)]
    pub jwks: String,
    /// The audiences of which a token must have one; those of Kubernetes
    /// tokens if none is given.
    #[serde(default)]
    pub audiences: Vec<String>,
}

/// A token taken apart. Nothing in it is verified.
pub(super) struct Jwt<'a> {
    pub(super) header: Header,
    pub(super) claims: Claims,
    /// The bytes the signature covers.
    pub(super) signed: &'a [u8],
    pub(super) signature: Vec<u8>,
}

#[derive(Deserialize)]
pub(super) struct Header {
    pub(super) alg: String,
    #[serde(default)]
    pub(super) kid: Option<String>,
    /// Extensions the verifier must understand; we understand none.
    #[serde(default)]
    crit: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
pub(super) struct Claims {
    #[serde(default)]
    pub(super) iss: String,
    #[serde(default)]
    pub(super) sub: String,
    #[serde(default)]
    pub(super) aud: Audience,
    #[serde(default)]
    pub(super) exp: Option<f64>,
    #[serde(default)]
    pub(super) nbf: Option<f64>,
    #[serde(default, rename = "kubernetes.io")]
    pub(super) kubernetes: Option<KubernetesClaims>,
}

/// One audience or several: RFC 7519, 4.1.3 allows both.
#[derive(Deserialize, Default)]
#[serde(untagged)]
pub(super) enum Audience {
    #[default]
    None,
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
pub(super) struct KubernetesClaims {
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    pod: Option<ObjectClaim>,
}

#[derive(Deserialize)]
struct ObjectClaim {
    #[serde(default)]
    name: String,
    #[serde(default)]
    uid: String,
}

impl Audience {
    fn as_slice(&self) -> &[String] {
        match self {
            Self::None => &[],
            Self::One(audience) => std::slice::from_ref(audience),
            Self::Many(audiences) => audiences,
        }
    }
}

impl<'a> Jwt<'a> {
    /// The parts of a token in compact form.
    pub(super) fn parse(token: &'a str) -> Result<Self, Denial> {
        let malformed = |what: &str| Denial(format!("malformed token: {what}"));
        if token.len() > MAX_TOKEN {
            return Err(malformed("larger than 8 KiB"));
        }
        let mut parts = token.splitn(4, '.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed("not three parts"));
        };
        let signed = &token.as_bytes()[..header.len() + 1 + claims.len()];
        let decoded = |part, what| base64url(part).ok_or_else(|| malformed(what));
        let header: Header = serde_json::from_slice(&decoded(header, "header is not base64url")?)
            .map_err(|_| malformed("header is not JSON"))?;
        if header.crit.is_some() {
            return Err(malformed("it has critical extensions"));
        }
        let claims = serde_json::from_slice(&decoded(claims, "claims are not base64url")?)
            .map_err(|_| malformed("claims are not JSON"))?;
        Ok(Self { header, claims, signed, signature: decoded(signature, "signature is not base64url")? })
    }
}

impl Claims {
    /// Refuses a token that is used before or after its time.
    pub(super) fn check_time(&self, now: Timestamp) -> Result<(), Denial> {
        let now = now.as_second() as f64;
        match self.exp {
            None => return Err(Denial("token has no expiry".into())),
            Some(exp) if now >= exp + SKEW => return Err(Denial(format!("token expired {} s ago", now - exp))),
            Some(_) => {}
        }
        match self.nbf {
            Some(nbf) if now < nbf - SKEW => Err(Denial(format!("token is not valid for another {} s", nbf - now))),
            _ => Ok(()),
        }
    }

    fn check_audience(&self, wanted: &[String]) -> Result<(), Denial> {
        let given = self.aud.as_slice();
        if given.iter().any(|audience| wanted.contains(audience)) {
            return Ok(());
        }
        Err(Denial(format!("token audience {} is not one of {wanted:?}", clip(&format!("{given:?}")))))
    }

    fn pod(&self, namespace: &str) -> Option<PodBinding> {
        let claims = self.kubernetes.as_ref().filter(|claims| claims.namespace == namespace)?;
        let pod = claims.pod.as_ref().filter(|pod| !pod.name.is_empty() && !pod.uid.is_empty())?;
        Some(PodBinding { name: pod.name.as_str().into(), uid: pod.uid.as_str().into() })
    }
}

/// Accepts the tokens of one issuer.
pub struct JwtAuthenticator {
    name: &'static str,
    issuer: String,
    audiences: Vec<String>,
    keys: Keys,
    trust_domains: Arc<TrustDomains>,
    pods: bool,
    /// Who showed which token, in which trust domain. Locked for single map
    /// operations only.
    known: Mutex<Remembered<(TrustDomain, Caller)>>,
}

enum Keys {
    Fixed(Jwks),
    Remote(RemoteJwks),
}

impl JwtAuthenticator {
    /// The authenticator a rule describes. `audiences` hold if the rule has
    /// none: a token for anybody is a token for nobody.
    pub fn new(rule: JwtRule, audiences: &[String], trust_domains: Arc<TrustDomains>) -> Result<Self, Denial> {
        if rule.issuer.is_empty() {
            return Err(Denial("JWT_RULE has no issuer".into()));
        }
        let keys = match (rule.jwks.as_str(), rule.jwks_uri.as_str()) {
            ("", "") => Keys::Remote(RemoteJwks::discovered(&rule.issuer)?),
            ("", uri) => Keys::Remote(RemoteJwks::new(uri)?),
            (jwks, _) => {
                Keys::Fixed(Jwks::parse(jwks.as_bytes()).map_err(|error| Denial(format!("JWT_RULE: {error}")))?)
            }
        };
        let audiences = if rule.audiences.is_empty() { audiences.to_vec() } else { rule.audiences };
        Ok(Self {
            name: "JWT",
            issuer: rule.issuer,
            audiences,
            keys,
            trust_domains,
            pods: false,
            known: Mutex::new(Remembered::new()),
        })
    }

    /// An authenticator for an issuer of our own, whose statements about pods
    /// are believed as well.
    pub(super) fn own(issuer: &str, keys: Jwks, audiences: &[String], trust_domains: Arc<TrustDomains>) -> Self {
        Self {
            name: "development token",
            issuer: issuer.to_owned(),
            audiences: audiences.to_vec(),
            keys: Keys::Fixed(keys),
            trust_domains,
            pods: true,
            known: Mutex::new(Remembered::new()),
        }
    }

    /// Whose tokens they are is asked before whether they are genuine, so that
    /// a foreign token never causes a fetch of keys.
    fn unverified<'a>(&self, token: &'a str) -> Result<Jwt<'a>, Denial> {
        let jwt = Jwt::parse(token)?;
        if jwt.claims.iss != self.issuer {
            return Err(Denial(format!("issuer {:?} is unknown", clip(&jwt.claims.iss))));
        }
        Ok(jwt)
    }

    fn known(&self) -> MutexGuard<'_, Remembered<(TrustDomain, Caller)>> {
        // No operation on the table leaves it half changed.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn verified(&self, jwt: &Jwt<'_>, keys: &Jwks, now: Timestamp) -> Result<Caller, Denial> {
        keys.verify(jwt)?;
        jwt.claims.check_time(now)?;
        jwt.claims.check_audience(&self.audiences)?;
        let subject = &jwt.claims.sub;
        let (namespace, account) = service_account(subject)
            .ok_or_else(|| Denial(format!("subject {:?} is not a service account", clip(subject))))?;
        let identity =
            SpiffeId::new(self.trust_domains.own(), namespace, account).map_err(|error| Denial(error.to_string()))?;
        let pod = if self.pods { jwt.claims.pod(namespace) } else { None };
        Ok(Caller { identities: vec![identity], proof: Proof::Jwt, pod })
    }
}

impl TokenAuthenticator for JwtAuthenticator {
    fn name(&self) -> &str {
        self.name
    }

    fn caller<'a>(&'a self, bearer: Bearer<'a>) -> BoxFuture<'a, Result<Caller, Denial>> {
        async move {
            let (key, now) = (token_hash(bearer.token), Timestamp::now());
            let trust_domain = self.trust_domains.own();
            // The name that an identity gets may have changed meanwhile.
            if let Some((_, caller)) = self.known().get(&key).filter(|(known, _)| *known == trust_domain) {
                return Ok(caller);
            }
            let jwt = self.unverified(bearer.token)?;
            let caller = match &self.keys {
                Keys::Fixed(keys) => self.verified(&jwt, keys, now),
                Keys::Remote(remote) => self.verified(&jwt, &*remote.keys(jwt.header.kid.as_deref()).await?, now),
            }?;
            self.known().insert(key, (trust_domain, caller.clone()), lifetime(&jwt.claims, now));
            Ok(caller)
        }
        .boxed()
    }
}

/// base64url without padding, strictly: RFC 7515, 2.
pub(super) fn base64url(text: &str) -> Option<Vec<u8>> {
    if !text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_')) || text.len() % 4 == 1 {
        return None;
    }
    if text.is_empty() {
        return Some(vec![]);
    }
    let mut standard = text.replace('-', "+").replace('_', "/");
    standard.extend(std::iter::repeat_n('=', (4 - text.len() % 4) % 4));
    openssl::base64::decode_block(&standard).ok()
}

/// The start of a hostile string: enough to recognise it in a log.
pub(super) fn clip(text: &str) -> String {
    text.chars().take(128).collect()
}
