//! The least that stands in for scheduler and kubelets: gives pods a node, an
//! address and a status, and lets them go when they are deleted. Nothing runs in
//! them; where something has to, there is the [stage](crate::stage).

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::api::{Api, Refused};

/// An address no pod had before, of 10.244.0.0/16 and on.
pub fn pod_ip() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let base = u32::from(Ipv4Addr::new(10, 244, 0, 0));
    Ipv4Addr::from(base + NEXT.fetch_add(1, Ordering::Relaxed)).to_string()
}

/// The status of a pod that runs.
pub fn running(ip: &str, ready: bool) -> Value {
    json!({
        "phase": "Running",
        "podIP": ip,
        "podIPs": [{ "ip": ip }],
        "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }],
    })
}

/// Runs the pods of a namespace while it is alive.
pub struct Kubelet(tokio::task::JoinHandle<()>);

impl Kubelet {
    /// Starts it for a namespace, with one node.
    pub fn start(api: Api, namespace: &str, node: &str) -> Self {
        let (namespace, node) = (namespace.to_string(), node.to_string());
        Self(tokio::spawn(async move {
            loop {
                let pods = api.list("v1", "Pod", &namespace).await;
                for mut pod in pods {
                    // Lists leave out what they are lists of.
                    (pod["apiVersion"], pod["kind"]) = (json!("v1"), json!("Pod"));
                    // A pod that changes meanwhile is looked at again.
                    let _ = step(&api, &pod, &node).await;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }))
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn step(api: &Api, pod: &Value, node: &str) -> Result<(), Refused> {
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        api.delete(pod).await;
        return Ok(());
    }
    if pod["spec"]["nodeName"].is_null() {
        api.bind(pod, node).await?;
    }
    if pod["status"]["podIP"].is_null() {
        api.patch_status(pod, running(&pod_ip(), true)).await?;
    }
    Ok(())
}
