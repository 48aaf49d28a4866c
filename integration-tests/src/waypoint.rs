//! A waypoint without a cluster: a stock Envoy under `fairway agent`, on a
//! loopback address of its own.

use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::path::Path;
use std::process::Command;

use crate::child::{Child, free_address};
use crate::envoy::{self, Envoy};
use crate::fairway::{self, Fairway};
use crate::{eventually, identity, runner};

/// The port of HBONE.
pub const PORT: u16 = 15008;

/// A running waypoint. It ends when it is dropped, and Envoy with it.
pub struct Waypoint {
    /// Where it takes HBONE.
    pub address: SocketAddr,
    /// The agent's pages.
    status: SocketAddr,
    envoy: Envoy,
}

impl Deref for Waypoint {
    type Target = Envoy;

    fn deref(&self) -> &Envoy {
        &self.envoy
    }
}

impl Waypoint {
    /// Starts the waypoint of a Gateway at an address, under a control plane
    /// that has its files in `state`, and waits until it is ready. It has the
    /// identity that waypoints have in a cluster: the Gateway's name is that
    /// of the service account.
    pub async fn start(fairway: &Fairway, state: &Path, namespace: &str, gateway: &str, ip: IpAddr) -> Self {
        let folder = runner::folder().join(format!("{gateway}.{namespace}-{ip}"));
        std::fs::create_dir_all(&folder).unwrap();
        let token = folder.join("token");
        std::fs::write(&token, identity::token(state, namespace, gateway)).unwrap();
        let [admin, status, probes, metrics] = std::array::from_fn(|_| free_address());
        let mut command = Command::new(fairway::binary());
        command.args(["agent", "proxy", "waypoint", "--concurrency", "2"]);
        // Anything with a name would be asked of DNS.
        command.args(["--discoveryAddress", &format!("127.0.0.1:{}", fairway.secure_grpc.port())]);
        command.arg("--rootCertFile").arg(state.join("root-cert.pem")).arg("--tokenFile").arg(&token);
        command.arg("--binaryPath").arg(envoy::binary()).arg("--configPath").arg(&folder);
        command.args(["--listenAddress", "127.0.0.1", "--adminPort", &admin.port().to_string()]);
        command.args(["--statusPort", &status.port().to_string()]);
        command.args(["--envoyStatusPort", &probes.port().to_string()]);
        command.args(["--envoyPrometheusPort", &metrics.port().to_string()]);
        let labels = serde_json::json!({ "gateway.networking.k8s.io/gateway-name": gateway });
        command.env("ISTIO_METAJSON_LABELS", labels.to_string());
        command.env("ISTIO_META_NODE_NAME", "waypoint-node");
        command.env("POD_NAME", format!("{gateway}-1")).env("POD_NAMESPACE", namespace);
        command.env("SERVICE_ACCOUNT", gateway).env("INSTANCE_IP", ip.to_string());
        command.env("PROXY_CONFIG", "{terminationDrainDuration: 100ms}").env_remove("RUST_LOG");
        let log = folder.join("log");
        runner::show_on_failure("waypoint", log.clone());
        let envoy = Envoy::of(Child::start("waypoint", &mut command, &log), admin);
        let waypoint = Self { address: SocketAddr::new(ip, PORT), status, envoy };
        waypoint.until_ready().await;
        waypoint
    }

    /// A page of the agent, such as `/stats/prometheus`.
    pub async fn agent_page(&self, path: &str) -> String {
        match envoy::get(self.status, path).await {
            Ok((200, body)) => body,
            other => panic!("GET {path}: {other:?}"),
        }
    }

    /// Waits until everything its control plane says of a change has been
    /// applied: that `marker` is in a listener, and that nothing of the same
    /// state or an older one is still to be acknowledged. `marker` must not
    /// have been there before.
    pub async fn until_applied(&self, fairway: &Fairway, proxy: &str, marker: &str) {
        eventually(&format!("{marker:?} at the waypoint"), || async {
            fairway.assert_running();
            let listeners = self.config_dump(Some("dynamic_listeners")).await;
            let active = listeners["configs"].as_array().into_iter().flatten().map(|one| &one["active_state"]);
            match active.into_iter().any(|state| state.to_string().contains(marker)) {
                true => Ok(()),
                false => Err("no listener has it"),
            }
        })
        .await;
        eventually("acknowledgements of the waypoint", || async {
            let page: serde_json::Value = serde_json::from_str(&fairway.page("/debug/syncz").await).unwrap();
            let mut proxies = page.as_array().unwrap().iter();
            let types = proxies.find(|one| one["proxy"] == proxy).ok_or("not connected")?["types"].clone();
            let types = types.as_object().unwrap();
            let listeners = &types.get("LDS").ok_or_else(|| format!("no LDS in {types:?}"))?["progress"]["revision"];
            let behind = types
                .values()
                .any(|one| one["status"] != "SYNCED" || one["progress"]["revision"].as_u64() < listeners.as_u64());
            if behind { Err(format!("{types:?}")) } else { Ok(()) }
        })
        .await;
    }

    /// Panics if it has ever rejected anything, by its own account.
    pub async fn assert_nothing_rejected(&self) {
        let stats = self.json("/stats?format=json&filter=update_rejected").await;
        let rejected = stats["stats"].as_array().unwrap().iter().filter(|stat| stat["value"].as_u64() > Some(0));
        let rejected: Vec<_> = rejected.map(ToString::to_string).collect();
        assert!(rejected.is_empty(), "the waypoint rejected: {rejected:?}\n{}", self.log());
    }
}
