//! A throw-away Kubernetes API on loopback: etcd, kube-apiserver and
//! kube-controller-manager, without nodes or kubelets. The flags and the
//! reasons for them are in `controlplane/README.md`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::api::Api;
use crate::child::{Child, free_address};
use crate::{eventually, runner};

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Only what a service mesh leans on, and nothing that judges nodes.
const CONTROLLERS: &str = "deployment-controller,endpointslice-controller,garbage-collector-controller,\
                           namespace-controller,replicaset-controller,root-ca-certificate-publisher-controller,\
                           serviceaccount-controller";
/// What else makes pods, for a cluster in which they run.
const WORKLOAD_CONTROLLERS: &str = "daemonset-controller,job-controller,statefulset-controller";

/// Where the repository is.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().into()
}

/// What a tool's variable names, or the place where `make` puts it.
pub fn tool(variable: &str, default: &str) -> PathBuf {
    let path = std::env::var_os(variable).map_or_else(|| repository().join(default), PathBuf::from);
    assert!(path.exists(), "{} is missing: run `make controlplane envoy binary`, or set {variable}", path.display());
    path
}

/// Where a cluster is.
#[derive(Clone, Copy)]
enum Place {
    /// On loopback, where nobody but the tests finds it.
    Loopback,
    /// At an address that pods can reach, and that the Service `kubernetes`
    /// leads to.
    Address(Ipv4Addr),
}

impl Place {
    fn ip(self) -> IpAddr {
        match self {
            Self::Loopback => Ipv4Addr::LOCALHOST.into(),
            Self::Address(ip) => ip.into(),
        }
    }
}

/// Which of the Gateway API's CRDs are installed.
/// <https://gateway-api.sigs.k8s.io/concepts/versioning/#release-channels>
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Those that most clusters have.
    Standard,
    /// With fields and kinds that may yet change.
    Experimental,
}

/// One Kubernetes API.
pub struct Cluster {
    /// The administrator's access (group `system:masters`).
    pub api: Api,
    folder: PathBuf,
    place: Place,
    etcd: SocketAddr,
    address: SocketAddr,
    // In the order they were started.
    children: Mutex<Vec<(&'static str, Child)>>,
}

impl Cluster {
    /// Starts one with the CRDs of Istio and of the Gateway API.
    pub async fn start() -> Self {
        let cluster = Self::start_without_crds().await;
        cluster.install_crds().await;
        cluster
    }

    /// The same at an address that pods can reach, with the controllers of all
    /// that makes pods: for a cluster in which pods run.
    pub async fn start_for_pods(ip: Ipv4Addr, channel: Channel) -> Self {
        let cluster = Self::start_at(Place::Address(ip)).await;
        cluster.start_controllers(&format!("{CONTROLLERS},{WORKLOAD_CONTROLLERS}")).await;
        cluster.install_crds_of(channel).await;
        cluster
    }

    /// Starts one that knows Kubernetes' own kinds only.
    pub async fn start_without_crds() -> Self {
        let cluster = Self::start_without_controllers().await;
        cluster.start_controllers(CONTROLLERS).await;
        cluster
    }

    /// Starts one in which nothing happens by itself: no controllers, no CRDs.
    pub async fn start_without_controllers() -> Self {
        Self::start_at(Place::Loopback).await
    }

