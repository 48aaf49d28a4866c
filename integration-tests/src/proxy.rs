//! A proxy of the mesh without a cluster: a stock Envoy under `fairway agent`,
//! on a loopback address of its own.

use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::child::{Child, free_address};
use crate::envoy::{self, Envoy};
use crate::fairway::{self, Fairway};
use crate::{eventually, identity, runner};

/// Who a proxy is.
pub struct Role<'a> {
    /// `waypoint` or `router`.
    pub kind: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its service account, which its pod is named after.
    pub account: &'a str,
    /// The labels of its pod.
    pub labels: Value,
}

/// What a proxy is told, as far as tests wait for it.
#[derive(Clone, Copy)]
pub enum Told {
    /// Its listeners.
    Listeners,
    /// Its routes.
    Routes,
}

impl Told {
    /// Where Envoy and the control plane show it.
    const fn places(self) -> (&'static str, &'static str) {
        match self {
            Self::Listeners => ("dynamic_listeners", "LDS"),
            Self::Routes => ("dynamic_route_configs", "RDS"),
        }
    }
}

/// A running proxy. It ends when it is dropped, and Envoy with it.
pub struct Proxy {
    /// The agent's pages.
    status: SocketAddr,
    envoy: Envoy,
}

impl Deref for Proxy {
    type Target = Envoy;

    fn deref(&self) -> &Envoy {
        &self.envoy
    }
}

impl Proxy {
    /// Starts a proxy at an address, under a control plane that has its files in
    /// `state`, and waits until it is ready.
    pub async fn start(fairway: &Fairway, state: &Path, role: Role<'_>, ip: IpAddr) -> Self {
        let Role { kind, namespace, account, labels } = role;
        let folder = runner::folder().join(format!("{account}.{namespace}-{ip}"));
        std::fs::create_dir_all(&folder).unwrap();
        let token = folder.join("token");
        std::fs::write(&token, identity::token(state, namespace, account)).unwrap();
        let [admin, status, probes, metrics] = std::array::from_fn(|_| free_address());
        let mut command = Command::new(fairway::binary());
        command.args(["agent", "proxy", kind, "--concurrency", "2"]);
        // Anything with a name would be asked of DNS.
        command.args(["--discoveryAddress", &format!("127.0.0.1:{}", fairway.secure_grpc.port())]);
        command.arg("--rootCertFile").arg(state.join("root-cert.pem")).arg("--tokenFile").arg(&token);
        command.arg("--binaryPath").arg(envoy::binary()).arg("--configPath").arg(&folder);
        command.args(["--listenAddress", "127.0.0.1", "--adminPort", &admin.port().to_string()]);
        command.args(["--statusPort", &status.port().to_string()]);
        command.args(["--envoyStatusPort", &probes.port().to_string()]);
        command.args(["--envoyPrometheusPort", &metrics.port().to_string()]);
        command.env("ISTIO_METAJSON_LABELS", labels.to_string());
        command.env("ISTIO_META_NODE_NAME", format!("{kind}-node"));
        command.env("POD_NAME", format!("{account}-1")).env("POD_NAMESPACE", namespace);
        command.env("SERVICE_ACCOUNT", account).env("INSTANCE_IP", ip.to_string());
        command.env("PROXY_CONFIG", "{terminationDrainDuration: 100ms}").env_remove("RUST_LOG");
        let log = folder.join("log");
        runner::show_on_failure("proxy", log.clone());
        let envoy = Envoy::of(Child::start("proxy", &mut command, &log), admin);
        let proxy = Self { status, envoy };
        proxy.until_ready().await;
        proxy
    }

    /// A page of the agent, such as `/stats/prometheus`.
    pub async fn agent_page(&self, path: &str) -> String {
        match envoy::get(self.status, path).await {
            Ok((200, body)) => body,
            other => panic!("GET {path}: {other:?}"),
        }
    }

    /// Waits until everything its control plane says of a change has been
    /// applied: that `marker` is in what it is told of a type, and that nothing of
    /// the same state or an older one is still to be acknowledged. `marker` must
    /// not have been there before.
    pub async fn until_applied(&self, fairway: &Fairway, proxy: &str, told: Told, marker: &str) {
        let (dump, label) = told.places();
        eventually(&format!("{marker:?} at {proxy}"), || async {
            fairway.assert_running();
            let configs = self.config_dump(Some(dump)).await;
            let active = configs["configs"].as_array().into_iter().flatten().map(|one| match told {
                Told::Listeners => &one["active_state"],
                Told::Routes => one,
            });
            match active.into_iter().any(|state| state.to_string().contains(marker)) {
                true => Ok(()),
                false => Err(format!("nothing in {dump} has it")),
            }
        })
        .await;
        eventually(&format!("acknowledgements of {proxy}"), || async {
            let page: serde_json::Value = serde_json::from_str(&fairway.page("/debug/syncz").await).unwrap();
            let mut proxies = page.as_array().unwrap().iter();
            let types = proxies.find(|one| one["proxy"] == proxy).ok_or("not connected")?["types"].clone();
            let types = types.as_object().unwrap();
            let least = &types.get(label).ok_or_else(|| format!("no {label} in {types:?}"))?["progress"]["revision"];
            // Revisions of secrets are another count.
            let old = |ty: &str, one: &Value| ty != "SDS" && one["progress"]["revision"].as_u64() < least.as_u64();
            let behind = types.iter().any(|(ty, one)| one["status"] != "SYNCED" || old(ty, one));
            if behind { Err(format!("{types:?}")) } else { Ok(()) }
        })
        .await;
    }

    /// Panics if it has ever rejected anything, by its own account.
    pub async fn assert_nothing_rejected(&self) {
        let stats = self.json("/stats?format=json&filter=update_rejected").await;
        let rejected = stats["stats"].as_array().unwrap().iter().filter(|stat| stat["value"].as_u64() > Some(0));
        let rejected: Vec<_> = rejected.map(ToString::to_string).collect();
        assert!(rejected.is_empty(), "the proxy rejected: {rejected:?}\n{}", self.log());
    }
}
