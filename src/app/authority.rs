//! Identity: who callers are, and what signs certificates.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use openssl::ssl::SslVersion;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::Tasks;
use crate::admin::SharedRegistry;
use crate::ca::authenticate::{
    Authenticate, AuthenticatorChain, DevIssuer, JwtAuthenticator, JwtRule, KubeReviewer, KubernetesTokens,
    TokenAuthenticator,
};
use crate::ca::authority::{Authority, Refusal, Watched};
use crate::ca::bundle::CaBundle;
use crate::ca::denials::Denials;
use crate::ca::files::{CaFiles, FilesError, ISTIO_GENERATED};
use crate::ca::handover::Pace;
use crate::ca::identity::{TrustDomain, TrustDomains};
use crate::ca::issue::Lifetimes;
use crate::ca::metrics::{CaMetrics, register_expiry};
use crate::ca::node::{NodeAccount, NodeAuthorizer};
use crate::ca::previous::{Previous, PreviousStore};
use crate::ca::root_store::{self, DirectoryStore, ReadOnlyStore, RootStore, SecretStore};
use crate::ca::self_signed::{RootKey, RootPolicy};
use crate::ca::service::CertificateService;
use crate::ca::serving::{ServingCertificate, ServingNames, ServingSource};
use crate::config::{Discovery, Environment};
use crate::controller::replicas;
use crate::model::Settings;
use crate::model::mesh::MeshConfig;
use crate::source::{Problem, Problems};
use crate::writer::Published;

/// What decides about identity.
pub(super) struct Setup<'a> {
    pub(super) flags: &'a Discovery,
    pub(super) environment: &'a Environment,
    pub(super) settings: &'a Settings,
    /// The cluster; without one a folder is served.
    pub(super) client: Option<&'a kube::Client>,
}

/// How often a directory is read for new material. Reading a handful of small
/// files and comparing hashes is cheap, and sees every way to change them:
/// symlink swaps, renames, network file systems that tell nobody.
const DIR_POLL: Duration = Duration::from_secs(2);
/// How often a plugged-in Secret that is not mounted is read.
const SECRET_POLL: Duration = Duration::from_secs(30);
/// How often it is looked whether another replica has noted what signs.
const NOTED: Duration = Duration::from_secs(2);

/// The key of the problem that key material is refused.
const CA_PROBLEM: &str = "ca";

