//! The public keys of a token issuer, and fetching them.
//!
//! Keys that cannot be fetched are never made up: without keys, every token
//! is refused (CVE-2026-31837 was a fallback to a key everybody had).

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::Uri;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::ecdsa::EcdsaSig;
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Public};
use openssl::rsa::Rsa;
use openssl::sign::Verifier;
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::Denial;
use super::jwt::{Jwt, base64url, clip};
use crate::ca::p256;

/// More keys than any issuer has in rotation; also the most that a token
/// without a key id is tried with.
const MAX_KEYS: usize = 32;
const MAX_DOCUMENT: usize = 1 << 20;
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long fetched keys are used before they are fetched again.
const FRESH: Duration = Duration::from_secs(20 * 60);
/// How long they are used if they cannot be. After that a key the issuer has
/// withdrawn could still be in use, so tokens are refused.
const STALE: Duration = Duration::from_secs(24 * 3600);
/// The least time between fetches, however many unknown keys tokens name.
const MIN_INTERVAL: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Es256,
    Es384,
}

impl Algorithm {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            _ => return None,
        })
    }

    fn digest(self) -> MessageDigest {
        match self {
            Self::Rs256 | Self::Es256 => MessageDigest::sha256(),
            Self::Rs384 | Self::Es384 => MessageDigest::sha384(),
            Self::Rs512 => MessageDigest::sha512(),
        }
    }

    fn family(self) -> Family {
        match self {
            Self::Rs256 | Self::Rs384 | Self::Rs512 => Family::Rsa,
            Self::Es256 => Family::P256,
            Self::Es384 => Family::P384,
        }
    }
}

/// The kind of key an algorithm needs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Rsa,
    P256,
    P384,
}

/// The public keys of an issuer (RFC 7517).
pub struct Jwks(Vec<Key>);

struct Key {
    id: Option<String>,
    algorithm: Option<Algorithm>,
    family: Family,
    key: PKey<Public>,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<KeyDocument>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct KeyDocument {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    crv: String,
    n: String,
    e: String,
    x: String,
    y: String,
}

impl Jwks {
    /// The keys of a document that can verify signatures. Keys of other kinds
    /// are passed over, as RFC 7517, 5 asks.
    pub fn parse(document: &[u8]) -> Result<Self, String> {
        let document: Document = serde_json::from_slice(document).map_err(|error| format!("not a JWKS: {error}"))?;
        let keys: Vec<_> = document.keys.iter().filter_map(key).take(MAX_KEYS).collect();
        if keys.is_empty() { Err("the JWKS has no usable key".into()) } else { Ok(Self(keys)) }
    }

    /// One key of our own.
    pub(super) fn single(id: &str, key: PKey<Public>) -> Self {
        Self(vec![Key { id: Some(id.to_owned()), algorithm: Some(Algorithm::Es256), family: Family::P256, key }])
    }

    fn has(&self, id: Option<&str>) -> bool {
        id.is_none_or(|id| self.0.iter().any(|key| key.id.as_deref() == Some(id)))
    }

    /// Checks the token's signature.
    pub(super) fn verify(&self, jwt: &Jwt<'_>) -> Result<(), Denial> {
        let name = &jwt.header.alg;
        let algorithm =
            Algorithm::named(name).ok_or_else(|| Denial(format!("algorithm {:?} is not accepted", clip(name))))?;
        let id = jwt.header.kid.as_deref();
        // A key id is compared and nothing else: it names no file and no URL.
        let mut candidates = self
            .0
            .iter()
            .filter(|key| key.family == algorithm.family() && key.algorithm.is_none_or(|own| own == algorithm))
            .filter(|key| id.is_none() || key.id.is_none() || key.id.as_deref() == id)
            .peekable();
        if candidates.peek().is_none() {
            return Err(Denial(format!("no {name} key with id {:?}", clip(id.unwrap_or_default()))));
        }
        match candidates.any(|key| matches!(key.verifies(algorithm, jwt), Ok(true))) {
            true => Ok(()),
            false => Err(Denial("token signature does not verify".into())),
        }
    }
}

impl Key {
    fn verifies(&self, algorithm: Algorithm, jwt: &Jwt<'_>) -> Result<bool, ErrorStack> {
        let half = match self.family {
            Family::Rsa => {
                return Verifier::new(algorithm.digest(), &self.key)?.verify_oneshot(&jwt.signature, jwt.signed);
            }
            Family::P256 => 32,
            Family::P384 => 48,
        };
        // JWS has the two numbers side by side (RFC 7518, 3.4), OpenSSL wants
        // them in DER.
        if jwt.signature.len() != 2 * half {
            return Ok(false);
        }
        let (r, s) = jwt.signature.split_at(half);
        let signature = EcdsaSig::from_private_components(BigNum::from_slice(r)?, BigNum::from_slice(s)?)?;
        if algorithm == Algorithm::Es256 {
            return p256::verifies_numbers(&self.key.ec_key()?, jwt.signed, &signature);
        }
        Verifier::new(algorithm.digest(), &self.key)?.verify_oneshot(&signature.to_der()?, jwt.signed)
    }
}

fn key(document: &KeyDocument) -> Option<Key> {
    if document.usage.as_deref().is_some_and(|usage| usage != "sig") {
        return None;
    }
    let algorithm = match &document.alg {
        Some(name) => Some(Algorithm::named(name)?),
        None => None,
    };
    let number = |text: &str| BigNum::from_slice(&base64url(text)?).ok();
    let (family, key) = match (document.kty.as_str(), document.crv.as_str()) {
        ("RSA", _) => {
            let key = PKey::from_rsa(Rsa::from_public_components(number(&document.n)?, number(&document.e)?).ok()?);
            (Family::Rsa, key.ok().filter(|key| (2048..=8192).contains(&key.bits()))?)
        }
        ("EC", curve) => {
            let (family, nid) = match curve {
                "P-256" => (Family::P256, Nid::X9_62_PRIME256V1),
                "P-384" => (Family::P384, Nid::SECP384R1),
                _ => return None,
            };
            let group = EcGroup::from_curve_name(nid).ok()?;
            let (x, y) = (number(&document.x)?, number(&document.y)?);
            // This refuses points that are not on the curve.
            let key = EcKey::from_public_key_affine_coordinates(&group, &x, &y).ok()?;
            (family, PKey::from_ec_key(key).ok()?)
        }
        _ => return None,
    };
    if algorithm.is_some_and(|algorithm| algorithm.family() != family) {
        return None;
    }
    Some(Key { id: document.kid.clone(), algorithm, family, key })
}

/// Keys that are fetched when first needed, when they grow old, and when a
/// token names one that is not among them.
pub struct RemoteJwks {
    location: Location,
    current: ArcSwapOption<(Instant, Arc<Jwks>)>,
    /// When a fetch was last tried; held while one runs, so that a storm of
    /// tokens is one fetch.
    tried: Mutex<Option<Instant>>,
}

enum Location {
    Keys(Uri),
    /// An OpenID provider's configuration, which says where the keys are.
    Discovery(Uri),
}

impl RemoteJwks {
    /// The keys at a URI an operator configured.
    pub fn new(uri: &str) -> Result<Self, Denial> {
        Ok(Self::at(Location::Keys(checked(uri)?)))
    }

