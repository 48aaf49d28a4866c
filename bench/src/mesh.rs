//! A mesh: what an API server would store for it, and what that means.
//!
//! Everything is a function of the number of the object, so that whoever checks
//! a control plane can ask here what it should have said.

mod objects;

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::Context;

/// How many pods there are on a node.
const PODS_PER_NODE: usize = 50;
/// How many objects are in a file.
const OBJECTS_PER_FILE: usize = 400;
/// How many pods have a file of their own, to be changed one at a time.
pub const HOT_PODS: usize = 64;
/// What a changed pod's version begins with; the number of the change follows.
pub const MARK: &str = "bench-r";
/// How many digits that number has.
pub const MARK_DIGITS: usize = 6;

/// How large a mesh is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Application pods; ztunnels come on top, one for each node.
    pub pods: usize,
    /// Services, each of which selects the pods of one Deployment.
    pub services: usize,
    /// Namespaces.
    pub namespaces: usize,
    /// Whether pods have only what a mesh looks at: for sizes at which whole
    /// ones would fill disks.
    pub compact: bool,
}

impl Size {
    /// The number of nodes.
    pub fn nodes(self) -> usize {
        self.pods.div_ceil(PODS_PER_NODE).max(2)
    }

    /// All workloads that a client should be sent.
    pub fn workloads(self) -> usize {
        self.pods + self.nodes()
    }

    /// Workloads and services.
    pub fn addresses(self) -> usize {
        self.workloads() + self.services
    }

    /// Authorization policies and the one that stands for strict mutual TLS.
    pub fn policies(self) -> usize {
        self.namespaces + 1
    }
}

/// A mesh and what has changed in it since it was made.
pub struct Mesh {
    /// Its size when it was made.
    pub size: Size,
    /// Pods that are not as they were made, or were not there.
    pub changed: HashMap<usize, PodState>,
    /// A namespace that has a waypoint.
    pub waypoint: Option<usize>,
}

/// The state of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodState {
    /// Its version label.
    pub revision: String,
    /// Whether it is ready.
    pub ready: bool,
    /// Whether it was told to end.
    pub terminating: bool,
    /// Whether it is there at all.
    pub present: bool,
}

impl Default for PodState {
    fn default() -> Self {
        Self { revision: "v1".into(), ready: true, terminating: false, present: true }
    }
}

/// What a client should be told about a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Its address.
    pub address: Ipv4Addr,
    /// The node it runs on.
    pub node: String,
    /// The hostname of the service in front of it, if there is one.
    pub service: Option<String>,
    /// Its canonical revision.
    pub revision: String,
    /// Whether it should get traffic.
    pub healthy: bool,
    /// Whether it has a waypoint.
    pub waypoint: bool,
}

/// A token's subject, and the pod it is bound to.
pub struct Holder {
    /// The namespace.
    pub namespace: String,
    /// The service account.
    pub service_account: String,
    /// The pod.
    pub pod: String,
    /// The pod's UID.
    pub uid: String,
}

impl Mesh {
    /// A mesh as it was made.
    pub fn new(size: Size) -> Self {
        Self { size, changed: HashMap::new(), waypoint: None }
    }

    /// Writes everything into a new folder and returns how many bytes that is.
    pub fn write(&self, folder: &Path) -> anyhow::Result<u64> {
        std::fs::create_dir_all(folder.join("hot")).with_context(|| format!("cannot create {}", folder.display()))?;
        let (size, mut bytes) = (self.size, 0);
        let hot = HOT_PODS.min(size.pods);
        for kind in Kind::ALL {
            let from = if kind == Kind::Pod { hot } else { 0 };
            let objects = (from..kind.count(size)).map(|at| self.object(kind, at));
            bytes += write_all(folder, &format!("{kind:?}").to_lowercase(), objects)?;
        }
        for at in 0..hot {
            bytes += write(&folder.join(hot_file(at)), &self.object(Kind::Pod, at))?;
        }
        Ok(bytes)
    }

