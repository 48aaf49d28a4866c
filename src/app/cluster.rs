//! The cluster: what is read from it and what is written to it.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use tokio::sync::watch;

use super::Tasks;
use crate::ca::authority::Authority;
use crate::config::{Discovery, Environment};
use crate::controller::root_config_map::RootConfigMap;
use crate::model::Settings;
use crate::source::kube::{self as source, Options};
use crate::source::{Problems, Sender};
use crate::writer::Published;

/// Starts watching the cluster, and returns the client for everything else, and
/// what changes when a kind is defined.
pub(super) async fn watch(
    tasks: &mut Tasks,
    flags: &Discovery,
    environment: &Environment,
    settings: &Settings,
    sender: Sender,
    problems: Problems,
) -> anyhow::Result<(kube::Client, watch::Receiver<()>)> {
    // istiod's chart names a file that is only there for a remote cluster, so
    // one that is not there, or empty, means the cluster around us.
    let there = |path: &PathBuf| std::fs::metadata(path).is_ok_and(|file| file.len() > 0);
    let given = Some(PathBuf::from(&environment.kubeconfig)).filter(there);
    let path = flags.kubeconfig.clone().or(given);
    let client =
        source::client(path.as_deref()).await.context("cannot reach a cluster; --configDir serves a folder")?;
    let options = Options { system_namespace: settings.system_namespace.clone() };
    let server = source::Server::new(client.clone());
    let definitions = server.definitions();
    tasks.spawn("Kubernetes source", async move {
        source::run(server, options, sender, problems).await;
        Ok(())
    });
    Ok((client, definitions))
}

/// Starts what writes to the cluster.
pub(super) fn write(
    tasks: &mut Tasks,
    client: kube::Client,
    environment: &Environment,
    settings: &Settings,
    signer: &Arc<Authority>,
    published: &Published,
) {
    let mut bundles = signer.subscribe();
    let (roots, root) = watch::channel(bundles.borrow_and_update().root_pem().clone());
    tasks.spawn("root bundle", async move {
        loop {
            bundles.changed().await?;
            roots.send_replace(bundles.borrow_and_update().root_pem().clone());
        }
    });
    let controller = RootConfigMap {
        client,
        system_namespace: settings.system_namespace.clone(),
        name: environment.root_config_map.as_str().into(),
        identity: environment.pod_name.as_str().into(),
        namespaces: published.namespaces.clone(),
        root,
    };
    let stop = tasks.stop.clone();
    // It gives up its lease when it stops, so that another replica need not wait.
    tasks.serve("root ConfigMaps", async move {
        controller.run(stop).await;
        Ok(())
    });
}
