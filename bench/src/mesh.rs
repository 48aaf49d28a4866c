//! A mesh as a folder of YAML: what an API server would store for it.
//!
//! Everything is a function of the number of the object, so that whoever checks
//! a control plane can ask here what it should have said.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

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

/// A mesh that has been written to a folder.
pub struct Mesh {
    /// The folder.
    pub folder: PathBuf,
    /// Its size.
    pub size: Size,
    /// The bytes of all files.
    pub bytes: u64,
}

/// What a client should be told about a workload.
#[derive(Debug, PartialEq, Eq)]
pub struct Expected {
    /// Its address.
    pub address: Ipv4Addr,
    /// The node it runs on.
    pub node: String,
    /// The hostname of the service in front of it, if there is one.
    pub service: Option<String>,
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
    /// Writes a mesh into a new folder.
    pub fn write(folder: &Path, size: Size) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder.join("hot")).with_context(|| format!("cannot create {}", folder.display()))?;
        let mut mesh = Self { folder: folder.to_owned(), size, bytes: 0 };
        mesh.write_files("namespaces", size.namespaces, namespace)?;
        mesh.write_files("nodes", size.nodes(), node)?;
        mesh.write_files("services", size.services, |at| service(size, at))?;
        mesh.write_files("policies", size.namespaces, |at| policy(size, at))?;
        mesh.write_files("ztunnels", size.nodes(), |at| ztunnel(size, at))?;
        let hot = HOT_PODS.min(size.pods);
        mesh.write_files("pods", size.pods - hot, |at| pod(size, at + hot, "v1"))?;
        for at in 0..hot {
            mesh.write_file(&mesh.hot_file(at), &pod(size, at, "v1"))?;
        }
        Ok(mesh)
    }

    fn write_files(&mut self, name: &str, count: usize, object: impl Fn(usize) -> String) -> anyhow::Result<()> {
        for (number, from) in (0..count).step_by(OBJECTS_PER_FILE).enumerate() {
            let objects: Vec<_> = (from..count.min(from + OBJECTS_PER_FILE)).map(&object).collect();
            self.write_file(&self.folder.join(format!("{name}-{number:04}.yaml")), &objects.join("---\n"))?;
        }
        Ok(())
    }

    fn write_file(&mut self, path: &Path, text: &str) -> anyhow::Result<()> {
        self.bytes += text.len() as u64;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The file of a pod that is alone in its file.
    pub fn hot_file(&self, at: usize) -> PathBuf {
        self.folder.join(format!("hot/pod-{at:03}.yaml"))
    }

    /// That pod with the mark of a change.
    pub fn hot_pod(&self, at: usize, change: usize) -> String {
        pod(self.size, at, &mark(change))
    }

    /// Every workload a client should know, by UID.
    pub fn workloads(&self) -> BTreeMap<String, Expected> {
        let size = self.size;
        let pods = (0..size.pods).map(|at| {
            let Deployment { namespace, app, .. } = deployment(size, at % size.services);
            let service = Some(format!("{namespace}/{app}.{namespace}.svc.cluster.local"));
            let expected = Expected { address: pod_ip(at), node: node_name(at % size.nodes()), service };
            (format!("Kubernetes//Pod/{namespace}/{}", pod_name(size, at)), expected)
        });
        let ztunnels = (0..size.nodes()).map(|at| {
            let expected = Expected { address: pod_ip(size.pods + at), node: node_name(at), service: None };
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

/// The version of a pod after a change.
pub fn mark(change: usize) -> String {
    format!("{MARK}{change:0MARK_DIGITS$}")
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

fn namespace_name(at: usize) -> String {
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

fn pod_ip(at: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 1, 0)) + at as u32)
}

fn service_ip(at: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 10)) + at as u32)
}

fn host_ip(at: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 10)) + at as u32)
}

fn uid(kind: char, at: usize) -> String {
    format!("{at:08x}-{kind}1d2-4c3b-8a9e-{:012x}", at as u64 * 40_503 + 17)
}

fn namespace(at: usize) -> String {
    let name = namespace_name(at);
    let strict = match at {
        0 => {
            "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  name: default\n  \
             namespace: payments-00\nspec:\n  mtls:\n    mode: STRICT\n"
        }
        _ => "",
    };
    format!(
        "apiVersion: v1
kind: Namespace
metadata:
  name: {name}
  uid: {}
  resourceVersion: \"{}\"
  creationTimestamp: \"2026-03-01T08:00:00Z\"
  labels:
    istio.io/dataplane-mode: ambient
    kubernetes.io/metadata.name: {name}
spec:
  finalizers:
  - kubernetes
status:
  phase: Active
{strict}",
        uid('1', at),
        at + 300
    )
}

