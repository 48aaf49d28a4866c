//! RequestAuthentication, complete. A field that is not known is kept by its
//! name, because a rule about tokens must not accept more for want of it.
//! <https://istio.io/latest/docs/reference/config/security/request_authentication/>

use std::sync::Arc;

use serde::Deserialize;

use super::intern::interned;
use super::istio::{PolicySelector, PolicyTargetRef};
use super::meta::{Meta, nullable};
use super::unknown::{Unknown, keeps_unknown};

/// The tokens that requests may carry.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RequestAuthentication {
    /// Name, labels and the like.
    #[serde(rename = "metadata")]
    pub meta: Meta,
    /// The policy.
    #[serde(deserialize_with = "nullable")]
    pub spec: RequestAuthenticationSpec,
}

/// `requestAuthentication.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase", default)]
pub struct RequestAuthenticationSpec {
    /// The workloads it is for.
    pub selector: Option<PolicySelector>,
    /// What it is attached to, in the older singular form.
    pub target_ref: Option<PolicyTargetRef>,
    /// What it is attached to.
    #[serde(deserialize_with = "nullable")]
    pub target_refs: Box<[PolicyTargetRef]>,
    /// The issuers whose tokens are looked at.
    #[serde(deserialize_with = "nullable")]
    pub jwt_rules: Box<[JwtRule]>,
    /// Fields this version does not know; see [`JwtRule::unknown`].
    #[serde(skip)]
    pub unknown: Unknown,
}

/// Where tokens of an issuer are found, how they are verified, and what is
/// done with them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase", default)]
pub struct JwtRule {
    /// The issuer, as in the claim `iss`.
    #[serde(deserialize_with = "nullable")]
    pub issuer: Arc<str>,
    /// Audiences of which a token must have one; none is any.
    #[serde(deserialize_with = "nullable")]
    pub audiences: Box<[Arc<str>]>,
    /// Where the issuer's keys are.
    #[serde(alias = "jwks_uri", deserialize_with = "nullable")]
    pub jwks_uri: Arc<str>,
    /// The issuer's keys.
    #[serde(deserialize_with = "nullable")]
    pub jwks: Arc<str>,
    /// Headers that may hold a token.
    #[serde(deserialize_with = "nullable")]
    pub from_headers: Box<[JwtHeader]>,
    /// Query parameters that may hold a token.
    #[serde(deserialize_with = "nullable")]
    pub from_params: Box<[Arc<str>]>,
    /// Cookies that may hold a token.
    #[serde(deserialize_with = "nullable")]
    pub from_cookies: Box<[Arc<str>]>,
    /// The header that gets the payload of a verified token.
    #[serde(deserialize_with = "nullable")]
    pub output_payload_to_header: Arc<str>,
    /// Headers that get claims of a verified token.
    #[serde(deserialize_with = "nullable")]
    pub output_claim_to_headers: Box<[ClaimToHeader]>,
    /// Whether the token is passed on.
    #[serde(deserialize_with = "nullable")]
    pub forward_original_token: bool,
    /// How long fetching keys may take, such as `5s`.
    #[serde(deserialize_with = "nullable")]
    pub timeout: Arc<str>,
    /// Claims whose text is a list.
    #[serde(deserialize_with = "nullable")]
    pub space_delimited_claims: Box<[Arc<str>]>,
    /// `OPTIONAL` (also when empty) or `REQUIRED`.
    #[serde(deserialize_with = "interned")]
    pub presence: Arc<str>,
    /// Fields this version does not know.
    #[serde(skip)]
    pub unknown: Unknown,
}

/// A header that may hold a token.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct JwtHeader {
    /// Its name.
    #[serde(deserialize_with = "nullable")]
    pub name: Arc<str>,
    /// What comes before the token, such as `Bearer `.
    #[serde(deserialize_with = "nullable")]
    pub prefix: Arc<str>,
}

/// A header that gets a claim.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ClaimToHeader {
    /// The header.
    #[serde(deserialize_with = "nullable")]
    pub header: Arc<str>,
    /// The claim; `a.b` is nested.
    #[serde(deserialize_with = "nullable")]
    pub claim: Arc<str>,
}

keeps_unknown!(RequestAuthenticationSpec, JwtRule);
