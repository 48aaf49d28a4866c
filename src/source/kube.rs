//! The Kubernetes API as a source: one [`Reflector`] for
//! each watched kind.
//!
//! `kube` is only the HTTP client here. Objects are decoded by the slim models
//! of [`crate::api`], from protobuf where the API server has it, and nothing is
//! kept of them but key and version.
//!
//! Nothing is ever withdrawn on doubt. An object goes when a watch says so,
//! when a complete list at a version no older than the newest seen lacks it,
//! or when discovery says, and goes on saying, that its kind is not served.
//! Everything else (no answer, no permission, an answer that cannot be read,
//! a past that comes back) is a [`Problem`](super::Problem), and retried.

pub mod backoff;
pub mod by_name;
pub mod failure;
pub mod frames;
pub mod known;
pub mod reflector;
pub mod requests;
#[cfg(test)]
pub mod scripted;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kube::config::{Config, KubeConfigOptions, Kubeconfig, KubeconfigError};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::api::Kind;

use super::{Problems, Sender};
use reflector::Reflector;
use requests::Selection;

/// How the API is read.
#[derive(Clone, Debug)]
pub struct Options {
    /// The namespace of the control plane.
    pub system_namespace: Arc<str>,
}

/// What the reflectors of one API server share.
#[derive(Clone)]
pub struct Server {
    client: kube::Client,
    /// Changes when a definition of one of our kinds does.
    definitions: watch::Sender<()>,
}

impl Server {
    /// A server nothing is known of.
    pub fn new(client: kube::Client) -> Self {
        Self { client, definitions: watch::Sender::new(()) }
    }

    /// Changes when a definition of a kind that is watched does.
    pub fn definitions(&self) -> watch::Receiver<()> {
        self.definitions.subscribe()
    }
}

/// Why there is no client for an API server. The texts of causes have their own
/// causes in them.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The kubeconfig cannot be used.
    #[error("cannot use kubeconfig: {0}")]
    Kubeconfig(String),
    /// There is no kubeconfig, and this is not a pod.
    #[error("cannot use the pod's service account: {0}")]
    InCluster(String),
    /// The client cannot be built from its configuration.
    #[error("cannot build a client: {0}")]
    Build(String),
}

/// A client for the API server of a kubeconfig, or of the cluster this pod
/// runs in. Token files are read again every minute.
pub async fn client(kubeconfig: Option<&Path>) -> Result<kube::Client, ClientError> {
    let mut config = match kubeconfig {
        Some(path) => {
            let unusable = |error: KubeconfigError| ClientError::Kubeconfig(error.to_string());
            let kubeconfig = Kubeconfig::read_from(path).map_err(unusable)?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(unusable)?
        }
        None => Config::incluster().map_err(|error| ClientError::InCluster(error.to_string()))?,
    };
    config.connect_timeout = Some(Duration::from_secs(10));
    // A failure must be seen at once, to be reported. Whoever asks retries.
    config.default_retry = false;
    kube::Client::try_from(config).map_err(|error| ClientError::Build(error.to_string()))
}

/// Watches every kind until the receiver is gone.
pub async fn run(server: Server, options: Options, sender: Sender, problems: Problems) {
    let mut reflectors = JoinSet::new();
    // Others are read when something refers to them: see `by_name`.
    for &kind in Kind::ALL.iter().filter(|kind| !kind.info().by_name) {
        let selection = Selection::of(kind, &options.system_namespace);
        let reflector = Reflector::new(server.clone(), selection, sender.clone(), problems.clone());
        reflectors.spawn(reflector.run());
    }
    // A reflector survives its own panics, and ends only with the receiver.
    while let Some(ended) = reflectors.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a watch has ended");
        }
    }
}
