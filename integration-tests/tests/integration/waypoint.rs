//! Traffic through a waypoint: a folder of YAML, a stock Envoy under `fairway
//! agent`, callers with identities, and backends that say what they saw.
//!
//! All tests share one control plane and one waypoint. Each has services and
//! addresses of its own, and rejections are everybody's.

pub mod routes;
pub mod requests;
pub mod connections;
pub mod gateway_api;
pub mod policies;
pub mod authorizers;
pub mod tokens;
pub mod telemetry;
pub mod protocols;
pub mod endpoints;
pub mod changes;
pub mod rejected;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use fairway_integration_tests::echo::{Backend, Echo};
use fairway_integration_tests::fairway::{Fairway, Options};
use fairway_integration_tests::hbone::{Answer, Client, request};
use fairway_integration_tests::identity::Identity;
use fairway_integration_tests::proxy::{Proxy, Role, Told};
use fairway_integration_tests::runner;
use fairway_integration_tests::waypoint::{PORT, Waypoint};
use tokio::sync::OnceCell;

/// What all waypoint tests stand in.
pub struct World {
    pub fairway: Fairway,
    pub waypoint: Waypoint,
    /// A gateway of the same mesh, for the tests that are about it.
    gateway: OnceCell<Proxy>,
    pub state: PathBuf,
    /// How the control plane was started.
    pub options: Options,
    config: PathBuf,
    /// The second number of all addresses.
    network: u8,
}

/// The namespace that everything is in.
const NAMESPACE: &str = "default";
/// The node name of the waypoint, as the control plane shows it.
const PROXY: &str = "waypoint-1.default";
/// That of the gateway.
const GATEWAY: &str = "edge-1.default";

static SHARED: OnceCell<World> = OnceCell::const_new();

async fn shared() -> &'static World {
    let world = SHARED.get_or_init(|| World::start("waypoint")).await;
    runner::show_on_failure("waypoint's fairway", world.fairway.log_path().into());
    runner::show_on_failure("waypoint", world.waypoint.log_path().into());
    world
}

/// Ends what is shared.
pub async fn stop() {
    if let Some(world) = SHARED.get() {
        if let Some(gateway) = world.gateway.get() {
            gateway.kill().await;
        }
        world.waypoint.kill().await;
        world.fairway.kill().await;
    }
}

/// The file that the provider `lines` logs to.
pub fn access_log() -> PathBuf {
    runner::folder().join("waypoint-access.log")
}

/// A part of loopback that nobody else uses: two runs of the tests may meet on
/// one machine.
fn network() -> u8 {
    let start = (std::process::id() % 100) as u8;
    let mut candidates = (0..100).map(|next| 100 + (start + next) % 100);
    let free = |network: &u8| std::net::TcpListener::bind((Ipv4Addr::new(127, *network, 0, 1), PORT)).is_ok();
    // Nobody listens yet in what another test has been given.
    static GIVEN: std::sync::Mutex<BTreeSet<u8>> = std::sync::Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap();
    candidates.find(|network| free(network) && given.insert(*network)).expect("no free network in 127.0.0.0/8")
}

