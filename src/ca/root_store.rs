//! Where a self-signed root is kept, so that every replica and every restart
//! signs with the same one. The first to store a root wins; the others take
//! what they find.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use openssl::error::ErrorStack;

use super::bundle::{BundleError, CaBundle};
use super::files::{self, CaFiles, FilesError};
use super::identity::TrustDomain;
use super::self_signed::{self, RootPolicy};

/// The name istiod gives the Secret of its self-signed root.
pub const SECRET: &str = "istio-ca-secret";
/// The name with `USE_CACERTS_FOR_SELF_SIGNED_CA`.
pub const CACERTS_SECRET: &str = "cacerts";
const SECRET_TYPE: &str = "istio.io/ca-root";

/// Keeps one self-signed root.
pub trait RootStore: Send + Sync {
    /// The root that is stored, if any.
    fn load(&self) -> BoxFuture<'_, Result<Option<CaFiles>, StoreError>>;

    /// Stores a root unless there is one; the root that is stored then.
    fn create_if_absent<'a>(&'a self, root: &'a CaFiles) -> BoxFuture<'a, Result<CaFiles, StoreError>>;

    /// Stores `new` if `old` is still what is stored; the root that is stored
    /// then.
    fn replace<'a>(&'a self, old: &'a CaBundle, new: &'a CaFiles) -> BoxFuture<'a, Result<CaFiles, StoreError>>;
}

