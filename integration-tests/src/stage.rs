//! A cluster in which pods run: a stand-in for nodes, kubelets, the CNI plugin
//! and ztunnel, beside a real API server, its controllers and kube-proxy.
//!
//! Objects are applied with kubectl, real controllers make pods of them, and
//! the stage gives each pod a node, an address, a network of its own, its
//! volumes and its processes, and tells the truth about them. Of images it knows
//! a few. All of it is in namespaces that the tests [enter]; nothing
//! of it can leave the machine, and nothing outlives them.
//!
//! What is real and what is not is in the README of `integration-tests`.

pub mod enter;
mod image;
mod network;
mod dns;
mod balancer;
mod fields;
mod volumes;
mod sandbox;
mod probe;
mod pod;
mod ztunnel;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::api::Api;
use crate::cluster::{Channel, Cluster};
use crate::watch::{Object, Watch};
use crate::{PATIENCE, eventually, eventually_within, runner};
use sandbox::Container;
use volumes::Sources;

pub use image::names as image_names;
pub use ztunnel::{Access, NodeProxy};

/// Nodes of the stage, in two zones.
const NODES: [&str; 2] = ["node-a", "node-b"];

/// Where a kubelet listens.
const KUBELET: u16 = 10250;

/// A node.
#[derive(Clone)]
struct Node {
    name: String,
    ip: Ipv4Addr,
}

/// What all pods share.
struct World {
    api: Api,
    folder: PathBuf,
    nodes: Vec<Node>,
    pods: Watch,
    namespaces: Watch,
    services: Watch,
    sources: Sources,
    /// By namespace and name of the pod, then by name of the container.
    running: Mutex<HashMap<String, BTreeMap<String, Arc<Container>>>>,
    /// By node.
    ztunnels: Mutex<HashMap<String, Arc<NodeProxy>>>,
    log: Mutex<std::fs::File>,
}

impl World {
    /// The ztunnel of a node, once it would take traffic.
    fn ztunnel(&self, node: &str) -> Option<Arc<NodeProxy>> {
        self.ztunnels.lock().unwrap().get(node).filter(|ztunnel| ztunnel.is_ready()).cloned()
    }

    /// Writes down what happens.
    fn note(&self, what: &str) {
        let time = jiff::Timestamp::now().strftime("%H:%M:%S%.3f");
        // Nobody is worse off without.
        let _ = writeln!(self.log.lock().unwrap(), "{time} {what}");
    }
}

/// What a command printed, and how it ended.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its exit code.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

/// A cluster in which pods run. Everything ends when it is dropped.
pub struct Stage {
    /// Its API.
    pub cluster: Cluster,
    world: Arc<World>,
    tasks: Mutex<tokio::task::JoinSet<()>>,
}

impl Stage {
    /// Starts one.
    pub async fn start() -> Self {
        Self::start_with(Channel::Standard).await
    }

    /// The same with a choice of the Gateway API's CRDs.
    pub async fn start_with(channel: Channel) -> Self {
        enter::assert_entered();
        image::assert_complete();
        network::make(NODES.len()).await;
        let cluster = Cluster::start_for_pods(network::CONTROL_PLANE, channel).await;
        let nodes: Vec<_> = NODES.iter().enumerate().collect();
        let nodes = nodes.into_iter().map(|(at, name)| Node { name: name.to_string(), ip: network::node_ip(at) });
        let nodes: Vec<_> = nodes.collect();
        for node in &nodes {
            make_node(&cluster.api, node).await;
        }
        cluster.start_kube_proxy(NODES[0], network::PODS);
        let folder = runner::folder().join("stage");
        std::fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for node in &nodes {
            cluster.start_kubelet_streaming((node.ip, KUBELET).into(), &folder);
        }
        let log = std::fs::File::create(folder.join("log")).unwrap();
        let watch = |version, kind| Watch::start(&cluster.api, version, kind);
        let world = Arc::new(World {
            api: cluster.api.clone(),
            nodes,
            pods: watch("v1", "Pod"),
            namespaces: watch("v1", "Namespace"),
            services: watch("v1", "Service"),
            sources: Sources {
                api: cluster.api.clone(),
                config_maps: watch("v1", "ConfigMap"),
                secrets: watch("v1", "Secret"),
            },
            running: Mutex::default(),
            ztunnels: Mutex::default(),
            log: Mutex::new(log),
            folder,
        });
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(dns::serve(world.services.clone(), watch("discovery.k8s.io/v1", "EndpointSlice")));
        tasks.spawn(run_pods(world.clone()));
        tasks.spawn(balancer::serve(cluster.api.clone(), world.services.clone()));
        Self { cluster, world, tasks: Mutex::new(tasks) }
    }