    async fn start_at(place: Place) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let folder = runner::folder().join(format!("cluster-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir_all(&folder).unwrap();
        let (etcd, address) = (free_address(), SocketAddr::new(place.ip(), free_address().port()));
        let token = format!("{:x}-{:x}", std::process::id(), address.port());
        make_keys(&folder, &token);
        write_audit_policy(&folder);
        let mut children = vec![("etcd", start_etcd(&folder, etcd))];
        children.push(("kube-apiserver", start_apiserver(&folder, etcd, place, address)));
        let certificate = folder.join("apiserver/apiserver.crt");
        eventually("the API server's certificate", || async {
            children.iter().for_each(|(_, child)| child.assert_running());
            std::fs::read_to_string(&certificate)
                .map(|text| text.contains("END CERTIFICATE"))
                .map_err(|e| e.to_string())?
                .then_some(())
                .ok_or_else(|| "incomplete".to_string())
        })
        .await;
        write_kubeconfig(&folder.join("admin.kubeconfig"), &certificate, address, &json!({ "token": token }));
        let api = Api::new(address, std::fs::read_to_string(&certificate).unwrap(), &token);
        let cluster = Self { api, folder, place, etcd, address, children: Mutex::new(children) };
        cluster.until_ready().await;
        cluster
            .api
            .apply(json!({
                "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "istio-system" },
            }))
            .await;
        cluster
    }

    /// Starts what leads connections to the addresses of Services to their
    /// endpoints, as a node that must be there.
    pub fn start_kube_proxy(&self, node: &str, pods: &str) {
        let arguments = [
            format!("--kubeconfig={}", self.kubeconfig().display()),
            format!("--hostname-override={node}"),
            format!("--cluster-cidr={pods}"),
            "--proxy-mode=nftables".into(),
            // Limits of the machine, which are not ours to set.
            "--conntrack-max-per-core=0".into(),
            "--conntrack-min=0".into(),
            "--conntrack-tcp-timeout-established=0s".into(),
            "--conntrack-tcp-timeout-close-wait=0s".into(),
            format!("--healthz-bind-address={}", free_address()),
            format!("--metrics-bind-address={}", free_address()),
        ];
        self.start_component("kube-proxy", &arguments);
    }

    /// Starts what kubectl's exec, logs and port-forward talk to, for the pods of
    /// a folder, at a node's address.
    pub fn start_kubelet_streaming(&self, address: SocketAddr, folder: &Path) {
        let arguments = [format!("--address={address}"), format!("--folder={}", folder.display())];
        self.start_component("kubelet-streaming", &arguments);
    }

    fn start_component(&self, name: &'static str, arguments: &[String]) {
        let mut command = Command::new(controlplane());
        command.arg(name).args(arguments);
        let child = Child::start(name, &mut command, &self.folder.join(format!("{name}.log")));
        self.children.lock().unwrap().push((name, child));
    }

    /// Panics if a part of it has ended.
    pub fn assert_running(&self) {
        self.children.lock().unwrap().iter().for_each(|(_, child)| child.assert_running());
    }

    async fn start_controllers(&self, controllers: &str) {
        let arguments = [
            format!("--kubeconfig={}", self.kubeconfig().display()),
            format!("--controllers={controllers}"),
            "--use-service-account-credentials=true".into(),
            format!("--service-account-private-key-file={}", self.folder.join("service-account.key").display()),
            format!("--root-ca-file={}", self.certificate().display()),
            "--leader-elect=false".into(),
            "--secure-port=0".into(),
        ];
        self.start_component("kube-controller-manager", &arguments);
        eventually("the controllers", || self.api.get("v1", "ServiceAccount", "default", "default")).await;
    }

    /// Installs the CRDs and waits until they are served.
    pub async fn install_crds(&self) {
        self.install_crds_of(Channel::Standard).await;
    }

    async fn install_crds_of(&self, channel: Channel) {
        let crds = tool("FAIRWAY_CRDS", ".cache/crds");
        let gateway_api = match channel {
            Channel::Standard => "gateway-api",
            Channel::Experimental => "gateway-api-experimental",
        };
        for folder in ["istio", gateway_api] {
            let folder = crds.join(folder).display().to_string();
            self.kubectl(&["apply", "--server-side", "-f", &folder]).await;
        }
        self.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]).await;
    }