    /// One object in YAML, or several, divided.
    pub fn object(&self, kind: Kind, at: usize) -> String {
        let size = self.size;
        match kind {
            Kind::Namespace => objects::namespace(at, self.waypoint == Some(at)),
            Kind::Node => objects::node(at),
            Kind::Service => objects::service(size, at),
            Kind::Policy => objects::policy(size, at),
            Kind::Ztunnel => objects::ztunnel(size, at),
            Kind::Pod => objects::pod(size, at, &self.state(at)),
        }
    }

    /// The state of a pod now.
    pub fn state(&self, at: usize) -> PodState {
        let original = || PodState { present: at < self.size.pods, ..PodState::default() };
        self.changed.get(&at).cloned().unwrap_or_else(original)
    }

    /// A pod of a number that no pod and no ztunnel has.
    pub fn new_pod(&self, number: usize) -> usize {
        self.size.workloads() + number
    }

    /// Namespace and name of a pod.
    pub fn pod_name(&self, at: usize) -> (String, String) {
        (deployment(self.size, at % self.size.services).namespace, pod_name(self.size, at))
    }

    /// A pod that was just created: with an address, not ready.
    pub fn new_pod_object(&self, at: usize) -> String {
        objects::pod(self.size, at, &PodState { ready: false, ..PodState::default() })
    }

    /// Namespace and service account of the pods of a service.
    pub fn account(&self, service: usize) -> (String, String) {
        let Deployment { namespace, app, .. } = deployment(self.size, service);
        (namespace, app)
    }

    /// Every workload a client should know, by UID.
    pub fn workloads(&self) -> BTreeMap<String, Expected> {
        let size = self.size;
        let others = self.changed.keys().copied().filter(|at| *at >= size.pods);
        let pods = (0..size.pods).chain(others).filter_map(|at| {
            let state = self.state(at);
            let Deployment { namespace, app, .. } = deployment(size, at % size.services);
            let waypoint = self.waypoint.is_some_and(|waypoint| namespace == namespace_name(waypoint));
            let expected = Expected {
                address: pod_ip(at),
                node: node_name(at % size.nodes()),
                service: Some(format!("{namespace}/{app}.{namespace}.svc.cluster.local")),
                healthy: state.ready && !state.terminating,
                revision: state.revision,
                waypoint,
            };
            state.present.then(|| (format!("Kubernetes//Pod/{namespace}/{}", pod_name(size, at)), expected))
        });
        let ztunnels = (0..size.nodes()).map(|at| {
            let expected = Expected {
                address: pod_ip(size.pods + at),
                node: node_name(at),
                service: None,
                revision: "latest".into(),
                healthy: true,
                waypoint: false,
            };
            (format!("Kubernetes//Pod/istio-system/{}", ztunnel_name(at)), expected)
        });
        pods.chain(ztunnels).collect()
    }

    /// Every service, by the name of its resource.
    pub fn services(&self) -> BTreeMap<String, Ipv4Addr> {
        let named = |at| {
            let Deployment { namespace, app, .. } = deployment(self.size, at);
            (format!("{namespace}/{app}.{namespace}.svc.cluster.local"), service_ip(at))
        };
        (0..self.size.services).map(named).collect()
    }

    /// The names of all policies.
    pub fn policies(&self) -> Vec<String> {
        let authorizations = (0..self.size.namespaces).map(|at| format!("{}/callers", namespace_name(at)));
        authorizations.chain(["istio-system/istio_converted_static_strict".into()]).collect()
    }

    /// The ztunnel of a node.
    pub fn ztunnel(&self, node: usize) -> Holder {
        Holder {
            namespace: "istio-system".into(),
            service_account: "ztunnel".into(),
            pod: ztunnel_name(node),
            uid: uid('f', node),
        }
    }

    /// An application pod, and the node it runs on.
    pub fn holder(&self, at: usize) -> (Holder, usize) {
        let Deployment { namespace, app, .. } = deployment(self.size, at % self.size.services);
        let pod = pod_name(self.size, at);
        (Holder { namespace, service_account: app, pod, uid: uid('a', at) }, at % self.size.nodes())
    }
}

