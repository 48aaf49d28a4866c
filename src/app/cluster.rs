//! The cluster: what is read from it and what is written to it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use tokio::sync::watch;

use super::Tasks;
use crate::ca::access::{self, Access};
use crate::ca::authority::Authority;
use crate::config::{Discovery, Environment};
use crate::controller::root_config_map::RootConfigMap;
use crate::credential::{Place, Want};
use crate::model::Settings;
use crate::source::kube::{self as source, Options};
use crate::source::{Problems, Sender};
use crate::writer::Published;
use crate::xds::demand::Wanted;

/// Starts watching the cluster, and returns the client for everything else, and
/// what changes when a kind is defined.
pub(super) async fn watch(
    tasks: &mut Tasks,
    flags: &Discovery,
    environment: &Environment,
    settings: &Settings,
    wanted: watch::Receiver<Arc<BTreeSet<Place>>>,
    (sender, problems): (Sender, Problems),
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
    let by_name = source::by_name::run(server.clone(), options.clone(), wanted, sender.clone(), problems.clone());
    tasks.spawn("Kubernetes objects by name", async move {
        by_name.await;
        Ok(())
    });
    tasks.spawn("Kubernetes source", async move {
        source::run(server, options, sender, problems).await;
        Ok(())
    });
    Ok((client, definitions))
}

/// Starts asking what the accounts of proxies may do.
pub(super) fn ask_for_access(
    tasks: &mut Tasks,
    client: kube::Client,
    wanted: watch::Receiver<Wanted<Want>>,
    answers: watch::Sender<Access>,
) {
    tasks.spawn_stoppable("access reviews", access::keep(access::reviewer(client), wanted, answers));
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
        revisions: published.revisions.clone(),
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