    /// Runs kubectl as the administrator.
    pub async fn kubectl(&self, arguments: &[&str]) -> String {
        self.kubectl_with(arguments, "").await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// The same with an input. What it says against it is returned.
    pub async fn kubectl_with(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        let mut command = tokio::process::Command::new(tool("FAIRWAY_KUBECTL", ".cache/bin/kubectl"));
        command.arg("--kubeconfig").arg(self.folder.join("admin.kubeconfig"));
        command.arg("--cache-dir").arg(self.folder.join("kubectl")).args(arguments);
        let pipe = std::process::Stdio::piped;
        let mut child = command.stdin(pipe()).stdout(pipe()).stderr(pipe()).kill_on_drop(true).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // It may end without having read it all.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut stdin, input.as_bytes()).await;
        drop(stdin);
        let output = child.wait_with_output().await.unwrap();
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(format!("kubectl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr))),
        }
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("admin.kubeconfig")
    }

    /// The key, in PEM, with which the API server signs tokens.
    pub fn service_account_key(&self) -> Vec<u8> {
        std::fs::read(self.folder.join("service-account.key")).unwrap()
    }

    /// A kubeconfig that acts as a ServiceAccount, with its rights.
    pub async fn kubeconfig_of(&self, namespace: &str, account: &str) -> PathBuf {
        let token = self.token(namespace, account, &[], None, 3600).await;
        let path = self.folder.join(format!("{namespace}-{account}.kubeconfig"));
        write_kubeconfig(&path, &self.certificate(), self.address, &json!({ "token": token }));
        path
    }

    /// A token of a ServiceAccount, bound to a pod (the object) or not, as
    /// kubelets have them made.
    pub async fn token(
        &self,
        namespace: &str,
        account: &str,
        audiences: &[&str],
        pod: Option<&Value>,
        seconds: u32,
    ) -> String {
        let mut spec = json!({ "expirationSeconds": seconds, "audiences": audiences });
        if let Some(pod) = pod {
            let metadata = &pod["metadata"];
            spec["boundObjectRef"] =
                json!({ "kind": "Pod", "apiVersion": "v1", "name": metadata["name"], "uid": metadata["uid"] });
        }
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let request = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec });
        let answer = self.api.request("POST", &path, Some(request)).await.unwrap();
        answer["status"]["token"].as_str().unwrap().into()
    }

    /// Ends the API server at once, as a crash does. etcd keeps its data.
    pub async fn kill_apiserver(&self) {
        let apiserver = self.take("kube-apiserver").expect("the API server runs");
        apiserver.kill().await;
    }

    /// Starts the API server again, on the same port and data.
    pub async fn start_apiserver(&self) {
        let apiserver = start_apiserver(&self.folder, self.etcd, self.place, self.address);
        self.children.lock().unwrap().insert(1, ("kube-apiserver", apiserver));
        self.until_ready().await;
    }

    /// Ends the API server and what it stores in, keeps a copy of what is stored
    /// under a name, and starts both again.
    pub async fn keep_storage(&self, name: &str) {
        self.with_storage_stopped(|data| copy(data, &data.with_file_name(name))).await;
    }

    /// Ends both, has the API server go on with what was kept under a name, and
    /// starts both again.
    pub async fn restore_storage(&self, name: &str) {
        self.with_storage_stopped(|data| {
            std::fs::remove_dir_all(data).unwrap();
            copy(&data.with_file_name(name), data);
        })
        .await;
    }

    async fn with_storage_stopped(&self, change: impl FnOnce(&Path)) {
        self.kill_apiserver().await;
        self.take("etcd").expect("etcd runs").kill().await;
        change(&self.folder.join("etcd"));
        self.children.lock().unwrap().insert(0, ("etcd", start_etcd(&self.folder, self.etcd)));
        self.start_apiserver().await;
    }

    /// What was written, by whom, in order: audit events.
    /// <https://kubernetes.io/docs/reference/config-api/apiserver-audit.v1/>
    pub fn writes(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder.join("audit.log")).unwrap_or_default();
        // The last line may be being written.
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Ends everything, users of etcd first.
    pub async fn stop(&self) {
        let children: Vec<_> = self.children.lock().unwrap().drain(..).collect();
        for (_, child) in children.into_iter().rev() {
            // Nothing here is worth a graceful end: the data is thrown away.
            child.kill().await;
        }
    }

    async fn until_ready(&self) {
        eventually("the API server", || self.api.request_text("GET", "/readyz")).await;
    }

    fn take(&self, name: &str) -> Option<Child> {
        let mut children = self.children.lock().unwrap();
        let at = children.iter().position(|(other, _)| *other == name)?;
        Some(children.remove(at).1)
    }