impl Setup<'_> {
    /// The names of the mesh. Until the mesh configuration has been read, that
    /// is the default.
    pub(super) fn trust_domains(&self) -> anyhow::Result<Arc<TrustDomains>> {
        let mesh = self.settings.mesh_file.clone().unwrap_or_default();
        let (own, aliases) = names(&mesh)?;
        Ok(Arc::new(TrustDomains::new(own, aliases)))
    }

    /// The ways to prove an identity, in istiod's order. Tokens are for one of the
    /// audiences that are configured, or of `more`.
    pub(super) fn authenticator(
        &self,
        trust: &Arc<TrustDomains>,
        more: &[&str],
    ) -> anyhow::Result<Arc<dyn Authenticate>> {
        let more = more.iter().map(|audience| (*audience).to_owned());
        let audiences = &self.environment.audiences.iter().cloned().chain(more).collect::<Vec<_>>();
        let mut tokens: Vec<Arc<dyn TokenAuthenticator>> = Vec::new();
        if let Some(rule) = &self.environment.jwt_rule {
            let rule: JwtRule = serde_json::from_str(rule).context("JWT_RULE")?;
            tokens.push(Arc::new(JwtAuthenticator::new(rule, audiences, trust.clone())?));
        }
        match self.client {
            Some(client) => {
                let reviewer = Arc::new(KubeReviewer::new(client.clone()));
                let cluster = &self.environment.cluster;
                tokens.push(Arc::new(KubernetesTokens::new(reviewer, audiences.clone(), cluster, trust.clone())));
            }
            None => {
                let issuer = DevIssuer::open(&self.flags.state_dir).context("cannot open the token issuer")?;
                tokens.push(Arc::new(issuer.authenticator(audiences, trust.clone())?));
            }
        }
        Ok(Arc::new(AuthenticatorChain::new(trust.clone(), tokens)))
    }

    /// What signs certificates. Nothing, if that is switched off.
    pub(super) async fn authority(
        &self,
        tasks: &mut Tasks,
        trust: &TrustDomains,
        registry: &SharedRegistry,
        problems: Problems,
    ) -> anyhow::Result<Option<Arc<Authority>>> {
        if !self.environment.ca_server {
            tracing::info!("ENABLE_CA_SERVER=false: certificates are not signed here");
            return Ok(None);
        }
        let pace = Pace { lifetime: self.environment.default_ttl, spread: self.environment.ca_spread };
        let plugged = PluggedIn::new(self);
        let given = plugged.read().await?;
        let authority = match &given {
            Some((place, files)) => {
                let bundle = CaBundle::verified(files, Timestamp::now()).with_context(|| place.clone())?;
                Arc::new(Authority::new(bundle, pace))
            }
            None => self.self_signed(tasks, trust, pace).await?,
        };
        let previous = match self.client {
            Some(client) => {
                PreviousStore::Secret(Box::new(Api::namespaced(client.clone(), &self.settings.system_namespace)))
            }
            None => PreviousStore::Directory(self.flags.state_dir.clone()),
        };
        let noted = previous.load().await.unwrap_or_else(|error| {
            tracing::warn!(%error, "whether a new root is being told is not known");
            None
        });
        let resume = |before: Previous| {
            let resumed = authority.resume(&before, Timestamp::now()).unwrap_or_else(|error| {
                authority.refuse(&error);
                false
            });
            (before, resumed)
        };
        // The change before may not have come to its end when the next one begins.
        let signs = match (self.client, &given) {
            (Some(client), Some(_)) if !noted.as_ref().is_some_and(Previous::signs) => {
                self.issuer_before(client, &authority, &previous, &tasks.stop).await.map(resume)
            }
            _ => None,
        };
        let found = noted.map(resume).or(signs);
        if !self.flags.read_only {
            let (keeping, stop) = (authority.clone(), tasks.stop.clone());
            tasks.spawn_stoppable("issuer before", async move {
                keeping.keep_previous(&previous, found, stop).await;
            });
        }
        let (following, stop) = (authority.clone(), tasks.stop.clone());
        let is_given = given.is_some();
        tasks.spawn_stoppable("plugged-in CA", async move { plugged.follow(&following, is_given, stop).await });
        let (pacing, stop) = (authority.clone(), tasks.stop.clone());
        tasks.spawn_stoppable("steps of a new root", async move { pacing.keep_pace(stop).await });
        tasks.spawn("refused key material", show_refusals(authority.refusals(), problems));
        let bundle = authority.bundle();
        tracing::info!(root_expires = %bundle.root_not_after(), signer_expires = %bundle.not_after(), "certificate authority");
        registry.register(|registry| register_expiry(registry, authority.clone()));
        if self.client.is_none() {
            // Whoever sees us ready may look for it at once.
            let (mut changes, state) = (authority.subscribe(), self.flags.state_dir.clone());
            let root = changes.borrow_and_update().root_pem().clone();
            write_root(&root, &state).await?;
            tasks.spawn("root certificate file", async move {
                loop {
                    changes.changed().await?;
                    let root = changes.borrow_and_update().root_pem().clone();
                    write_root(&root, &state).await?;
                }
            });
        }
        Ok(Some(authority))
    }

    /// What signed until now, where the root of plugged-in material has not been told
    /// to the mesh and nobody has noted what signed: a self-signed root that was
    /// there before, or the issuer of other replicas, which learn of new material
    /// later than a process that starts with it.
    async fn issuer_before(
        &self,
        client: &kube::Client,
        authority: &Authority,
        previous: &PreviousStore,
        stop: &CancellationToken,
    ) -> Option<Previous> {
        let home = &*self.settings.system_namespace;
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), home);
        let map = maps.get_opt(&self.environment.root_config_map).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "which roots the mesh knows is not known");
            None
        });
        let told = map.and_then(|map| map.data?.remove("root-cert.pem"))?;
        if !authority.newest().introduces_root(told.as_bytes()) {
            return None;
        }
        let store = SecretStore::new(client.clone(), home, root_store::SECRET);
        if let Ok(Some(files)) = store.load().await
            && let Some(before) = authority.follows(&files, told.as_bytes(), Timestamp::now())
        {
            return Some(before);
        }
        let deadline = Instant::now() + authority.pace().spread;
        while Instant::now() < deadline && replicas::others(client, home, &self.environment.pod_name).await {
            tracing::info!("waits for another replica to note what signs: the new root has not been told yet");
            stop.run_until_cancelled(sleep(NOTED)).await?;
            match previous.load().await {
                Ok(found) => {
                    if let Some(before) = found.filter(Previous::signs) {
                        return Some(before);
                    }
                }
                Err(error) => tracing::warn!(%error, "whether a new root is being told is not known"),
            }
        }
        tracing::warn!(
            "the mesh has not been told of the new root, and nobody has the key of the old one: it signs now"
        );
        None
    }

    async fn self_signed(&self, tasks: &mut Tasks, trust: &TrustDomains, pace: Pace) -> anyhow::Result<Arc<Authority>> {
        let policy = RootPolicy {
            key: self.environment.root_rsa_bits.map_or(RootKey::P256, RootKey::Rsa),
            ttl: self.environment.root_ttl,
            grace_percent: self.environment.root_grace_percent,
        };
        let store: Arc<dyn RootStore> = match self.client {
            None => Arc::new(DirectoryStore::new(&self.flags.state_dir)),
            Some(client) => {
                let secret = |name| SecretStore::new(client.clone(), &self.settings.system_namespace, name);
                // One that is there already is continued.
                let usual = secret(root_store::SECRET);
                let secret = match self.environment.cacerts_for_self_signed && usual.load().await?.is_none() {
                    true => secret(root_store::CACERTS_SECRET),
                    false => usual,
                };
                if self.flags.read_only { Arc::new(ReadOnlyStore::of(secret)) } else { Arc::new(secret) }
            }
        };
        let bundle = root_store::obtain(&*store, &trust.own(), policy, Timestamp::now()).await?;
        let authority = Arc::new(Authority::new(bundle, pace));
        let (following, stop, interval) = (authority.clone(), tasks.stop.clone(), self.environment.root_check_interval);
        tasks.spawn_stoppable("root renewal", async move {
            following.follow_store(&*store, policy, interval, stop).await;
        });
        Ok(authority)
    }

    /// The certificate of the TLS port.
    pub(super) fn serving(
        &self,
        tasks: &mut Tasks,
        mesh: &MeshConfig,
        authority: Option<Arc<Authority>>,
    ) -> anyhow::Result<Arc<ServingCertificate>> {
        let names = ServingNames {
            namespace: &self.settings.system_namespace,
            revision: &self.settings.revision,
            discovery_host: mesh.default_config.discovery_address.rsplit_once(':').map_or("", |(host, _)| host),
            custom_hosts: &self.environment.custom_host,
            local: self.client.is_none(),
        };
        let Discovery { tls_cert_file, tls_key_file, ca_cert_file, .. } = self.flags;
        let files = match (tls_cert_file.as_str(), tls_key_file.as_str()) {
            ("", "") => None,
            ("", _) | (_, "") => bail!("--tlsCertFile and --tlsKeyFile belong together"),
            (cert, key) => Some(ServingSource::Files {
                cert: cert.into(),
                key: key.into(),
                roots: (!ca_cert_file.is_empty()).then(|| ca_cert_file.into()),
            }),
        };
        let source = ServingSource::choose(files, Path::new("/var/run/secrets/istiod"), names.list());
        // There are no others.
        let oldest = if self.flags.tls_min_version == "1.3" { SslVersion::TLS1_3 } else { SslVersion::TLS1_2 };
        let serving = ServingCertificate::new(source, authority, oldest, Timestamp::now());
        let serving = serving.context("serving certificate")?;
        let serving = Arc::new(serving);
        let (fresh, stop) = (serving.clone(), tasks.stop.clone());
        tasks.spawn_stoppable("serving certificate", async move { fresh.keep_fresh(stop).await });
        Ok(serving)
    }

    /// The signing service.
    pub(super) fn certificates(
        &self,
        authority: Arc<Authority>,
        authenticator: Arc<dyn Authenticate>,
        trust: Arc<TrustDomains>,
        published: &Published,
        metrics: CaMetrics,
        denials: Denials,
    ) -> anyhow::Result<CertificateService> {
        let nodes = NodeAuthorizer::new(node_proxies(self.environment)?, trust, published.pods.clone());
        let lifetimes = Lifetimes { default: self.environment.default_ttl, max: self.environment.max_ttl };
        Ok(CertificateService::new(authority, authenticator, Some(nodes), lifetimes, metrics, denials))
    }
}

