//! The certificate the control plane itself serves TLS with: which one, for
//! which names, and when it is replaced.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::{SignedDuration, Timestamp};
use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Private};
use openssl::sha::sha256;
use openssl::ssl::{
    AlpnError, SslAcceptor, SslMethod, SslOptions, SslSessionCacheMode, SslVerifyMode, SslVersion, select_next_proto,
};
use openssl::stack::Stack;
use openssl::x509::X509;
use tokio_util::sync::CancellationToken;

use super::authority::{Authority, Sources};
use super::bundle::{self, BundleError, CaBundle, certificates, private_key};
use super::files::{self, FilesError};
use super::issue::{IssueError, ServerName};
use super::timestamp;

/// How long a certificate of our own lives; it is replaced at half of that.
const TTL: Duration = Duration::from_secs(7 * 24 * 3600);
/// How often files and the clock are looked at. A change of the CA's key
/// material is noticed at once.
const POLL: Duration = Duration::from_secs(2);
/// In order of preference. Only gRPC needs HTTP/2: webhook and probe clients
/// may speak HTTP/1.1.
const PROTOCOLS: &[u8] = b"\x02h2\x08http/1.1";

/// Where the serving certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServingSource {
    /// Files that somebody else renews.
    Files {
        /// Certificate and intermediates.
        cert: PathBuf,
        /// Its key.
        key: PathBuf,
        /// Roots that client certificates may have besides the mesh's.
        roots: Option<PathBuf>,
    },
    /// The mesh's own CA.
    Authority {
        /// The names clients dial.
        names: Vec<ServerName>,
    },
}

/// Why there is no serving certificate.
#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    /// A file could not be read.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// A file that must be there is not.
    #[error("{0} does not exist")]
    Missing(PathBuf),
    /// A file has no usable certificate or key.
    #[error("serving certificate {path}")]
    Material {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: BundleError,
    },
    /// The CA did not issue one.
    #[error("the CA did not issue a serving certificate")]
    Issue(#[from] IssueError),
    /// There is neither a file nor a CA.
    #[error("there is no CA to issue a serving certificate, and no file was given")]
    NoAuthority,
    /// OpenSSL failed where it should not.
    #[error("OpenSSL failed")]
    OpenSsl(#[from] ErrorStack),
}

impl ServingSource {
    /// The first that applies: files named by flags, files mounted under
    /// `mounts` (`/var/run/secrets/istiod`, where istio-csr puts them), the
    /// mesh's own CA. istiod's order.
    pub fn choose(flags: Option<Self>, mounts: &Path, names: Vec<ServerName>) -> Self {
        let (cert, key) = (mounts.join("tls/tls.crt"), mounts.join("tls/tls.key"));
        match flags {
            Some(files) => files,
            None if cert.exists() && key.exists() => {
                Self::Files { cert, key, roots: Some(mounts.join("ca/root-cert.pem")).filter(|path| path.exists()) }
            }
            None => Self::Authority { names },
        }
    }
}

/// What decides the names of the control plane.
#[derive(Clone, Debug, Default)]
pub struct ServingNames<'a> {
    /// The control plane's namespace.
    pub namespace: &'a str,
    /// Its revision; empty or `default` if it has none.
    pub revision: &'a str,
    /// The host of the mesh's `discoveryAddress`.
    pub discovery_host: &'a str,
    /// `ISTIOD_CUSTOM_HOST`: more hosts, separated by commas.
    pub custom_hosts: &'a str,
    /// Whether clients on this machine dial it by address.
    pub local: bool,
}