    fn certificate(&self) -> PathBuf {
        self.folder.join("apiserver/apiserver.crt")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Users of etcd before etcd.
        while self.children.get_mut().unwrap().pop().is_some() {}
    }
}

fn controlplane() -> PathBuf {
    tool("FAIRWAY_CONTROLPLANE", ".cache/bin/controlplane")
}

/// Copies a folder.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// Writes only, and of those what they are of.
fn write_audit_policy(folder: &Path) {
    let policy = json!({
        "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
        "rules": [
            { "level": "None", "verbs": ["get", "list", "watch"] },
            { "level": "None", "users": ["system:apiserver"] },
            { "level": "Metadata" },
        ],
    });
    std::fs::write(folder.join("audit-policy.json"), policy.to_string()).unwrap();
}

fn make_keys(folder: &Path, token: &str) {
    let key = openssl::pkey::PKey::from_rsa(openssl::rsa::Rsa::generate(2048).unwrap()).unwrap();
    std::fs::write(folder.join("service-account.key"), key.private_key_to_pem_pkcs8().unwrap()).unwrap();
    std::fs::write(folder.join("service-account.pub"), key.public_key_to_pem().unwrap()).unwrap();
    std::fs::write(folder.join("tokens.csv"), format!("{token},admin,admin,\"system:masters\"\n")).unwrap();
}

fn write_kubeconfig(path: &Path, certificate: &Path, address: SocketAddr, user: &Value) {
    // JSON is YAML, and needs no indentation.
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "test", "cluster": {
            "server": format!("https://{address}"), "certificate-authority": certificate,
        } }],
        "users": [{ "name": "test", "user": user }],
        "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
        "current-context": "test",
    });
    std::fs::write(path, config.to_string()).unwrap();
}

fn start_etcd(folder: &Path, client: SocketAddr) -> Child {
    let peer = free_address();
    let mut etcd = Command::new(controlplane());
    etcd.args([
        "etcd".into(),
        format!("--data-dir={}", folder.join("etcd").display()),
        format!("--listen-client-urls=http://{client}"),
        format!("--advertise-client-urls=http://{client}"),
        format!("--listen-peer-urls=http://{peer}"),
        format!("--initial-advertise-peer-urls=http://{peer}"),
        format!("--initial-cluster=default=http://{peer}"),
        "--unsafe-no-fsync".into(),
        "--log-level=warn".into(),
    ]);
    Child::start("etcd", &mut etcd, &folder.join("etcd.log"))
}

fn start_apiserver(folder: &Path, etcd: SocketAddr, place: Place, address: SocketAddr) -> Child {
    // Nothing on loopback may be an endpoint.
    let reconciler = match place {
        Place::Loopback => "none",
        Place::Address(_) => "lease",
    };
    let mut apiserver = Command::new(controlplane());
    apiserver.args([
        "kube-apiserver".into(),
        format!("--etcd-servers=http://{etcd}"),
        format!("--bind-address={}", address.ip()),
        format!("--advertise-address={}", address.ip()),
        format!("--secure-port={}", address.port()),
        format!("--cert-dir={}", folder.join("apiserver").display()),
        format!("--endpoint-reconciler-type={reconciler}"),
        "--service-cluster-ip-range=10.96.0.0/16".into(),
        "--authorization-mode=Node,RBAC".into(),
        format!("--token-auth-file={}", folder.join("tokens.csv").display()),
        format!("--service-account-issuer={ISSUER}"),
        format!("--api-audiences={ISSUER}"),
        format!("--service-account-signing-key-file={}", folder.join("service-account.key").display()),
        format!("--service-account-key-file={}", folder.join("service-account.pub").display()),
        format!("--audit-policy-file={}", folder.join("audit-policy.json").display()),
        format!("--audit-log-path={}", folder.join("audit.log").display()),
        "--allow-privileged=true".into(),
        "--profiling=false".into(),
    ]);
    Child::start("kube-apiserver", &mut apiserver, &folder.join("kube-apiserver.log"))
}