/// Where material is that the operator brings: a mounted directory, or the Secret
/// that is usually mounted there.
struct PluggedIn {
    dir: PathBuf,
    secrets: Option<Api<Secret>>,
    secret: String,
    /// Whether a root of our own may be kept there: istiod takes what it has made
    /// itself for plugged in, unless it is told to keep its root there.
    own: bool,
}

type Found = Result<Option<CaFiles>, FilesError>;

impl PluggedIn {
    fn new(setup: &Setup<'_>) -> Self {
        let home = &setup.settings.system_namespace;
        Self {
            dir: PathBuf::from(&setup.environment.root_ca_dir),
            secrets: setup.client.map(|client| Api::namespaced(client.clone(), home)),
            secret: format!("Secret {home}/{}", root_store::CACERTS_SECRET),
            own: setup.environment.cacerts_for_self_signed,
        }
    }

    fn in_dir(&self) -> Found {
        match self.own && self.dir.join(ISTIO_GENERATED).exists() {
            true => Ok(None),
            false => CaFiles::from_dir(&self.dir),
        }
    }

    async fn in_secret(&self) -> Result<Found, kube::Error> {
        let Some(secrets) = &self.secrets else { return Ok(Ok(None)) };
        let secret = secrets.get_opt(root_store::CACERTS_SECRET).await?;
        let data = secret.and_then(|secret| secret.data).unwrap_or_default();
        if self.own && data.contains_key(ISTIO_GENERATED) {
            return Ok(Ok(None));
        }
        let files = data.into_iter().map(|(name, content)| (name, content.0.into())).collect();
        Ok(CaFiles::from_map(&self.secret, &files))
    }