fn node(at: usize) -> String {
    let (name, zone) = (node_name(at), ["a", "b", "c"][at % 3]);
    format!(
        "apiVersion: v1
kind: Node
metadata:
  name: {name}
  uid: {}
  resourceVersion: \"{}\"
  creationTimestamp: \"2026-03-01T08:00:00Z\"
  labels:
    beta.kubernetes.io/arch: amd64
    kubernetes.io/arch: amd64
    kubernetes.io/hostname: {name}
    kubernetes.io/os: linux
    node.kubernetes.io/instance-type: m7i.4xlarge
    topology.kubernetes.io/region: eu-north-1
    topology.kubernetes.io/zone: eu-north-1{zone}
spec:
  providerID: aws:///eu-north-1{zone}/i-{at:017x}
status:
  addresses:
  - address: {}
    type: InternalIP
  - address: {name}
    type: Hostname
  capacity:
    cpu: \"16\"
    memory: 64421736Ki
    pods: \"110\"
",
        uid('2', at),
        at + 900,
        host_ip(at)
    )
}

fn service(size: Size, at: usize) -> String {
    let Deployment { namespace, app, .. } = deployment(size, at);
    let address = service_ip(at);
    format!(
        "apiVersion: v1
kind: Service
metadata:
  name: {app}
  namespace: {namespace}
  uid: {}
  resourceVersion: \"{}\"
  creationTimestamp: \"2026-03-02T09:30:00Z\"
  labels:
    app.kubernetes.io/name: {app}
    app.kubernetes.io/managed-by: Helm
spec:
  clusterIP: {address}
  clusterIPs:
  - {address}
  internalTrafficPolicy: Cluster
  ipFamilies:
  - IPv4
  ipFamilyPolicy: SingleStack
  ports:
  - appProtocol: http
    name: http
    port: 80
    protocol: TCP
    targetPort: http
  - name: grpc
    port: 9090
    protocol: TCP
    targetPort: 9090
  selector:
    app.kubernetes.io/name: {app}
  sessionAffinity: None
  type: ClusterIP
status:
  loadBalancer: {{}}
",
        uid('3', at),
        at + 5000
    )
}

/// One policy in each namespace, which selects the pods of one Deployment.
fn policy(size: Size, at: usize) -> String {
    let (namespace, app) = (namespace_name(at), deployment(size, at).app);
    format!(
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: callers
  namespace: {namespace}
  uid: {}
  resourceVersion: \"{}\"
  creationTimestamp: \"2026-03-02T09:40:00Z\"
spec:
  action: ALLOW
  rules:
  - from:
    - source:
        principals:
        - cluster.local/ns/{namespace}/sa/{app}
        - cluster.local/ns/istio-system/sa/ingress
  selector:
    matchLabels:
      app.kubernetes.io/name: {app}
",
        uid('4', at),
        at + 7000
    )
}

fn pod(size: Size, at: usize, version: &str) -> String {
    let number = at % size.services;
    let Deployment { namespace, app, hash } = deployment(size, number);
    let (name, node) = (pod_name(size, at), at % size.nodes());
    let labels = format!(
        "    app.kubernetes.io/instance: {app}
    app.kubernetes.io/name: {app}
    app.kubernetes.io/version: {version}
    helm.sh/chart: {app}-2.14.0
    pod-template-hash: {hash}
"
    );
    let owner = format!("ReplicaSet\n    name: {app}-{hash}\n    uid: {}", uid('5', number));
    let redirected = "    ambient.istio.io/redirection: enabled\n    prometheus.io/scrape: \"true\"\n";
    pod_text(&PodText {
        name: &name,
        generate_name: &format!("{app}-{hash}-"),
        namespace: &namespace,
        uid: &uid('a', at),
        resource_version: at + 100_000,
        labels: &labels,
        annotations: redirected,
        owner: &owner,
        service_account: &app,
        node,
        address: pod_ip(at),
    })
}

fn ztunnel(size: Size, at: usize) -> String {
    pod_text(&PodText {
        name: &ztunnel_name(at),
        generate_name: "ztunnel-",
        namespace: "istio-system",
        uid: &uid('f', at),
        resource_version: at + 50_000,
        labels: "    app: ztunnel\n    controller-revision-hash: 7d9f8c6b5\n    istio.io/dataplane-mode: none\n",
        annotations: "    prometheus.io/port: \"15020\"\n    prometheus.io/scrape: \"true\"\n",
        owner: &format!("DaemonSet\n    name: ztunnel\n    uid: {}", uid('6', 0)),
        service_account: "ztunnel",
        node: at,
        address: pod_ip(size.pods + at),
    })
}