/// The kinds of a mesh, in an order in which they can be created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Namespaces, and what is in one of them from the beginning.
    Namespace,
    /// Nodes.
    Node,
    /// Services.
    Service,
    /// Authorization policies.
    Policy,
    /// ztunnels.
    Ztunnel,
    /// Application pods.
    Pod,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Namespace, Self::Node, Self::Service, Self::Policy, Self::Ztunnel, Self::Pod];

    /// How many a mesh has.
    pub fn count(self, size: Size) -> usize {
        match self {
            Self::Namespace | Self::Policy => size.namespaces,
            Self::Node | Self::Ztunnel => size.nodes(),
            Self::Service => size.services,
            Self::Pod => size.pods,
        }
    }
}

/// Where in a folder a pod is that is alone in its file.
pub fn hot_file(at: usize) -> String {
    format!("hot/pod-{at:05}.yaml")
}

/// Writes a file and returns its size.
pub fn write(path: &Path, text: &str) -> anyhow::Result<u64> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(text.len() as u64)
}

/// Writes objects of a kind into numbered files and returns how many bytes that
/// is.
pub fn write_all(folder: &Path, kind: &str, objects: impl IntoIterator<Item = String>) -> anyhow::Result<u64> {
    let (mut objects, mut bytes) = (objects.into_iter().peekable(), 0);
    for number in 0.. {
        if objects.peek().is_none() {
            break;
        }
        let some: Vec<_> = objects.by_ref().take(OBJECTS_PER_FILE).collect();
        bytes += write(&folder.join(format!("{kind}-{number:04}.yaml")), &some.join("---\n"))?;
    }
    Ok(bytes)
}

/// The version of a pod after a change.
pub fn mark(change: usize) -> String {
    format!("{MARK}{change:0MARK_DIGITS$}")
}

/// The number of the change that a version is the mark of.
pub fn number(version: &str) -> Option<usize> {
    version.strip_prefix(MARK)?.parse().ok()
}

/// The name of a node.
pub fn node_name(at: usize) -> String {
    format!("ip-10-0-{}-{}.eu-north-1.compute.internal", at / 200, at % 200 + 10)
}

struct Deployment {
    namespace: String,
    app: String,
    hash: String,
}

/// The name of a namespace.
pub fn namespace_name(at: usize) -> String {
    const TEAMS: [&str; 10] =
        ["payments", "catalog", "checkout", "search", "identity", "shipping", "media", "ledger", "support", "insights"];
    format!("{}-{:02}", TEAMS[at % TEAMS.len()], at / TEAMS.len())
}

fn deployment(size: Size, at: usize) -> Deployment {
    const PARTS: [&str; 12] = [
        "gateway", "orders", "pricing", "profile", "worker", "ingest", "cache", "frontend", "reports", "quota",
        "events", "router",
    ];
    let app = format!("{}-{}-{at}", PARTS[at % PARTS.len()], ["api", "core", "svc"][at / 12 % 3]);
    Deployment { namespace: namespace_name(at % size.namespaces), app, hash: letters(at as u64, 10) }
}

fn pod_name(size: Size, at: usize) -> String {
    let Deployment { app, hash, .. } = deployment(size, at % size.services);
    format!("{app}-{hash}-{}", letters(at as u64 + 1_000_000, 5))
}

fn ztunnel_name(at: usize) -> String {
    format!("ztunnel-{}", letters(at as u64 + 2_000_000, 5))
}

/// The letters that Kubernetes makes names of. Different numbers may share five
/// of them, so the last ones are the number itself.
fn letters(number: u64, count: u32) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let base = LETTERS.len() as u64;
    // An odd factor without a common divisor with the range keeps numbers
    // apart and scatters them.
    let scattered = number.wrapping_mul(7_368_787) % base.pow(count);
    (0..count).map(|place| char::from(LETTERS[(scattered / base.pow(place) % base) as usize])).collect()
}

/// The address of a pod.
pub fn pod_ip(at: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 1, 0)) + at as u32)
}

fn service_ip(at: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 10)) + at as u32)
}

/// The address of a node.
pub fn host_ip(at: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 10)) + at as u32)
}

fn uid(kind: char, at: usize) -> String {
    format!("{at:08x}-{kind}1d2-4c3b-8a9e-{:012x}", at as u64 * 40_503 + 17)
}

#[cfg(test)]
mod tests;