    /// The keys of an issuer that publishes an OpenID configuration.
    pub fn discovered(issuer: &str) -> Result<Self, Denial> {
        let uri = checked(&format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/')))?;
        Ok(Self::at(Location::Discovery(uri)))
    }

    fn at(location: Location) -> Self {
        Self { location, current: ArcSwapOption::empty(), tried: Mutex::new(None) }
    }

    /// Keys among which the one with this id is, if the issuer has it.
    pub(super) async fn keys(&self, id: Option<&str>) -> Result<Arc<Jwks>, Denial> {
        if let Some(keys) = self.usable(id) {
            return Ok(keys);
        }
        let mut tried = self.tried.lock().await;
        // Another request may have fetched them while this one waited.
        if let Some(keys) = self.usable(id) {
            return Ok(keys);
        }
        if tried.is_none_or(|at| at.elapsed() >= MIN_INTERVAL) {
            *tried = Some(Instant::now());
            let fetched = tokio::time::timeout(FETCH_TIMEOUT, self.fetch()).await;
            match fetched.unwrap_or_else(|_| Err("timed out".into())) {
                Ok(keys) => self.current.store(Some(Arc::new((Instant::now(), Arc::new(keys))))),
                Err(error) => tracing::warn!(%error, "cannot fetch the token issuer's keys"),
            }
        }
        match self.current.load().as_deref() {
            Some((at, keys)) if at.elapsed() < STALE => Ok(keys.clone()),
            _ => Err(Denial("the issuer's keys cannot be fetched".into())),
        }
    }

    fn usable(&self, id: Option<&str>) -> Option<Arc<Jwks>> {
        let current = self.current.load();
        let (at, keys) = current.as_deref()?;
        (at.elapsed() < FRESH && keys.has(id)).then(|| keys.clone())
    }

    async fn fetch(&self) -> Result<Jwks, String> {
        #[derive(Deserialize)]
        struct Configuration {
            jwks_uri: String,
        }
        let uri = match &self.location {
            Location::Keys(uri) => uri.clone(),
            Location::Discovery(uri) => {
                let configuration: Configuration =
                    serde_json::from_slice(&get(uri.clone()).await?).map_err(|error| error.to_string())?;
                checked(&configuration.jwks_uri).map_err(|error| error.to_string())?
            }
        };
        Jwks::parse(&get(uri).await?)
    }
}

fn checked(uri: &str) -> Result<Uri, Denial> {
    let parsed: Uri = uri.parse().map_err(|_| Denial(format!("{:?} is not a URI", clip(uri))))?;
    match (parsed.scheme_str(), parsed.host()) {
        (Some("https" | "http"), Some(_)) => Ok(parsed),
        _ => Err(Denial(format!("{:?} is not an http or https URI", clip(uri)))),
    }
}

/// One document. Redirects are not followed: the operator named the place.
async fn get(uri: Uri) -> Result<Bytes, String> {
    let connector = hyper_openssl::client::legacy::HttpsConnector::new().map_err(|error| error.to_string())?;
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let response = client.get(uri).await.map_err(|error| error.to_string())?;
    if !response.status().is_success() {
        return Err(format!("answered {}", response.status()));
    }
    let body = Limited::new(response.into_body(), MAX_DOCUMENT).collect().await.map_err(|error| error.to_string())?;
    Ok(body.to_bytes())
}