/// Why there is no root.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The API server refused or did not answer.
    #[error("cannot {verb} Secret {namespace}/{name}")]
    Api {
        /// What was tried.
        verb: &'static str,
        /// The Secret's namespace.
        namespace: String,
        /// The Secret's name.
        name: String,
        /// The answer.
        #[source]
        source: Box<kube::Error>,
    },
    /// The state directory cannot be used.
    #[error("cannot {verb} {path}")]
    Directory {
        /// What was tried.
        verb: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// What is stored is not key material.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// What is stored cannot sign.
    #[error("the stored root cannot sign")]
    Bundle(#[from] BundleError),
    /// OpenSSL could not make a root.
    #[error("cannot make a root")]
    OpenSsl(#[from] ErrorStack),
}

/// The root of the store; made first if the store is empty.
pub async fn obtain(
    store: &dyn RootStore,
    trust_domain: &TrustDomain,
    policy: RootPolicy,
    now: Timestamp,
) -> Result<CaBundle, StoreError> {
    let files = match store.load().await? {
        Some(files) => files,
        None => store.create_if_absent(&self_signed::create(trust_domain, policy, now)?).await?,
    };
    Ok(CaBundle::verified(&files, now)?)
}

/// The root to sign with from now on, if it is not `current`: another replica
/// renewed it, or it was time and it was renewed here. One that somebody has
/// deleted is stored again. Meant to be called hourly.
pub async fn refreshed(
    store: &dyn RootStore,
    current: &CaBundle,
    policy: RootPolicy,
    now: Timestamp,
) -> Result<Option<CaBundle>, StoreError> {
    let Some(stored) = store.load().await? else {
        tracing::warn!("the stored root is gone; it is stored again, as a restart would make another");
        let root = Bytes::copy_from_slice(current.root_pem().as_bytes());
        let files = store.create_if_absent(&CaFiles { root, ..current.files()? }).await?;
        return Ok(Some(CaBundle::verified(&files, now)?));
    };
    let bundle = CaBundle::verified(&stored, now)?;
    if self_signed::needs_renewal(&bundle, policy, now)? {
        let files = store.replace(&bundle, &self_signed::renewed(&bundle, policy, now)?).await?;
        return Ok(Some(CaBundle::verified(&files, now)?));
    }
    Ok((!current.is_from(&stored)).then_some(bundle))
}

/// A Secret of the cluster.
pub struct SecretStore {
    secrets: Api<Secret>,
    namespace: String,
    name: &'static str,
}

impl SecretStore {
    /// The Secret in the control plane's namespace; `name` is [`SECRET`] or
    /// [`CACERTS_SECRET`].
    pub fn new(client: kube::Client, namespace: &str, name: &'static str) -> Self {
        Self { secrets: Api::namespaced(client, namespace), namespace: namespace.to_owned(), name }
    }

    fn failed(&self, verb: &'static str) -> impl FnOnce(kube::Error) -> StoreError {
        let (namespace, name) = (self.namespace.clone(), self.name.to_owned());
        move |source| StoreError::Api { verb, namespace, name, source: source.into() }
    }

    fn files(&self, secret: Secret) -> Result<Option<CaFiles>, StoreError> {
        let place = format!("Secret {}/{}", self.namespace, self.name);
        let data = secret.data.unwrap_or_default();
        let files = data.into_iter().map(|(name, content)| (name, content.0.into())).collect();
        Ok(CaFiles::from_self_signed(&place, &files)?)
    }

    async fn get(&self) -> Result<Option<Secret>, StoreError> {
        self.secrets.get_opt(self.name).await.map_err(self.failed("get"))
    }

    async fn winner(&self) -> Result<CaFiles, StoreError> {
        let found = match self.get().await? {
            Some(secret) => self.files(secret)?,
            None => None,
        };
        // Deleted within a moment of being created: the caller's next start
        // settles it.
        let gone = || kube::Error::Api(Box::new(kube::core::Status::failure("deleted meanwhile", "NotFound")));
        found.ok_or_else(|| self.failed("read back")(gone()))
    }
}

impl RootStore for SecretStore {
    fn load(&self) -> BoxFuture<'_, Result<Option<CaFiles>, StoreError>> {
        async move {
            match self.get().await? {
                Some(secret) => self.files(secret),
                None => Ok(None),
            }
        }
        .boxed()
    }

    fn create_if_absent<'a>(&'a self, root: &'a CaFiles) -> BoxFuture<'a, Result<CaFiles, StoreError>> {
        async move {
            let secret = secret(&self.namespace, self.name, root);
            match self.secrets.create(&PostParams::default(), &secret).await {
                Ok(_) => Ok(root.clone()),
                Err(kube::Error::Api(status)) if status.is_already_exists() => self.winner().await,
                Err(error) => Err(self.failed("create")(error)),
            }
        }
        .boxed()
    }

    fn replace<'a>(&'a self, old: &'a CaBundle, new: &'a CaFiles) -> BoxFuture<'a, Result<CaFiles, StoreError>> {
        async move {
            let Some(mut stored) = self.get().await? else { return self.create_if_absent(new).await };
            match self.files(stored.clone())? {
                Some(files) if !old.is_from(&files) => return Ok(files),
                _ => {}
            }
            // The resource version read above makes a concurrent write a
            // conflict instead of a lost root.
            stored.data.get_or_insert_default().extend(secret_data(new));
            match self.secrets.replace(self.name, &PostParams::default(), &stored).await {
                Ok(_) => Ok(new.clone()),
                Err(kube::Error::Api(status)) if status.is_conflict() => self.winner().await,
                Err(error) => Err(self.failed("update")(error)),
            }
        }
        .boxed()
    }
}

/// The Secret exactly as istiod stores it, so that either can continue the
/// other's root.
fn secret(namespace: &str, name: &str, root: &CaFiles) -> Secret {
    let mut data = secret_data(root);
    if name == CACERTS_SECRET {
        // Tells this Secret from one an operator plugged in.
        data.insert(files::ISTIO_GENERATED.to_owned(), ByteString(vec![]));
    }
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        type_: Some(SECRET_TYPE.to_owned()),
        data: Some(data),
        ..Secret::default()
    }
}

fn secret_data(root: &CaFiles) -> BTreeMap<String, ByteString> {
    root.to_self_signed().into_iter().map(|(name, content)| (name, ByteString(content.into()))).collect()
}

/// A directory of the local machine, readable by its owner only.
pub struct DirectoryStore {
    state: PathBuf,
}

impl DirectoryStore {
    /// Keeps the root in `<state>/ca`.
    pub fn new(state: impl Into<PathBuf>) -> Self {
        Self { state: state.into() }
    }

    fn dir(&self) -> PathBuf {
        self.state.join("ca")
    }