impl World {
    /// One with folders of this name.
    async fn start(name: &str) -> Self {
        let folder = |what: &str| runner::folder().join(format!("{name}-{what}"));
        let (config, state) = (folder("mesh"), folder("state"));
        std::fs::create_dir_all(&config).unwrap();
        let network = network();
        let mesh = format!(
            r#"
apiVersion: v1
kind: Namespace
metadata: {{name: {NAMESPACE}, labels: {{istio.io/dataplane-mode: ambient}}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: waypoint, namespace: {NAMESPACE}, labels: {{istio.io/waypoint-for: all}}}}
spec:
  gatewayClassName: istio-waypoint
  listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]
status: {{addresses: [{{type: IPAddress, value: 127.{network}.0.1}}]}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: edge, namespace: {NAMESPACE}}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
  - {{port: {{number: 8080, name: http, protocol: HTTP}}, hosts: ["*"]}}
  - {{port: {{number: 8081, name: redirect, protocol: HTTP}}, hosts: ["*"], tls: {{httpsRedirect: true}}}}
  - {{port: {{number: 8443, name: tls, protocol: TLS}}, hosts: ["*"], tls: {{mode: PASSTHROUGH}}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: istio, namespace: istio-system}}
data:
  mesh: |
    extensionProviders:
    - name: ask-http
      envoyExtAuthzHttp:
        service: authorizer-http.default.svc.cluster.local
        port: 8000
        includeRequestHeadersInCheck: [x-let-in]
        headersToUpstreamOnAllow: [x-asked]
    - {{name: ask-grpc, envoyExtAuthzGrpc: {{service: default/authorizer-grpc.default.svc.cluster.local, port: 9000}}}}
    - {{name: ask-gone, envoyExtAuthzGrpc: {{service: gone.default.svc.cluster.local, port: 9000}}}}
    - {{name: zipkin, zipkin: {{service: zipkin.default.svc.cluster.local, port: 9411}}}}
    - name: lines
      envoyFileAccessLog:
        path: {}
        logFormat: {{labels: {{code: '%RESPONSE_CODE%', path: '%REQ(:PATH)%', caller: '%FILTER_STATE(io.istio.peer_principal:PLAIN)%', cluster: '%UPSTREAM_CLUSTER_RAW%'}}}}
"#,
            access_log().display()
        );
        std::fs::write(config.join("mesh.yaml"), mesh).unwrap();
        let options = Options::folder(&config, &state);
        let fairway = Fairway::start(&options).await;
        let address = IpAddr::from([127, network, 0, 1]);
        let waypoint = Waypoint::start(&fairway, &state, NAMESPACE, "waypoint", address).await;
        Self { fairway, waypoint, gateway: OnceCell::new(), state, options, config, network }
    }

    /// The address of the gateway.
    pub fn edge(&self, port: u16) -> SocketAddr {
        SocketAddr::from(([127, self.network, 0, 2], port))
    }

    /// A workload's identity.
    pub async fn identity(&self, account: &str) -> Identity {
        Identity::of(&self.fairway, &self.state, NAMESPACE, account).await
    }

    /// A connection to the waypoint as a service account.
    pub async fn client(&self, account: &str) -> Client {
        let identity = self.identity(account).await;
        let client = Client::connect(&identity, self.waypoint.address).await.unwrap();
        assert_eq!(client.peer, "spiffe://cluster.local/ns/default/sa/waypoint");
        client
    }
}

/// What one test adds: a file of the folder, in which `$name` is a name and
/// `127.$n` a network of its own.
pub struct Scene {
    pub world: &'static World,
    pub name: String,
    number: u8,
    revision: AtomicUsize,
    backends: std::sync::Mutex<Vec<Backend>>,
}

impl Scene {
    pub async fn new(name: &str) -> Self {
        Self::of(shared().await, name)
    }

    /// One in a world of its own.
    pub fn of(world: &'static World, name: &str) -> Self {
        static COUNT: AtomicU8 = AtomicU8::new(1);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{name}-{number}");
        Self { world, name, number, revision: AtomicUsize::new(0), backends: Default::default() }
    }

    /// Starts the gateway, unless it runs. It is waited for, too, from then on.
    pub async fn gateway(&self) -> &'static Proxy {
        let world = self.world;
        let start = || {
            let labels = serde_json::json!({ "istio": "ingressgateway" });
            let role = Role { kind: "router", namespace: NAMESPACE, account: "edge", labels };
            Proxy::start(&world.fairway, &world.state, role, world.edge(0).ip())
        };
        let gateway = world.gateway.get_or_init(start).await;
        runner::show_on_failure("gateway", gateway.log_path().into());
        gateway
    }

    /// An address of the test.
    pub fn ip(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.world.network, self.number, host)
    }

    /// What stands for the service `$name` at port 80.
    pub fn service(&self) -> String {
        self.at(1, 80)
    }

    /// An address and port of the test.
    pub fn at(&self, host: u8, port: u16) -> String {
        format!("{}:{port}", self.ip(host))
    }

    /// Starts a backend of HTTP at port 8080 of an address.
    pub async fn echo(&self, host: u8, who: &str) -> Echo {
        let echo = Echo::new(who);
        let backend = Backend::http(SocketAddr::new(self.ip(host).into(), 8080), &echo).await;
        self.keep(backend);
        echo
    }

    /// Keeps a backend until the end of the test.
    pub fn keep(&self, backend: Backend) {
        self.backends.lock().unwrap().push(backend);
    }

    /// Makes this all that the test adds, and waits until the waypoint has it.
    pub async fn apply(&self, yaml: &str) {
        let marker = self.write(yaml);
        let World { fairway, waypoint, gateway, .. } = self.world;
        waypoint.until_applied(fairway, PROXY, Told::Listeners, &marker).await;
        if let Some(gateway) = gateway.get() {
            gateway.until_applied(fairway, GATEWAY, Told::Routes, &marker).await;
        }
    }

    /// Makes this all that the test adds. Returns what the waypoint has to have in
    /// a listener then.
    pub fn write(&self, yaml: &str) -> String {
        let revision = self.revision.fetch_add(1, Ordering::Relaxed);
        let marker = format!("{} {revision};", self.name);
        // A service of which nothing is used but its place in the listener.
        let marking = format!(
            r#"
---
apiVersion: v1
kind: Service
metadata: {{name: $name-marker, namespace: default, labels: {{istio.io/use-waypoint: waypoint}}}}
spec: {{clusterIP: 127.$n.254, ports: [{{name: http, port: 80}}]}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: $name-marker, namespace: default}}
spec:
  hosts: [$name-marker]
  gateways: [mesh, edge]
  http: [{{directResponse: {{status: 200, body: {{string: "{marker}"}}}}}}]
"#
        );
        let network = format!("{}.{}", self.world.network, self.number);
        let yaml = format!("{yaml}{marking}").replace("$name", &self.name).replace("$n", &network);
        // Renamed into place, so that nobody reads half of it.
        let draft = runner::folder().join(format!("{}.draft", self.name));
        std::fs::write(&draft, yaml).unwrap();
        std::fs::rename(&draft, self.world.config.join(format!("{}.yaml", self.name))).unwrap();
        marker
    }

    /// Fails if the waypoint has rejected anything.
    pub async fn end(&self) {
        self.world.waypoint.assert_nothing_rejected().await;
        if let Some(gateway) = self.world.gateway.get() {
            gateway.assert_nothing_rejected().await;
        }
        self.world.fairway.assert_running();
    }
}