/// What differs between pods.
struct PodText<'a> {
    name: &'a str,
    generate_name: &'a str,
    namespace: &'a str,
    uid: &'a str,
    resource_version: usize,
    labels: &'a str,
    annotations: &'a str,
    owner: &'a str,
    service_account: &'a str,
    node: usize,
    address: Ipv4Addr,
}

fn pod_text(pod: &PodText<'_>) -> String {
    let PodText { name, generate_name, namespace, uid, resource_version, .. } = pod;
    let PodText { labels, annotations, owner, service_account, node, address, .. } = pod;
    let (node, host) = (node_name(*node), host_ip(*node));
    let mut text = format!(
        "apiVersion: v1
kind: Pod
metadata:
  annotations:
{annotations}  creationTimestamp: \"2026-03-04T11:22:33Z\"
  generateName: {generate_name}
  labels:
{labels}  name: {name}
  namespace: {namespace}
  ownerReferences:
  - apiVersion: apps/v1
    blockOwnerDeletion: true
    controller: true
    kind: {owner}
  resourceVersion: \"{resource_version}\"
  uid: {uid}
spec:
  containers:
  - env:
    - name: POD_IP
      valueFrom:
        fieldRef:
          apiVersion: v1
          fieldPath: status.podIP
    - name: LOG_LEVEL
      value: info
    - name: OTEL_EXPORTER_OTLP_ENDPOINT
      value: http://collector.observability.svc:4317
    image: registry.example.com/{namespace}/{service_account}:2.14.0
    imagePullPolicy: IfNotPresent
    livenessProbe:
      failureThreshold: 3
      httpGet:
        path: /healthz
        port: http
        scheme: HTTP
      periodSeconds: 10
      successThreshold: 1
      timeoutSeconds: 1
    name: app
    ports:
    - containerPort: 8080
      name: http
      protocol: TCP
    - containerPort: 9090
      name: grpc
      protocol: TCP
    readinessProbe:
      failureThreshold: 3
      httpGet:
        path: /readyz
        port: http
        scheme: HTTP
      periodSeconds: 5
      successThreshold: 1
      timeoutSeconds: 1
    resources:
      limits:
        memory: 512Mi
      requests:
        cpu: 250m
        memory: 512Mi
    terminationMessagePath: /dev/termination-log
    terminationMessagePolicy: File
    volumeMounts:
    - mountPath: /var/run/secrets/kubernetes.io/serviceaccount
      name: kube-api-access-x7x2k
      readOnly: true
  dnsPolicy: ClusterFirst
  enableServiceLinks: true
  nodeName: {node}
  preemptionPolicy: PreemptLowerPriority
  priority: 0
  restartPolicy: Always
  schedulerName: default-scheduler
  securityContext: {{}}
  serviceAccount: {service_account}
  serviceAccountName: {service_account}
  terminationGracePeriodSeconds: 30
  tolerations:
  - effect: NoExecute
    key: node.kubernetes.io/not-ready
    operator: Exists
    tolerationSeconds: 300
  - effect: NoExecute
    key: node.kubernetes.io/unreachable
    operator: Exists
    tolerationSeconds: 300
  volumes:
  - name: kube-api-access-x7x2k
    projected:
      defaultMode: 420
      sources:
      - serviceAccountToken:
          expirationSeconds: 3607
          path: token
      - configMap:
          items:
          - key: ca.crt
            path: ca.crt
          name: kube-root-ca.crt
status:
  conditions:
"
    );
    for condition in ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"] {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "  - lastProbeTime: null\n    lastTransitionTime: \"2026-03-04T11:22:40Z\"\n    status: \"True\"\n    \
             type: {condition}\n"
        );
    }
    let _ = write!(
        text,
        "  containerStatuses:
  - containerID: containerd://{uid}
    image: registry.example.com/{namespace}/{service_account}:2.14.0
    imageID: registry.example.com/{namespace}/{service_account}@sha256:{uid}
    lastState: {{}}
    name: app
    ready: true
    restartCount: 0
    started: true
    state:
      running:
        startedAt: \"2026-03-04T11:22:39Z\"
  hostIP: {host}
  hostIPs:
  - ip: {host}
  phase: Running
  podIP: {address}
  podIPs:
  - ip: {address}
  qosClass: Burstable
  startTime: \"2026-03-04T11:22:33Z\"
"
    );
    text
}