impl ServingNames<'_> {
    /// The names, sorted and without duplicates.
    pub fn list(&self) -> Vec<ServerName> {
        let namespace = self.namespace;
        let mut hosts = vec!["istiod".to_owned(), "istiod-remote".to_owned(), "istio-pilot".to_owned()];
        if !self.revision.is_empty() && self.revision != "default" {
            hosts.push(format!("istiod-{}", self.revision));
        }
        let services = hosts.into_iter().map(|host| format!("{host}.{namespace}.svc"));
        let given = self.custom_hosts.split(',').chain([self.discovery_host]).map(|host| host.trim().to_owned());
        let mut names: Vec<_> =
            services.chain(given).filter(|name| !name.is_empty()).map(|name| ServerName::new(&name)).collect();
        if self.local {
            names.push(ServerName::new("localhost"));
            names.push(ServerName::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST)));
            names.push(ServerName::Ip(IpAddr::V6(Ipv6Addr::LOCALHOST)));
        }
        names.sort();
        names.dedup();
        names
    }
}

/// The TLS configuration for new connections; those that are open keep theirs.
pub struct ServingCertificate {
    source: ServingSource,
    authority: Option<Arc<Authority>>,
    /// The oldest version of TLS that is spoken.
    oldest: SslVersion,
    acceptor: ArcSwap<SslAcceptor>,
    /// What the acceptor was made from. Locked by `refresh` only.
    made: Mutex<Made>,
}

struct Made {
    bundle: Option<Arc<CaBundle>>,
    files: [u8; 32],
    renew_at: Timestamp,
}

/// Everything an acceptor needs.
struct Material {
    cert: X509,
    key: PKey<Private>,
    chain: Vec<X509>,
    roots: Vec<X509>,
    files: [u8; 32],
    renew_at: Timestamp,
}

impl ServingCertificate {
    /// The first certificate; an error here must stop the start.
    pub fn new(
        source: ServingSource,
        authority: Option<Arc<Authority>>,
        oldest: SslVersion,
        now: Timestamp,
    ) -> Result<Self, ServingError> {
        let bundle = authority.as_ref().map(|authority| authority.bundle());
        let material = material(&source, bundle.as_deref(), now)?;
        let acceptor = ArcSwap::from_pointee(acceptor(&material, oldest)?);
        let made = Mutex::new(Made { bundle, files: material.files, renew_at: material.renew_at });
        Ok(Self { source, authority, oldest, acceptor, made })
    }

    /// The configuration for the next connection.
    pub fn acceptor(&self) -> Arc<SslAcceptor> {
        self.acceptor.load_full()
    }

    /// Replaces the certificate if it is time or if what it was made from has
    /// changed; whether it did. On an error the old one stays.
    pub fn refresh(&self, now: Timestamp) -> Result<bool, ServingError> {
        let bundle = self.authority.as_ref().map(|authority| authority.bundle());
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let same_bundle = match (&bundle, &made.bundle) {
            (Some(new), Some(old)) => Arc::ptr_eq(new, old),
            (None, None) => true,
            _ => false,
        };
        if same_bundle && now < made.renew_at && self.source.fingerprint()? == made.files {
            return Ok(false);
        }
        let material = material(&self.source, bundle.as_deref(), now)?;
        self.acceptor.store(Arc::new(acceptor(&material, self.oldest)?));
        *made = Made { bundle, files: material.files, renew_at: material.renew_at };
        Ok(true)
    }