    /// What there is, and where.
    async fn read(&self) -> anyhow::Result<Option<(String, CaFiles)>> {
        if let Some(files) = self.in_dir()? {
            return Ok(Some((self.dir.display().to_string(), files)));
        }
        Ok(self.in_secret().await??.map(|files| (self.secret.clone(), files)))
    }

    /// Takes over what comes later, until cancelled. While nothing `is_given`, there
    /// need not be anything.
    async fn follow(self, authority: &Authority, mut is_given: bool, stop: CancellationToken) {
        let mut watched = Watched::default();
        let mut asked = Instant::now();
        while stop.run_until_cancelled(sleep(DIR_POLL)).await.is_some() {
            let (place, found) = match self.in_dir() {
                Ok(None) if asked.elapsed() < SECRET_POLL => continue,
                Ok(None) => {
                    asked = Instant::now();
                    match self.in_secret().await {
                        Ok(found) => (self.secret.clone(), found),
                        Err(error) => {
                            tracing::warn!(%error, "cannot read the CA Secret");
                            continue;
                        }
                    }
                }
                found => (self.dir.display().to_string(), found),
            };
            is_given |= !matches!(found, Ok(None));
            if is_given {
                authority.look_at(&place, found, &mut watched, Timestamp::now());
            }
        }
    }
}

/// The accounts whose pods may act for others on their node.
pub(super) fn node_proxies(environment: &Environment) -> anyhow::Result<Vec<NodeAccount>> {
    let accounts = environment.trusted_node_accounts.iter().map(|account| account.parse());
    accounts.collect::<Result<_, _>>().context("CA_TRUSTED_NODE_ACCOUNTS")
}

/// The trust domain and its aliases.
fn names(mesh: &MeshConfig) -> anyhow::Result<(TrustDomain, Vec<TrustDomain>)> {
    let aliases = mesh.trust_domain_aliases.iter().map(|alias| alias.parse());
    Ok((mesh.trust_domain.parse()?, aliases.collect::<Result<_, _>>()?))
}

/// Shows, with what else cannot be read, that key material is not used.
async fn show_refusals(mut refusals: watch::Receiver<Option<Refusal>>, problems: Problems) -> anyhow::Result<()> {
    loop {
        match refusals.borrow_and_update().as_ref() {
            Some(refusal) => {
                let place = "CA key material".to_owned();
                problems
                    .open(CA_PROBLEM.into(), Problem { place, field: String::new(), reason: refusal.reason.clone() });
            }
            None => problems.close(CA_PROBLEM),
        }
        refusals.changed().await?;
    }
}

/// Takes over the trust domain whenever the mesh configuration changes it.
pub(super) async fn follow_trust_domains(
    trust: Arc<TrustDomains>,
    mut mesh: watch::Receiver<Arc<MeshConfig>>,
) -> anyhow::Result<()> {
    loop {
        match names(&mesh.borrow_and_update()) {
            Ok((own, aliases)) => trust.set(own, aliases),
            Err(error) => tracing::error!(%error, "trust domain is not taken over"),
        }
        mesh.changed().await?;
    }
}

/// Puts the roots where clients on this machine find them.
async fn write_root(pem: &str, state: &Path) -> anyhow::Result<()> {
    let (path, staging) = (state.join("root-cert.pem"), state.join(".root-cert.pem"));
    tokio::fs::write(&staging, pem.as_bytes()).await.with_context(|| format!("{}", staging.display()))?;
    tokio::fs::rename(&staging, &path).await.with_context(|| format!("{}", path.display()))?;
    Ok(())
}
