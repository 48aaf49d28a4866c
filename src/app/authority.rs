//! Identity: who callers are, and what signs certificates.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use tokio::sync::watch;

use super::Tasks;
use crate::admin::SharedRegistry;
use crate::ca::authenticate::{
    Authenticate, AuthenticatorChain, DevIssuer, JwtAuthenticator, JwtRule, KubeReviewer, KubernetesTokens,
    TokenAuthenticator,
};
use crate::ca::authority::{Authority, Refusal, Watched};
use crate::ca::bundle::CaBundle;
use crate::ca::denials::Denials;
use crate::ca::files::{CaFiles, ISTIO_GENERATED};
use crate::ca::handover::Pace;
use crate::ca::identity::{TrustDomain, TrustDomains};
use crate::ca::issue::Lifetimes;
use crate::ca::metrics::{CaMetrics, register_expiry};
use crate::ca::node::{NodeAccount, NodeAuthorizer};
use crate::ca::previous::PreviousStore;
use crate::ca::root_store::{self, DirectoryStore, ReadOnlyStore, RootStore, SecretStore};
use crate::ca::self_signed::{RootKey, RootPolicy};
use crate::ca::service::CertificateService;
use crate::ca::serving::{ServingCertificate, ServingNames, ServingSource};
use crate::config::{Discovery, Environment};
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

/// How often a plugged-in Secret that is not mounted is read.
const SECRET_POLL: Duration = Duration::from_secs(30);

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
        let plugged = self.plugged_in(tasks, pace).await?;
        let authority = match plugged {
            Some(authority) => authority,
            None => self.self_signed(tasks, trust, pace).await?,
        };
        let previous = match self.client {
            Some(client) => {
                PreviousStore::Secret(Box::new(Api::namespaced(client.clone(), &self.settings.system_namespace)))
            }
            None => PreviousStore::Directory(self.flags.state_dir.clone()),
        };
        match previous.load().await {
            Ok(Some(found)) => {
                authority.resume(found, Timestamp::now()).unwrap_or_else(|error| authority.refuse(&error))
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "whether a new root is being told is not known"),
        }
        if !self.flags.read_only {
            let (keeping, stop) = (authority.clone(), tasks.stop.clone());
            tasks.spawn_stoppable("issuer before", async move { keeping.keep_previous(&previous, stop).await });
        }
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

    /// Material that the operator brings: a mounted directory, or the Secret
    /// that is usually mounted there.
    async fn plugged_in(&self, tasks: &mut Tasks, pace: Pace) -> anyhow::Result<Option<Arc<Authority>>> {
        let dir = PathBuf::from(&self.environment.root_ca_dir);
        // istiod takes what it has made itself for plugged in, unless it is told to
        // keep its root there.
        let own = self.environment.cacerts_for_self_signed;
        if own && dir.join(ISTIO_GENERATED).exists() {
            return Ok(None);
        }
        if let Some(files) = CaFiles::from_dir(&dir)? {
            let bundle = CaBundle::verified(&files, Timestamp::now()).with_context(|| format!("{}", dir.display()))?;
            let authority = Arc::new(Authority::new(bundle, pace));
            let (following, stop) = (authority.clone(), tasks.stop.clone());
            tasks.spawn_stoppable("CA directory", async move { following.follow_dir(&dir, stop).await });
            return Ok(Some(authority));
        }
        let Some(client) = self.client else { return Ok(None) };
        let secrets: Api<Secret> = Api::namespaced(client.clone(), &self.settings.system_namespace);
        let secret_place = format!("Secret {}/{}", self.settings.system_namespace, root_store::CACERTS_SECRET);
        let place = secret_place.clone();
        let read = move || {
            let (secrets, place) = (secrets.clone(), place.clone());
            async move {
                let Some(secret) = secrets.get_opt(root_store::CACERTS_SECRET).await? else { return Ok(Ok(None)) };
                let data = secret.data.unwrap_or_default();
                if own && data.contains_key(ISTIO_GENERATED) {
                    return Ok(Ok(None));
                }
                let files = data.into_iter().map(|(name, content)| (name, content.0.into())).collect();
                Ok::<_, kube::Error>(CaFiles::from_map(&place, &files))
            }
        };
        let Some(files) = read().await?? else { return Ok(None) };
        let authority = Arc::new(Authority::new(CaBundle::verified(&files, Timestamp::now())?, pace));
        let (following, stop) = (authority.clone(), tasks.stop.clone());
        tasks.spawn_stoppable("CA Secret", async move {
            let mut watched = Watched::default();
            while stop.run_until_cancelled(tokio::time::sleep(SECRET_POLL)).await.is_some() {
                match read().await {
                    Ok(files) => following.look_at(&secret_place, files, &mut watched, Timestamp::now()),
                    Err(error) => tracing::warn!(%error, "cannot read the CA Secret"),
                }
            }
        });
        Ok(Some(authority))
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
        let serving = ServingCertificate::new(source, authority, Timestamp::now()).context("serving certificate")?;
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
