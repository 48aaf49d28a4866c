//! Objects in a real Kubernetes API: written there by many workers at first,
//! then changed by the clock, while a watch of our own notes when a watcher
//! could know.
//!
//! It runs on threads of its own, so that a thousand clients that are all busy
//! do not delay the clock. All instants are of one clock, since all is one
//! process.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use fairway_integration_tests::api::Api;
use fairway_integration_tests::cluster::Cluster;
use fairway_integration_tests::runner;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::mesh::{Holder, Kind, Mesh};
use crate::progress::{Progress, say};
use crate::watch::Watch;
use crate::world::{Op, Timed};

/// How many requests are under way while the mesh is created.
const WORKERS: usize = 48;
/// How long the API server may take for what it was asked.
const PATIENCE: Duration = Duration::from_secs(30);

/// A throw-away Kubernetes API with a mesh in it.
pub struct Kube {
    cluster: Arc<Cluster>,
    /// Always there until this is dropped.
    runtime: Option<Runtime>,
}

impl Kube {
    /// Starts one and creates the mesh.
    pub async fn start(mesh: &Mesh) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        // What the tests stand on panics where it fails; here that is an error.
        let start = runtime.spawn(async {
            let cluster = Cluster::start_without_controllers().await;
            cluster.install_crds().await;
            Arc::new(cluster)
        });
        let cluster = match start.await {
            Ok(cluster) => cluster,
            Err(error) => {
                runtime.shutdown_background();
                return Err(anyhow!("no Kubernetes API (run `make controlplane`): {error}"));
            }
        };
        let kube = Self { cluster, runtime: Some(runtime) };
        kube.load(mesh).await?;
        Ok(kube)
    }

    fn runtime(&self) -> anyhow::Result<&Runtime> {
        self.runtime.as_ref().context("it is ending")
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.cluster.kubeconfig()
    }

    /// Plain access.
    pub fn api(&self) -> Api {
        self.cluster.api.clone()
    }

    async fn load(&self, mesh: &Mesh) -> anyhow::Result<()> {
        let accounts =
            (0..mesh.size.services).map(|at| mesh.account(at)).chain([("istio-system".into(), "ztunnel".into())]);
        let accounts: Vec<Value> = accounts
            .map(|(namespace, name)| {
                json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "namespace": namespace, "name": name } })
            })
            .collect();
        for kind in Kind::ALL {
            let count = kind.count(mesh.size);
            let texts: Vec<String> = (0..count).map(|at| mesh.object(kind, at)).collect();
            let objects = texts.into_iter().map(Source::Text).collect();
            self.create_all(&format!("creating {kind:?}s"), objects).await?;
            if kind == Kind::Namespace {
                let accounts = accounts.iter().cloned().map(Source::Value).collect();
                self.create_all("creating ServiceAccounts", accounts).await?;
            }
        }
        Ok(())
    }

    async fn create_all(&self, what: &str, objects: Vec<Source>) -> anyhow::Result<()> {
        let total = objects.len();
        let (objects, next, done) = (Arc::new(objects), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut workers = JoinSet::new();
        for _ in 0..WORKERS.min(total) {
            let (objects, next, done, api) = (objects.clone(), next.clone(), done.clone(), self.api());
            let worker = async move {
                while let Some(object) = objects.get(next.fetch_add(1, Ordering::Relaxed)) {
                    for value in object.values()? {
                        create(&api, value).await?;
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
                anyhow::Ok(())
            };
            workers.spawn_on(worker, self.runtime()?.handle());
        }
        let mut progress = Progress::start(what, total);
        while !workers.is_empty() {
            match tokio::time::timeout(Duration::from_millis(200), workers.join_next()).await {
                Ok(Some(ended)) => ended??,
                Ok(None) => break,
                Err(_) => progress.at(done.load(Ordering::Relaxed)),
            }
        }
        Ok(())
    }

    /// Makes changes by the clock, none waiting for another, and says when
    /// each was made and could be known.
    pub async fn play(&self, mesh: &Mesh, schedule: Vec<(Duration, Op)>) -> anyhow::Result<Vec<Timed>> {
        let handle = self.runtime()?.handle();
        let (api, watch) = (self.api(), Watch::start(self.api(), handle).await?);
        let writes: Vec<_> = schedule.iter().map(|(due, op)| (*due, Write::of(mesh, op))).collect();
        let pods: Vec<_> = schedule.iter().map(|(_, op)| op.pod()).collect();
        let begin = Instant::now() + Duration::from_millis(50);
        let made = handle.spawn(async move {
            let mut tasks = JoinSet::new();
            // Changes of one pod stay in order, however slow the API server is.
            let mut turns: HashMap<usize, Arc<tokio::sync::Mutex<()>>> = HashMap::new();
            for (number, (due, write)) in writes.into_iter().enumerate() {
                tokio::time::sleep_until((begin + due).into()).await;
                let (api, turn) = (api.clone(), turns.entry(pods[number]).or_default().clone());
                tasks.spawn(async move {
                    let _turn = turn.lock().await;
                    write.make(&api).await.map(|()| (number, Instant::now()))
                });
            }
            let mut answered = HashMap::new();
            while let Some(done) = tasks.join_next().await {
                let (number, at) = done??;
                answered.insert(number, at);
            }
            anyhow::Ok(answered)
        });
        let limit = schedule.last().map_or(Duration::ZERO, |(due, _)| *due) + PATIENCE;
        let answered = tokio::time::timeout(limit, made).await.context("the API server is too slow")???;
        let mut timed = Vec::new();
        for (number, (due, op)) in schedule.into_iter().enumerate() {
            let (_, pod) = mesh.pod_name(op.pod());
            let seen = watch.when(&pod, begin, |seen| op.is(seen)).await?;
            let answered = *answered.get(&number).context("a change without an answer")?;
            timed.push(Timed { due: begin + due, answered, seen: Some(seen), op });
        }
        if watch.restarts() > 0 {
            // A control plane beside it was probably treated the same.
            say(&format!("  the API server ended our watch {} times", watch.restarts()));
        }
        Ok(timed)
    }

    /// A token of a pod, as a kubelet has it made.
    pub async fn token(&self, holder: &Holder) -> anyhow::Result<String> {
        let (cluster, namespace) = (self.cluster.clone(), holder.namespace.clone());
        let (account, pod) = (holder.service_account.clone(), holder.pod.clone());
        let token = self.runtime()?.spawn(async move {
            let pod = cluster.api.get("v1", "Pod", &namespace, &pod).await.map_err(|refused| anyhow!("{refused:?}"))?;
            anyhow::Ok(cluster.token(&namespace, &account, &["istio-ca"], Some(&pod), 3600).await)
        });
        token.await.context("no token")?
    }

    /// The root that the control plane has published, perhaps a while after
    /// its start: publishing is a leader's business.
    pub async fn root(&self) -> anyhow::Result<String> {
        let deadline = Instant::now() + 2 * PATIENCE;
        loop {
            match self.cluster.api.get("v1", "ConfigMap", "istio-system", "istio-ca-root-cert").await {
                Ok(map) => {
                    let root = map["data"]["root-cert.pem"].as_str().context("the root ConfigMap has no root")?;
                    return Ok(root.to_string());
                }
                Err(refused) if Instant::now() > deadline => {
                    return Err(anyhow!("no root is published: {}", refused.message));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// All objects of a kind as the API server encodes them, over a connection
    /// of its own, and the seconds until they were here.
    pub async fn list(&self, kind: &str, media: &'static str) -> anyhow::Result<(f64, Vec<u8>)> {
        let (api, path) = (self.api(), format!("/api/v1/{kind}?resourceVersion=0"));
        let read = self.runtime()?.spawn(async move {
            let started = Instant::now();
            let answer = api.apart().stream_as(&path, media).await;
            let mut body = answer.map_err(|refused| anyhow!("{refused:?}"))?;
            let mut bytes = Vec::new();
            while let Some(frame) = body.frame().await {
                if let Ok(data) = frame?.into_data() {
                    bytes.extend_from_slice(&data);
                }
            }
            anyhow::Ok((started.elapsed().as_secs_f64(), bytes))
        });
        tokio::time::timeout(2 * PATIENCE, read).await.context("the API server is too slow")??
    }
}

impl Drop for Kube {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        // Keys and data of the cluster; nothing in them outlives it.
        let _ = std::fs::remove_dir_all(runner::folder());
    }
}

/// An object that is still to be read, or is not.
enum Source {
    Text(String),
    Value(Value),
}

impl Source {
    fn values(&self) -> anyhow::Result<Vec<Value>> {
        match self {
            Self::Value(value) => Ok(vec![value.clone()]),
            Self::Text(text) => text.split("---\n").map(|text| Ok(serde_saphyr::from_str(text)?)).collect(),
        }
    }
}

/// Creates an object, and its status as well if it is a pod.
async fn create(api: &Api, mut object: Value) -> anyhow::Result<()> {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for field in ["uid", "resourceVersion", "creationTimestamp", "generateName"] {
            metadata.remove(field);
        }
    }
    let status = object["status"].take();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    let is_pod = object["kind"] == "Pod";
    if let Err(refused) = api.create(object.clone()).await {
        ensure!(refused.code == 409, "{}", refused.message);
    }
    if is_pod {
        api.patch_status(&object, status).await.map_err(|refused| anyhow!(refused.message))?;
    }
    Ok(())
}

/// A change as requests.
enum Write {
    Create(Box<Value>),
    Patch { path: String, patch: Value },
    Delete { path: String, grace: u32 },
}

impl Write {
    fn of(mesh: &Mesh, op: &Op) -> Self {
        let (namespace, name) = mesh.pod_name(op.pod());
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        match op {
            Op::Revise { revision, .. } => {
                let patch = json!({ "metadata": { "labels": { "app.kubernetes.io/version": revision } } });
                Self::Patch { path, patch }
            }
            Op::Create { pod } => {
                let text = mesh.new_pod_object(*pod);
                // It was made here, and is YAML.
                Self::Create(Box::new(serde_saphyr::from_str(&text).unwrap_or_default()))
            }
            Op::Ready { .. } => {
                let conditions = json!([{ "type": "Ready", "status": "True" }]);
                Self::Patch { path: path + "/status", patch: json!({ "status": { "conditions": conditions } }) }
            }
            Op::Terminate { .. } => Self::Delete { path, grace: 30 },
            Op::Remove { .. } => Self::Delete { path, grace: 0 },
        }
    }

    async fn make(self, api: &Api) -> anyhow::Result<()> {
        let answer = match self {
            Self::Create(object) => return create(api, *object).await,
            Self::Patch { path, patch } => {
                api.exchange("PATCH", &path, "application/merge-patch+json", Some(patch)).await
            }
            Self::Delete { path, grace } => {
                let options = json!({ "apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": grace });
                api.exchange("DELETE", &path, "application/json", Some(options)).await
            }
        };
        answer.map(|_| ()).map_err(|refused| anyhow!(refused.message))
    }
}

/// All pieces of an answer that does not end, as lines.
pub async fn lines(mut body: tonic::body::Body, mut line: impl FnMut(&[u8])) {
    let mut rest: Vec<u8> = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        rest.extend_from_slice(&data);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            line(&rest[..end]);
            rest.drain(..=end);
        }
    }
}
