//! The objects of a mesh in YAML, as an API server would store them.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use super::{
    Deployment, PodState, Size, deployment, host_ip, namespace_name, node_name, pod_ip, pod_name, service_ip, uid,
    ztunnel_name,
};

/// A namespace; the first has a policy for its peers.
pub fn namespace(at: usize, waypoint: bool) -> String {
    let name = namespace_name(at);
    let label = if waypoint { "\n    istio.io/use-waypoint: waypoint" } else { "" };
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
    kubernetes.io/metadata.name: {name}{label}
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

/// A node.
pub fn node(at: usize) -> String {
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

/// A service.
pub fn service(size: Size, at: usize) -> String {
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
pub fn policy(size: Size, at: usize) -> String {
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

/// A pod in a state.
pub fn pod(size: Size, at: usize, state: &PodState) -> String {
    let version = &state.revision;
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
        state,
        compact: size.compact,
    })
}

/// The ztunnel of a node.
pub fn ztunnel(size: Size, at: usize) -> String {
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
        state: &PodState::default(),
        compact: size.compact,
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
    state: &'a PodState,
    compact: bool,
}

fn pod_text(pod: &PodText<'_>) -> String {
    let PodText { name, generate_name, namespace, uid, resource_version, .. } = pod;
    let PodText { labels, annotations, owner, service_account, node, address, state, compact, .. } = pod;
    let (node, host) = (node_name(*node), host_ip(*node));
    let ready = if state.ready { "True" } else { "False" };
    let deleted = match state.terminating {
        true => "  deletionTimestamp: \"2026-03-05T10:00:00Z\"\n  deletionGracePeriodSeconds: 30\n",
        false => "",
    };
    if *compact {
        return format!(
            "apiVersion: v1
kind: Pod
metadata:
  annotations:
{annotations}  labels:
{labels}  name: {name}
  namespace: {namespace}
{deleted}  ownerReferences:
  - apiVersion: apps/v1
    controller: true
    kind: {owner}
  resourceVersion: \"{resource_version}\"
  uid: {uid}
spec:
  containers:
  - name: app
    ports:
    - containerPort: 8080
      name: http
      protocol: TCP
  nodeName: {node}
  serviceAccountName: {service_account}
status:
  conditions:
  - status: \"{ready}\"
    type: Ready
  phase: Running
  podIPs:
  - ip: {address}
"
        );
    }
    let mut text = format!(
        "apiVersion: v1
kind: Pod
metadata:
  annotations:
{annotations}  creationTimestamp: \"2026-03-04T11:22:33Z\"
{deleted}  generateName: {generate_name}
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
        let status = if condition.contains("Ready") && !condition.starts_with("PodReady") { ready } else { "True" };
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "  - lastProbeTime: null\n    lastTransitionTime: \"2026-03-04T11:22:40Z\"\n    status: \"{status}\"\n    \
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
