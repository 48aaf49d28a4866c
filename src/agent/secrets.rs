//! The secrets that Envoy may ask for, by name: its own certificate, the roots
//! of the mesh, and files.
//!
//! A name that means nothing here has no secret, and is left unanswered: to
//! answer with another would let a proxy serve as somebody else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::DataSource;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, TlsCertificate, secret,
};
use envoy_types::pb::google::protobuf::Any;
use openssl::pkey::PKey;
use openssl::sha::sha256;
use openssl::x509::X509;
use prost::{Message, Name};
use tokio::sync::watch;

use super::certificate::Workload;

/// The type of every secret.
pub const SECRET_TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// The name of the workload's own certificate.
pub const WORKLOAD: &str = "default";

/// The name of the roots of the mesh.
pub const ROOTS: &str = "ROOTCA";

/// How often files are looked at. Kubernetes changes them by moving a link,
/// which is seen by looking, but not everywhere by watching.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Where distributions keep the roots that the system trusts.
const SYSTEM_ROOTS: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A secret from files, as its name says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileSecret {
    /// `file-cert:certificate~key`.
    Certificate(PathBuf, PathBuf),
    /// `file-root:roots`.
    Roots(PathBuf),
}

impl FileSecret {
    /// The files of a name. `file-root:system` is what the system trusts.
    pub fn parse(name: &str) -> Option<Self> {
        if let Some(files) = name.strip_prefix("file-cert:") {
            let (certificate, key) = files.split_once('~')?;
            return (!certificate.is_empty() && !key.is_empty())
                .then(|| Self::Certificate(certificate.into(), key.into()));
        }
        match name.strip_prefix("file-root:")? {
            "" => None,
            "system" => SYSTEM_ROOTS.iter().map(PathBuf::from).find(|path| path.exists()).map(Self::Roots),
            path => Some(Self::Roots(path.into())),
        }
    }

    /// What the files hold, if it is whole. While they are being changed, a
    /// certificate can stand beside the key of another.
    fn read(&self, name: &str) -> Result<Held, String> {
        let read =
            |path: &Path| std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()));
        let certificates = |path: &Path, pem: &[u8]| {
            let certificates = X509::stack_from_pem(pem).unwrap_or_default();
            match certificates.into_iter().next() {
                Some(first) => Ok(first),
                None => Err(format!("{} has no certificates", path.display())),
            }
        };
        match self {
            Self::Certificate(certificate, key) => {
                let (chain, private) = (read(certificate)?, read(key)?);
                let leaf = certificates(certificate, &chain)?;
                // Without a callback OpenSSL would ask whoever sits at the terminal.
                let parsed = PKey::private_key_from_pem_callback(&private, |_| Ok(0));
                let parsed = parsed.map_err(|_| format!("{} has no key", key.display()))?;
                match leaf.public_key().is_ok_and(|public| public.public_eq(&parsed)) {
                    true => Ok(Held::certificate(name, chain, private)),
                    false => Err(format!("{} is not the key of {}", key.display(), certificate.display())),
                }
            }
            Self::Roots(path) => {
                let pem = read(path)?;
                certificates(path, &pem)?;
                Ok(Held::roots(name, pem))
            }
        }
    }
}

/// A secret as it is sent.
#[derive(Clone)]
pub struct Held {
    /// Made of the public part only, as versions are logged.
    pub version: String,
    /// The secret.
    pub resource: Any,
}

impl Held {
    fn certificate(name: &str, chain: Vec<u8>, key: Vec<u8>) -> Self {
        let version = version(&chain);
        let certificate = TlsCertificate {
            certificate_chain: Some(inline(chain)),
            private_key: Some(inline(key)),
            ..Default::default()
        };
        Self { version, resource: resource(name, secret::Type::TlsCertificate(certificate)) }
    }

    fn roots(name: &str, roots: Vec<u8>) -> Self {
        let version = version(&roots);
        let context = CertificateValidationContext { trusted_ca: Some(inline(roots)), ..Default::default() };
        Self { version, resource: resource(name, secret::Type::ValidationContext(context)) }
    }
}

fn version(public: &[u8]) -> String {
    sha256(public)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn inline(bytes: Vec<u8>) -> DataSource {
    DataSource { specifier: Some(Specifier::InlineBytes(bytes)), ..Default::default() }
}

fn resource(name: &str, kind: secret::Type) -> Any {
    let secret = Secret { name: name.to_string(), r#type: Some(kind) };
    Any { type_url: format!("type.googleapis.com/{}", Secret::full_name()), value: secret.encode_to_vec() }
}

/// All secrets by name.
pub type Table = BTreeMap<String, Held>;

/// The secrets of a proxy. Clones share them.
#[derive(Clone)]
pub struct Secrets(Arc<Shared>);

struct Shared {
    table: watch::Sender<Table>,
    files: watch::Sender<BTreeMap<String, FileSecret>>,
}

impl Default for Secrets {
    fn default() -> Self {
        Self(Arc::new(Shared { table: watch::Sender::default(), files: watch::Sender::default() }))
    }
}

impl Secrets {
    /// Puts a new certificate and the roots in the place of the old ones.
    pub fn set_workload(&self, workload: &Workload) {
        let certificate = Held::certificate(WORKLOAD, workload.chain.clone(), workload.key.clone());
        let roots = Held::roots(ROOTS, workload.roots.clone());
        self.0.table.send_modify(|table| {
            table.insert(WORKLOAD.into(), certificate);
            table.insert(ROOTS.into(), roots);
        });
    }

    /// The secrets now, and as they change.
    pub fn follow(&self) -> watch::Receiver<Table> {
        self.0.table.subscribe()
    }

    /// Has the secret of a name looked after, if the name is that of files.
    /// Returns false for a name that can never have a secret.
    pub fn want(&self, name: &str) -> bool {
        if [WORKLOAD, ROOTS].contains(&name) || self.0.files.borrow().contains_key(name) {
            return true;
        }
        let Some(file) = FileSecret::parse(name) else { return false };
        self.look(name, &file, true);
        self.0.files.send_modify(|files| _ = files.insert(name.to_string(), file));
        true
    }

    /// Reads the files of a secret. What cannot be read leaves the last good
    /// one in place.
    fn look(&self, name: &str, file: &FileSecret, first: bool) {
        match file.read(name) {
            Ok(held) => {
                let changed = |table: &mut Table| {
                    let same = table.get(name).is_some_and(|old| old.version == held.version);
                    if !same {
                        table.insert(name.to_string(), held);
                    }
                    !same
                };
                if self.0.table.send_if_modified(changed) {
                    tracing::info!(name, "secret read from files");
                }
            }
            Err(reason) if first => tracing::warn!(name, reason, "no secret yet"),
            Err(reason) => tracing::debug!(name, reason, "the last good secret stays"),
        }
    }

    /// Follows the files for as long as it runs.
    pub async fn follow_files(self) {
        let mut wanted = self.0.files.subscribe();
        loop {
            // Nobody is woken while there are no files.
            if wanted.wait_for(|files| !files.is_empty()).await.is_err() {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
            let files = self.0.files.borrow().clone();
            for (name, file) in files {
                self.look(&name, &file, false);
            }
        }
    }
}