/// The Service `$name` at `127.$n.1`: port 80 is HTTP, for pods with this
/// label.
pub const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: $name, namespace: default, labels: {istio.io/use-waypoint: waypoint}}
spec: {clusterIP: 127.$n.1, selector: {app: $name}, ports: [{name: http, port: 80, targetPort: 8080}]}
";

/// A pod of `$name` at `127.$n.HOST`, which is version `vHOST`.
pub fn pod(host: u8) -> String {
    format!(
        "
---
apiVersion: v1
kind: Pod
metadata: {{name: $name-{host}, namespace: default, labels: {{app: $name, version: v{host}}}}}
spec: {{serviceAccountName: default, nodeName: node-a, containers: [{{name: c}}]}}
status:
  phase: Running
  podIP: 127.$n.{host}
  podIPs: [{{ip: 127.$n.{host}}}]
  conditions: [{{type: Ready, status: \"True\"}}]
"
    )
}

/// The destination rule of `$name` with a subset for each of these pods.
pub fn subsets(hosts: &[u8]) -> String {
    let subsets: Vec<_> = hosts.iter().map(|host| format!("{{name: v{host}, labels: {{version: v{host}}}}}")).collect();
    format!(
        "
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: $name, namespace: default}}
spec: {{host: $name, subsets: [{}]}}
",
        subsets.join(", ")
    )
}

/// A virtual service of `$name` with these rules for HTTP.
pub fn virtual_service(http: &str) -> String {
    virtual_service_with(&format!("  http:\n{http}"))
}

/// A virtual service of `$name` with these rules.
pub fn virtual_service_with(rules: &str) -> String {
    format!(
        "
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: $name, namespace: default}}
spec:
  hosts: [$name]
{rules}
"
    )
}

/// The answer to a GET.
pub async fn get(client: &Client, destination: &str, path: &str) -> Answer {
    get_with(client, destination, path, &[]).await
}

/// The answer to a GET with headers.
pub async fn get_with(client: &Client, destination: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    client.get(destination, path, headers).await.unwrap_or_else(|error| panic!("GET {path}: {error}"))
}

/// The status of a request.
pub async fn status(client: &Client, destination: &str, method: &str, path: &str, headers: &[(&str, &str)]) -> u16 {
    let answer = client.send(destination, request(method, path, headers)).await;
    answer.unwrap_or_else(|error| panic!("{method} {path}: {error}")).status.as_u16()
}

/// Who answers each of some requests, counted.
pub async fn count(
    client: &Client,
    destination: &str,
    requests: usize,
    headers: &[(&str, &str)],
) -> std::collections::BTreeMap<String, usize> {
    let mut counts = std::collections::BTreeMap::new();
    for _ in 0..requests {
        let answer = get_with(client, destination, "/", headers).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        *counts.entry(answer.who()).or_default() += 1;
    }
    counts
}