    fn read(&self) -> Result<Option<CaFiles>, StoreError> {
        let mut found = BTreeMap::<String, Bytes>::new();
        for name in [files::CA_CERT, files::CA_KEY, files::ROOT_CERT, files::CERT_CHAIN] {
            if let Some(content) = files::read(&self.dir().join(name))? {
                found.insert(name.to_owned(), content);
            }
        }
        Ok(CaFiles::from_self_signed(&self.dir().display().to_string(), &found)?)
    }

    /// Writes the files beside the final place. They appear there together,
    /// by one rename.
    fn stage(&self, root: &CaFiles) -> Result<PathBuf, StoreError> {
        private_dir(&self.state)?;
        let mut suffix = [0; 8];
        openssl::rand::rand_bytes(&mut suffix)?;
        let staging = self.state.join(format!(".ca-{:016x}", u64::from_be_bytes(suffix)));
        private_dir(&staging)?;
        for (name, content) in root.to_self_signed() {
            private_file(&staging.join(name), &content)?;
        }
        Ok(staging)
    }
}

impl RootStore for DirectoryStore {
    fn load(&self) -> BoxFuture<'_, Result<Option<CaFiles>, StoreError>> {
        async move { self.read() }.boxed()
    }

    fn create_if_absent<'a>(&'a self, root: &'a CaFiles) -> BoxFuture<'a, Result<CaFiles, StoreError>> {
        async move {
            if let Some(found) = self.read()? {
                return Ok(found);
            }
            let staging = self.stage(root)?;
            // A directory cannot be renamed over one that has files.
            let renamed = std::fs::rename(&staging, self.dir());
            if let Err(source) = renamed {
                let _ = std::fs::remove_dir_all(&staging);
                let failed = StoreError::Directory { verb: "create", path: self.dir(), source };
                return self.read()?.ok_or(failed);
            }
            Ok(root.clone())
        }
        .boxed()
    }

    fn replace<'a>(&'a self, old: &'a CaBundle, new: &'a CaFiles) -> BoxFuture<'a, Result<CaFiles, StoreError>> {
        async move {
            match self.read()? {
                None => return self.create_if_absent(new).await,
                Some(found) if !old.is_from(&found) => return Ok(found),
                Some(_) => {}
            }
            // The key stays in a renewal, so that file by file is atomic
            // enough: any mixture of the two certificates verifies.
            let staging = self.stage(new)?;
            for name in new.to_self_signed().keys() {
                let to = self.dir().join(name);
                std::fs::rename(staging.join(name), &to).map_err(|source| StoreError::Directory {
                    verb: "replace",
                    path: to,
                    source,
                })?;
            }
            let _ = std::fs::remove_dir_all(&staging);
            Ok(new.clone())
        }
        .boxed()
    }
}

/// Uses what another store has and writes nothing: without a stored root, a
/// new one lives as long as the process.
pub struct ReadOnlyStore<S> {
    stored: S,
    made: OnceLock<CaFiles>,
}

impl<S> ReadOnlyStore<S> {
    /// What another store has.
    pub fn of(stored: S) -> Self {
        Self { stored, made: OnceLock::new() }
    }
}

impl<S: RootStore> RootStore for ReadOnlyStore<S> {
    fn load(&self) -> BoxFuture<'_, Result<Option<CaFiles>, StoreError>> {
        async move { Ok(self.stored.load().await?.or_else(|| self.made.get().cloned())) }.boxed()
    }

    fn create_if_absent<'a>(&'a self, root: &'a CaFiles) -> BoxFuture<'a, Result<CaFiles, StoreError>> {
        async move { Ok(self.made.get_or_init(|| root.clone()).clone()) }.boxed()
    }

    fn replace<'a>(&'a self, _: &'a CaBundle, new: &'a CaFiles) -> BoxFuture<'a, Result<CaFiles, StoreError>> {
        async move { Ok(new.clone()) }.boxed()
    }
}

/// Makes a directory that only its owner can enter, and takes the rights of
/// others away from one that exists.
pub(super) fn private_dir(path: &Path) -> Result<(), StoreError> {
    let failed = |source| StoreError::Directory { verb: "create", path: path.to_owned(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o700)).map_err(failed)
}

/// Writes a new file that only its owner can read, down to the disk.
pub(super) fn private_file(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let failed = |source| StoreError::Directory { verb: "write", path: path.to_owned(), source };
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(failed)
}

#[cfg(test)]
mod tests;
