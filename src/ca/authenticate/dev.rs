//! Tokens without a Kubernetes: in file mode the control plane is its own
//! issuer. The key is in the state directory, so whoever can read that can
//! mint any identity, as with the CA key beside it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use openssl::ecdsa::EcdsaSig;
use openssl::pkey::{PKey, Private};
use openssl::sha::sha256;
use serde_json::json;

use super::PodBinding;
use super::jwks::Jwks;
use super::jwt::JwtAuthenticator;
use crate::ca::bundle::{BundleError, private_key};
use crate::ca::files;
use crate::ca::identity::TrustDomains;
use crate::ca::issue::p256_key;
use crate::ca::root_store::{StoreError, private_dir, private_file};

const ISSUER: &str = "https://fairway.invalid";
const KEY_FILE: &str = "token-key.pem";

/// Mints service account tokens and accepts them.
pub struct DevIssuer {
    key: PKey<Private>,
    kid: String,
}

impl DevIssuer {
    /// The issuer whose key is in a state directory; the key is made first if
    /// there is none.
    pub fn open(state: &Path) -> Result<Self, StoreError> {
        let path = state.join(KEY_FILE);
        let content = match files::read(&path)? {
            Some(content) => content,
            None => {
                private_dir(state)?;
                let staging = state.join(format!(".{KEY_FILE}-{}", std::process::id()));
                let _ = std::fs::remove_file(&staging);
                private_file(&staging, &p256_key()?.private_key_to_pem_pkcs8()?)?;
                // A link fails where a file is, so that of two processes that
                // start together one wins and both read the same key.
                let _ = std::fs::hard_link(&staging, &path);
                let _ = std::fs::remove_file(&staging);
                files::read(&path)?.ok_or_else(|| StoreError::Directory {
                    verb: "create",
                    path: path.clone(),
                    source: std::io::ErrorKind::NotFound.into(),
                })?
            }
        };
        let key = private_key(&content)?;
        if key.id() != openssl::pkey::Id::EC || key.bits() != 256 {
            return Err(BundleError::Key(format!("{} is not on P-256", path.display())).into());
        }
        let kid = base64url(&sha256(&key.public_key_to_der()?)[..12]);
        Ok(Self { key, kid })
    }

    /// A token that says its bearer is a service account, in a pod if one is
    /// given.
    pub fn mint(
        &self,
        namespace: &str,
        service_account: &str,
        pod: Option<&PodBinding>,
        audience: &str,
        ttl: Duration,
        now: Timestamp,
    ) -> Result<String, StoreError> {
        let now = now.as_second();
        // The API server gives a service account a UID; here its name is all
        // there is.
        let mut kubernetes =
            json!({ "namespace": namespace, "serviceaccount": { "name": service_account, "uid": service_account } });
        if let Some(pod) = pod {
            kubernetes["pod"] = json!({ "name": *pod.name, "uid": *pod.uid });
        }
        let claims = json!({
            "iss": ISSUER,
            "sub": format!("system:serviceaccount:{namespace}:{service_account}"),
            "aud": [audience],
            "iat": now,
            "nbf": now,
            "exp": now.saturating_add_unsigned(ttl.as_secs()),
            "kubernetes.io": kubernetes,
        });
        let header = json!({ "alg": "ES256", "kid": self.kid, "typ": "JWT" });
        let signed =
            format!("{}.{}", base64url(header.to_string().as_bytes()), base64url(claims.to_string().as_bytes()));
        let key = self.key.ec_key()?;
        let signature = EcdsaSig::sign(&sha256(signed.as_bytes()), &key)?;
        let mut raw = signature.r().to_vec_padded(32)?;
        raw.extend(signature.s().to_vec_padded(32)?);
        Ok(format!("{signed}.{}", base64url(&raw)))
    }

    /// What accepts the tokens minted here.
    pub fn authenticator(
        &self,
        audiences: &[String],
        trust_domains: Arc<TrustDomains>,
    ) -> Result<JwtAuthenticator, StoreError> {
        let public = PKey::public_key_from_der(&self.key.public_key_to_der()?)?;
        Ok(JwtAuthenticator::own(ISSUER, Jwks::single(&self.kid, public), audiences, trust_domains))
    }
}

fn base64url(bytes: &[u8]) -> String {
    openssl::base64::encode_block(bytes).trim_end_matches('=').replace('+', "-").replace('/', "_")
}
