//! Key material as it lies in a directory or a Secret: which file is what.
//!
//! Two layouts are read: Istio's plug-in CA
//! (<https://istio.io/latest/docs/tasks/security/cert-management/plugin-ca-cert/>)
//! and cert-manager's. Whether the material is any good is decided by
//! [`CaBundle::verified`](super::bundle::CaBundle::verified).

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use openssl::sha::sha256;

/// The signing certificate in Istio's layout.
pub const CA_CERT: &str = "ca-cert.pem";
/// The signing key in Istio's layout.
pub const CA_KEY: &str = "ca-key.pem";
/// The intermediates in Istio's layout.
pub const CERT_CHAIN: &str = "cert-chain.pem";
/// The root bundle in Istio's layout.
pub const ROOT_CERT: &str = "root-cert.pem";
/// The optional revocation list in Istio's layout.
pub const CA_CRL: &str = "ca-crl.pem";
/// Marks a `cacerts` Secret that istiod itself made and not an operator.
pub const ISTIO_GENERATED: &str = "istio-generated";
const TLS_CERT: &str = "tls.crt";
const TLS_KEY: &str = "tls.key";
const TLS_ROOT: &str = "ca.crt";

/// No certificate file of a working mesh comes near this.
const MAX_FILE: u64 = 1 << 20;

/// The files of a certificate authority, unverified.
#[derive(Clone, PartialEq, Eq)]
pub struct CaFiles {
    /// The signing certificate.
    pub cert: Bytes,
    /// Its private key.
    pub key: Bytes,
    /// Intermediates between it and a root; may be empty.
    pub chain: Bytes,
    /// The roots of the mesh.
    pub root: Bytes,
    /// A revocation list to publish, if the operator gave one.
    pub crl: Option<Bytes>,
}

/// Why files are not key material.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// Some files of a layout are there and others are not.
    #[error("{place} has {present} but lacks {missing}: a plugged-in CA needs all of {layout}")]
    Partial {
        /// The directory or Secret.
        place: String,
        /// What was found.
        present: String,
        /// What was not.
        missing: String,
        /// Every file the layout needs.
        layout: String,
    },
    /// A file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Which names the files of a layout have.
struct Layout {
    cert: &'static str,
    key: &'static str,
    chain: &'static str,
    root: &'static str,
}

const ISTIO: Layout = Layout { cert: CA_CERT, key: CA_KEY, chain: CERT_CHAIN, root: ROOT_CERT };
/// cert-manager puts the intermediates behind the certificate in one file.
const CERT_MANAGER: Layout = Layout { cert: TLS_CERT, key: TLS_KEY, chain: TLS_CERT, root: TLS_ROOT };

impl Layout {
    fn names(&self) -> Vec<&'static str> {
        let mut names = vec![self.cert, self.key, self.chain, self.root];
        names.dedup();
        names.sort_unstable();
        names.dedup();
        names
    }
}

impl CaFiles {
    /// The files of a plugged-in CA in a directory; `None` if it has none.
    pub fn from_dir(dir: &Path) -> Result<Option<Self>, FilesError> {
        let mut files = BTreeMap::new();
        for name in ISTIO.names().into_iter().chain(CERT_MANAGER.names()).chain([CA_CRL]) {
            if let Some(content) = read(&dir.join(name))? {
                files.insert(name.to_owned(), content);
            }
        }
        Self::from_map(&dir.display().to_string(), &files)
    }

    /// The files of a plugged-in CA in a map such as a Secret's data; `None`
    /// if it has none. `place` names the map in errors.
    pub fn from_map(place: &str, files: &BTreeMap<String, Bytes>) -> Result<Option<Self>, FilesError> {
        let find = |name: &str| files.get(name).filter(|content| !content.is_empty());
        // What is between the signer and the root may be nothing, in a file that has
        // to be there.
        let there = |name: &str| if name == CERT_CHAIN { files.get(name) } else { find(name) };
        // As in istiod, `tls.crt` decides where both are present.
        let any = |layout: &Layout| layout.names().iter().any(|name| find(name).is_some());
        let layout = match (find(TLS_CERT).is_some(), any(&ISTIO), any(&CERT_MANAGER)) {
            (true, ..) | (false, false, true) => CERT_MANAGER,
            (false, true, _) => ISTIO,
            (false, false, false) => return Ok(None),
        };
        let (present, missing): (Vec<&str>, Vec<&str>) =
            layout.names().into_iter().partition(|name| there(name).is_some());
        match (find(layout.cert), find(layout.key), there(layout.chain), find(layout.root)) {
            (Some(cert), Some(key), Some(chain), Some(root)) => Ok(Some(Self {
                cert: cert.clone(),
                key: key.clone(),
                chain: chain.clone(),
                root: root.clone(),
                crl: find(CA_CRL).cloned(),
            })),
            _ => Err(FilesError::Partial {
                place: place.to_owned(),
                present: present.join(", "),
                missing: missing.join(", "),
                layout: layout.names().join(", "),
            }),
        }
    }

    /// A self-signed root as istiod stores it; `None` if the map has neither
    /// certificate nor key. Old istiods leave the root entry empty, since the
    /// certificate is its own root.
    pub fn from_self_signed(place: &str, files: &BTreeMap<String, Bytes>) -> Result<Option<Self>, FilesError> {
        let find = |name: &str| files.get(name).filter(|content| !content.is_empty()).cloned();
        match (find(CA_CERT), find(CA_KEY)) {
            (None, None) => Ok(None),
            (Some(cert), Some(key)) => Ok(Some(Self {
                root: find(ROOT_CERT).unwrap_or_else(|| cert.clone()),
                cert,
                key,
                chain: find(CERT_CHAIN).unwrap_or_default(),
                crl: None,
            })),
            (cert, _) => {
                let (present, missing) = if cert.is_some() { (CA_CERT, CA_KEY) } else { (CA_KEY, CA_CERT) };
                Err(FilesError::Partial {
                    place: place.to_owned(),
                    present: present.to_owned(),
                    missing: missing.to_owned(),
                    layout: format!("{CA_CERT}, {CA_KEY}"),
                })
            }
        }
    }

    /// The entries istiod writes for a self-signed root: five, two of them
    /// empty.
    pub fn to_self_signed(&self) -> BTreeMap<String, Bytes> {
        [
            (CA_CERT, self.cert.clone()),
            (CA_KEY, self.key.clone()),
            (ROOT_CERT, self.root.clone()),
            (CERT_CHAIN, Bytes::new()),
            ("key.pem", Bytes::new()),
        ]
        .map(|(name, content)| (name.to_owned(), content))
        .into()
    }

    /// A fingerprint that changes when any file does. It is made to compare
    /// two readings, not to be shown: it covers the key.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut all = Vec::new();
        for part in [&self.cert, &self.key, &self.chain, &self.root, self.crl.as_ref().unwrap_or(&Bytes::new())] {
            all.extend_from_slice(&sha256(part));
        }
        sha256(&all)
    }
}

/// The content of a file, `None` if there is no such file.
pub fn read(path: &Path) -> Result<Option<Bytes>, FilesError> {
    let failed = |source| FilesError::Read { path: path.to_owned(), source };
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() > MAX_FILE => {
            Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 1 MiB")))
        }
        Ok(_) => std::fs::read(path).map(|content| Some(content.into())).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

impl fmt::Debug for CaFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaFiles").field("cert", &self.cert.len()).field("key", &"redacted").finish_non_exhaustive()
    }
}