    /// Ends it.
    pub async fn stop(&self) {
        self.cluster.stop().await;
    }

    /// The folder with what the pods have and print.
    pub fn folder(&self) -> &Path {
        &self.world.folder
    }

    /// What happened on the stage, line by line.
    pub fn log_path(&self) -> PathBuf {
        self.world.folder.join("log")
    }

    /// `kubectl apply` of some YAML.
    pub async fn apply(&self, yaml: &str) -> String {
        self.kubectl_with(&["apply", "-f", "-"], yaml).await
    }

    /// `kubectl delete` of some YAML.
    pub async fn delete(&self, yaml: &str) -> String {
        self.kubectl_with(&["delete", "--wait=false", "--ignore-not-found", "-f", "-"], yaml).await
    }

    /// Any other command of kubectl, in words.
    pub async fn kubectl(&self, command: &str) -> String {
        self.kubectl_with(&command.split_whitespace().collect::<Vec<_>>(), "").await
    }

    async fn kubectl_with(&self, arguments: &[&str], input: &str) -> String {
        self.world.note(&format!("kubectl {}", arguments.join(" ")));
        self.cluster.kubectl_with(arguments, input).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Waits until a condition is met, and returns what it returns.
    pub async fn wait_for<T>(&self, what: &str, look: impl Fn(&Self) -> Result<T, String>) -> T {
        self.wait_for_within(PATIENCE, what, look).await
    }

    /// The same with a limit of its own.
    pub async fn wait_for_within<T>(
        &self,
        limit: Duration,
        what: &str,
        look: impl Fn(&Self) -> Result<T, String>,
    ) -> T {
        eventually_within(limit, what, || {
            self.assert_running();
            std::future::ready(look(self))
        })
        .await
    }

    /// Pods of a namespace that have a label, `key=value`.
    pub fn pods(&self, namespace: &str, label: &str) -> Vec<Object> {
        let (key, value) = label.split_once('=').unwrap_or((label, ""));
        let mut pods = self.world.pods.all();
        pods.retain(|pod| pod["metadata"]["namespace"] == namespace && pod["metadata"]["labels"][key] == value);
        pods
    }

    /// Waits until there is exactly one such pod, that is ready, and returns its
    /// name.
    pub async fn ready_pod(&self, namespace: &str, label: &str) -> String {
        self.wait_for(&format!("one ready pod with {label}"), |stage| match stage.pods(namespace, label).as_slice() {
            [pod] if is_ready(pod) => Ok(pod["metadata"]["name"].as_str().unwrap_or_default().to_owned()),
            other => Err(other.iter().map(|pod| pod["status"].to_string()).collect::<Vec<_>>().join("\n")),
        })
        .await
    }

    /// Runs a command in the only container of a pod, or its first.
    pub async fn exec(&self, namespace: &str, pod: &str, command: &[&str]) -> Output {
        let key = format!("{namespace}/{pod}");
        let exec = {
            let running = self.world.running.lock().unwrap();
            running.get(&key).and_then(|containers| containers.values().next()?.exec(command))
        };
        let mut exec = exec.unwrap_or_else(|| panic!("nothing runs in {key}"));
        let output = tokio::time::timeout(PATIENCE, exec.stdin(std::process::Stdio::null()).output()).await;
        let output = output.unwrap_or_else(|_| panic!("{key}: {command:?}: not within {PATIENCE:?}"));
        let output = output.unwrap_or_else(|error| panic!("{key}: {command:?}: {error}"));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Output { code: output.status.code().unwrap_or(-1), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    /// The file with what the first container of a pod prints.
    pub fn pod_log(&self, namespace: &str, pod: &str) -> Option<PathBuf> {
        let running = self.world.running.lock().unwrap();
        Some(running.get(&format!("{namespace}/{pod}"))?.values().next()?.log_path().into())
    }

    /// The ztunnel of a node.
    pub fn ztunnel(&self, node: &str) -> Option<Arc<NodeProxy>> {
        self.world.ztunnel(node)
    }

    /// The ztunnels of all nodes.
    pub async fn ztunnels(&self) -> Vec<Arc<NodeProxy>> {
        let ztunnel = |node: &Node| self.ztunnel(&node.name).ok_or_else(|| format!("none on {}", node.name));
        self.wait_for("ztunnels", |stage| stage.world.nodes.iter().map(ztunnel).collect()).await
    }

    /// An address of a Service of the cluster, which can be reached from here.
    pub async fn service_ip(&self, namespace: &str, name: &str) -> Ipv4Addr {
        self.wait_for(&format!("the Service {namespace}/{name}"), |stage| {
            let service = stage.world.services.get(namespace, name).ok_or("is not there")?;
            service["spec"]["clusterIP"].as_str().and_then(|ip| ip.parse().ok()).ok_or_else(|| service.to_string())
        })
        .await
    }

    /// An address of a Service of type LoadBalancer.
    pub async fn load_balancer_ip(&self, namespace: &str, name: &str) -> Ipv4Addr {
        self.wait_for(&format!("an address for {namespace}/{name}"), |stage| {
            let service = stage.world.services.get(namespace, name).ok_or("is not there")?;
            balancer::address(&service).ok_or_else(|| service["status"].to_string())
        })
        .await
    }

    /// Panics if a part of the stage itself has ended.
    fn assert_running(&self) {
        self.cluster.assert_running();
        if let Some(ended) = self.tasks.lock().unwrap().try_join_next() {
            panic!("a task of the stage ended: {ended:?}");
        }
    }
}

/// Whether a pod is ready.
pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

async fn make_node(api: &Api, node: &Node) {
    let object = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": node.name, "labels": {
            "kubernetes.io/hostname": node.name,
            "topology.kubernetes.io/region": "north",
            "topology.kubernetes.io/zone": format!("north-{}", node.name.trim_start_matches("node-")),
        } },
    });
    let object = api.apply(object).await;
    // A new node is tainted until a controller of nodes has seen it.
    let object = api.patch(&object, json!({ "spec": { "taints": null } })).await;
    let status = json!({
        // A name would be asked of DNS.
        "addresses": [{ "type": "InternalIP", "address": node.ip }],
        "daemonEndpoints": { "kubeletEndpoint": { "Port": KUBELET } },
        "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "it is on the stage" }],
        "nodeInfo": { "operatingSystem": "linux", "architecture": "amd64" },
    });
    let patched = eventually("a node", || api.patch_status(&object, status.clone())).await;
    assert_eq!(patched["status"]["addresses"][0]["address"], node.ip.to_string());
}