    /// Keeps the certificate fresh until cancelled.
    pub async fn keep_fresh(&self, stop: CancellationToken) {
        let mut changes = self.authority.as_ref().map(|authority| authority.subscribe());
        let mut reported = String::new();
        loop {
            let changed = async {
                match &mut changes {
                    // The authority is ours, so its end cannot be reported.
                    Some(changes) => drop(changes.changed().await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = changed => {}
                () = tokio::time::sleep(POLL) => {}
            }
            match self.refresh(Timestamp::now()) {
                Ok(false) => {}
                Ok(true) => {
                    reported.clear();
                    tracing::info!("serving with a new certificate");
                }
                Err(error) => {
                    let error = Sources(&error).to_string();
                    if error != reported {
                        tracing::warn!(%error, "keeping the old serving certificate");
                        reported = error;
                    }
                }
            }
        }
    }
}

impl ServingSource {
    fn paths(&self) -> Vec<&Path> {
        match self {
            Self::Files { cert, key, roots } => {
                [Some(cert), Some(key), roots.as_ref()].into_iter().flatten().map(PathBuf::as_path).collect()
            }
            Self::Authority { .. } => vec![],
        }
    }

    fn fingerprint(&self) -> Result<[u8; 32], FilesError> {
        let mut all = vec![];
        for path in self.paths() {
            all.extend_from_slice(&sha256(&files::read(path)?.unwrap_or_default()));
        }
        Ok(sha256(&all))
    }
}

fn material(source: &ServingSource, bundle: Option<&CaBundle>, now: Timestamp) -> Result<Material, ServingError> {
    let mut roots = bundle.map(|bundle| bundle.roots().to_vec()).unwrap_or_default();
    // Taken before the files are read: a change in between is seen next time.
    let fingerprint = source.fingerprint()?;
    let (cert, key, chain, renew_at) = match source {
        ServingSource::Files { cert, key, roots: extra } => {
            let failed = |path: &PathBuf| {
                let path = path.clone();
                |source| ServingError::Material { path, source }
            };
            let read = |path: &PathBuf| files::read(path)?.ok_or_else(|| ServingError::Missing(path.clone()));
            let mut chain = certificates("the certificate", &read(cert)?).map_err(failed(cert))?;
            let key_file = key;
            let key = private_key(&read(key)?).map_err(failed(key_file))?;
            let leaf = chain.remove(0);
            if !leaf.public_key()?.public_eq(&key) {
                return Err(failed(key_file)(BundleError::Mismatch));
            }
            bundle::check_validity("serving", &leaf, now).map_err(failed(cert))?;
            if let Some(path) = extra {
                roots.extend(certificates("the root bundle", &read(path)?).map_err(failed(path))?);
            }
            // Somebody else renews it, and the change of the file is the sign. Who does
            // not is told so when it ends.
            let ends = timestamp(leaf.not_after())?;
            (leaf, key, chain, ends)
        }
        ServingSource::Authority { names } => {
            let bundle = bundle.ok_or(ServingError::NoAuthority)?;
            let (cert, key) = bundle.serving_pair(names, TTL, now)?;
            let left = timestamp(cert.not_after())?.duration_since(now);
            // At least a second, so that a CA in its last moments is not asked
            // in a loop.
            let renew_at = now + (left / 2).max(SignedDuration::from_secs(1));
            (cert, key, bundle.intermediates.clone(), renew_at)
        }
    };
    Ok(Material { cert, key, chain, roots, files: fingerprint, renew_at })
}

fn acceptor(material: &Material, oldest: SslVersion) -> Result<SslAcceptor, ErrorStack> {
    // OpenSSL's default groups are left alone: they have P-256 and P-384, which
    // are all that some ztunnel builds offer, and the hybrid post-quantum ones
    // where the library has them.
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
    builder.set_min_proto_version(Some(oldest))?;
    builder.set_max_proto_version(None)?;
    builder.set_certificate(&material.cert)?;
    builder.set_private_key(&material.key)?;
    builder.check_private_key()?;
    for cert in &material.chain {
        builder.add_extra_chain_cert(cert.clone())?;
    }
    // A resumed session would carry a verification against roots that have
    // left the bundle since. Streams are long; a full handshake costs little.
    builder.set_options(SslOptions::NO_TICKET);
    builder.set_num_tickets(0)?;
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    builder.set_alpn_select_callback(|_, offered| select_next_proto(PROTOCOLS, offered).ok_or(AlpnError::NOACK));
    if material.roots.is_empty() {
        builder.set_verify(SslVerifyMode::NONE);
    } else {
        // A client may come without a certificate, not with a bad one.
        builder.set_verify(SslVerifyMode::PEER);
        builder.set_verify_cert_store(bundle::trust_store(&material.roots)?)?;
        let mut names = Stack::new()?;
        for root in &material.roots {
            names.push(root.subject_name().to_owned()?)?;
        }
        builder.set_client_ca_list(names);
    }
    Ok(builder.build())
}

#[cfg(test)]
mod tests;