/// Gives pods nodes, and runs those of our nodes.
async fn run_pods(world: Arc<World>) {
    let mut pods = world.pods.clone();
    let mut lives = tokio::task::JoinSet::new();
    let mut known = HashSet::new();
    let mut turn = 0;
    loop {
        for pod in world.pods.all() {
            let uid = pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
            let Some(name) = pod["spec"]["nodeName"].as_str() else {
                let node = node_for(&pod).unwrap_or_else(|| {
                    turn += 1;
                    world.nodes[turn % world.nodes.len()].name.clone()
                });
                // One that was bound or deleted meanwhile comes again, or not.
                let _ = world.api.bind(&pod, &node).await;
                continue;
            };
            let node = world.nodes.iter().find(|node| node.name == name);
            if let Some(node) = node.filter(|_| known.insert(uid)) {
                lives.spawn(pod::live(world.clone(), node.clone(), pod));
            }
        }
        tokio::select! {
            () = pods.changed() => {}
            Some(ended) = lives.join_next() => {
                if let Err(error) = ended {
                    world.note(&format!("a pod's task failed: {error}"));
                }
            }
        }
    }
}

/// The node that a DaemonSet's controller has chosen for a pod.
fn node_for(pod: &Value) -> Option<String> {
    let required = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0";
    let fields = pod.pointer(required)?["matchFields"].as_array()?;
    let field = fields.iter().find(|field| field["key"] == "metadata.name")?;
    field["values"][0].as_str().map(String::from)
}
