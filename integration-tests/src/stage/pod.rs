//! The life of a pod on its node: from its volumes to its last status.
//! <https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/>

mod status;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::fields::expand;
use super::image::{self, Image, Runs};
use super::network::PodNetwork;
use super::probe::Probe;
use super::sandbox::{Container, Pause, Plan};
use super::volumes::Volumes;
use super::ztunnel::{Captured, NodeProxy};
use super::{Node, World};
use crate::kubelet::pod_ip;
use crate::watch::Object;
use status::Reporter;

/// How often a pod is looked at. What it is waited for does not announce
/// itself: ends of processes, probes that are due.
const INTERVAL: Duration = Duration::from_millis(100);
/// How often volumes are looked at once a pod runs.
const VOLUMES: Duration = Duration::from_secs(1);
/// How long a container that failed waits to be started again, at first. With
/// kubelets it is ten times as long.
const BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// What the CNI agent says of a pod it has redirected.
const REDIRECTION: &str = "ambient.istio.io/redirection";
const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";

/// What is running of a container.
#[derive(Clone)]
enum Running {
    Process(Arc<Container>),
    Ztunnel(Arc<NodeProxy>),
}

enum State {
    /// With the reason and a message.
    Waiting(&'static str, String),
    Running(Running, String),
    /// With the exit code, and when it began and ended.
    Terminated(i32, String, String),
}

/// A container of a pod.
struct One {
    spec: Value,
    state: State,
    /// How it ended the time before.
    last: Option<Value>,
    restarts: u32,
    again: Instant,
    startup: Option<Probe>,
    readiness: Option<Probe>,
    liveness: Option<Probe>,
}

struct Life {
    world: Arc<World>,
    node: Node,
    pod: Object,
    folder: PathBuf,
    volumes: Volumes,
    volumes_due: Instant,
    ip: Option<Ipv4Addr>,
    // In this order: the redirection, then the processes, then the network.
    captured: Option<Captured>,
    redirected: bool,
    containers: Vec<One>,
    network: Option<PodNetwork>,
    pause: Option<Pause>,
    reporter: Reporter,
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Runs a pod that was given to a node, until it is gone.
pub(super) async fn live(world: Arc<World>, node: Node, pod: Object) {
    let text = |name: &str| pod["metadata"][name].as_str().unwrap_or_default();
    let (name, namespace, uid) = (text("name"), text("namespace"), text("uid"));
    let folder = world.folder.join(format!("{namespace}.{name}.{}", &uid[..uid.len().min(8)]));
    std::fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let containers = containers.map(|spec| One {
        spec: spec.clone(),
        state: State::Waiting("ContainerCreating", String::new()),
        last: None,
        restarts: 0,
        again: Instant::now(),
        startup: None,
        readiness: None,
        liveness: None,
    });
    let mut life = Life {
        volumes: Volumes::new(&folder, world.sources.clone()),
        volumes_due: Instant::now(),
        ip: None,
        captured: None,
        redirected: false,
        containers: containers.collect(),
        network: None,
        pause: None,
        reporter: Reporter::new(node.ip),
        pod: pod.clone(),
        world,
        node,
        folder,
    };
    while life.is_there() {
        if !life.pod["metadata"]["deletionTimestamp"].is_null() {
            life.end().await;
            break;
        }
        life.step().await;
        life.report().await;
        tokio::time::sleep(INTERVAL).await;
    }
    life.forget();
}

impl Life {
    fn key(&self) -> String {
        let text = |name: &str| self.pod["metadata"][name].as_str().unwrap_or_default();
        format!("{}/{}", text("namespace"), text("name"))
    }

    fn namespace(&self) -> &str {
        self.pod["metadata"]["namespace"].as_str().unwrap_or_default()
    }

    fn name(&self) -> &str {
        self.pod["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// Whether it is still there, and not another of its name; as it is now.
    fn is_there(&mut self) -> bool {
        let there = self.world.pods.get(self.namespace(), self.name());
        match there.filter(|pod| pod["metadata"]["uid"] == self.pod["metadata"]["uid"]) {
            Some(pod) => {
                self.pod = pod;
                true
            }
            None => false,
        }
    }

    /// All that is due now.
    async fn step(&mut self) {
        if Instant::now() >= self.volumes_due || self.pause.is_none() {
            let pod = self.pod.clone();
            if let Err(reason) = self.volumes.update(&pod).await
                && self.pause.is_none()
            {
                return self.wait("ContainerCreating", &reason);
            }
            self.volumes_due = Instant::now() + VOLUMES;
        }
        if self.pause.is_none() {
            if let Some(unknown) = unknown(&self.pod) {
                return self.wait("CreateContainerConfigError", unknown);
            }
            // Istio's CNI plugin has no pod begin that could not be captured.
            if self.to_be_captured() && self.world.ztunnel(&self.node.name).is_none() {
                return self.wait("ContainerCreating", "no ztunnel on the node");
            }
            if let Err(reason) = self.join().await {
                return self.wait("ContainerCreating", &reason);
            }
        }
        self.capture().await;
        for at in 0..self.containers.len() {
            self.step_container(at).await;
        }
    }

    fn wait(&mut self, reason: &'static str, message: &str) {
        for one in &mut self.containers {
            one.state = State::Waiting(reason, message.into());
        }
    }

    async fn join(&mut self) -> Result<(), String> {
        let pause = Pause::start(&self.folder).await;
        let ip = pod_ip().parse().map_err(|_| "no address")?;
        self.network = Some(PodNetwork::join(pause.process(), self.node.ip, ip).await?);
        (self.ip, self.pause) = (Some(ip), Some(pause));
        // The downward API knows the address from here on.
        self.report().await;
        Ok(())
    }

    /// The pod as it will be when its last status has come back.
    fn with_addresses(&self) -> Value {
        let mut pod = (*self.pod).clone();
        let ip = self.ip.map(|ip| ip.to_string());
        pod["status"]["podIP"] = json!(ip);
        pod["status"]["hostIP"] = json!(self.node.ip);
        pod
    }

    async fn step_container(&mut self, at: usize) {
        let pod = self.with_addresses();
        let Some(ip) = self.ip else { return };
        match &self.containers[at].state {
            State::Waiting(..) if Instant::now() >= self.containers[at].again => match self.start(&pod, at).await {
                Ok(running) => self.world.note(&format!("{} {} starts", self.key(), running.name())),
                Err((reason, message)) => self.containers[at].state = State::Waiting(reason, message),
            },
            State::Waiting(..) | State::Terminated(..) => {}
            State::Running(running, since) => {
                let (running, since) = (running.clone(), since.clone());
                let Running::Process(process) = running else { return };
                if let Some(code) = process.ended() {
                    return self.ended(at, code, since);
                }
                let One { spec, startup, readiness, liveness, .. } = &mut self.containers[at];
                if let Some(probe) = startup.as_mut().filter(|probe| probe.result != Some(true)) {
                    probe.look(&pod, spec, &process, ip).await;
                    if probe.result == Some(false) {
                        process.kill();
                    }
                    return;
                }
                for probe in [readiness, liveness].into_iter().flatten() {
                    probe.look(&pod, spec, &process, ip).await;
                }
                if self.containers[at].liveness.as_ref().is_some_and(|probe| probe.result == Some(false)) {
                    process.kill();
                }
            }
        }
    }

    async fn start(&mut self, pod: &Value, at: usize) -> Result<Running, (&'static str, String)> {
        let one = &self.containers[at];
        let text = |name: &str| one.spec[name].as_str().unwrap_or_default();
        let wrong = |message: String| ("CreateContainerConfigError", message);
        let image = image::find(text("image"));
        let image = image.ok_or_else(|| ("ErrImagePull", format!("{:?} is no image of the stage", text("image"))))?;
        if let Some(file) = image.missing() {
            return Err(("ErrImagePull", format!("{} is missing", file.display())));
        }
        let running = match image.runs {
            Runs::Process => Running::Process(Arc::new(self.start_process(pod, at, image).await.map_err(wrong)?)),
            Runs::Ztunnel => Running::Ztunnel(self.start_ztunnel(pod).await.map_err(wrong)?),
        };
        let one = &mut self.containers[at];
        [one.startup, one.readiness, one.liveness] =
            ["startupProbe", "readinessProbe", "livenessProbe"].map(|name| Probe::of(&one.spec, name));
        one.state = State::Running(running.clone(), now());
        if let Running::Process(process) = &running {
            let name = one.spec["name"].as_str().unwrap_or_default().to_owned();
            self.world.running.lock().unwrap().entry(self.key()).or_default().insert(name, process.clone());
        }
        Ok(running)
    }

    async fn start_process(&self, pod: &Value, at: usize, image: &'static Image) -> Result<Container, String> {
        let spec = &self.containers[at].spec;
        let name = spec["name"].as_str().unwrap_or_default();
        let folder = self.folder.join(name);
        std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let kubernetes = self.world.services.get("default", "kubernetes").ok_or("no Service kubernetes yet")?;
        let before = [
            ("PATH", "/app:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("HOSTNAME", self.name()),
            ("KUBERNETES_SERVICE_HOST", kubernetes["spec"]["clusterIP"].as_str().unwrap_or_default()),
            ("KUBERNETES_SERVICE_PORT", "443"),
        ];
        let before = before.iter().chain(image.environment).map(|(name, value)| (name.to_string(), value.to_string()));
        let environment = self.world.sources.environment(pod, spec, before.collect())?;
        let list = |name: &str| {
            let words = spec[name].as_array().into_iter().flatten().filter_map(Value::as_str);
            words.map(|word| expand(word, &environment)).collect::<Vec<_>>()
        };
        let own = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        // A command replaces the image's own arguments too.
        let (entrypoint, arguments) = match (list("command"), list("args")) {
            (entrypoint, arguments) if !entrypoint.is_empty() => (entrypoint, arguments),
            (_, arguments) if !arguments.is_empty() => (own(image.entrypoint), arguments),
            _ => (own(image.entrypoint), own(image.command)),
        };
        let plan = Plan {
            name: &format!("{}/{name}", self.key()),
            pod: self.name(),
            pod_ip: self.ip.map(|ip| ip.to_string()).unwrap_or_default(),
            image,
            command: [entrypoint, arguments].concat(),
            environment,
            mounts: self.volumes.mounts(pod, spec),
            namespace: self.namespace(),
        };
        let pause = self.pause.as_ref().ok_or("no network")?.process();
        Container::start(&plan, pause, &folder).await.map_err(|error| error.to_string())
    }

    async fn start_ztunnel(&mut self, pod: &Value) -> Result<Arc<NodeProxy>, String> {
        let roots = self.world.sources.config_maps.get(self.namespace(), "istio-ca-root-cert");
        let roots = roots.and_then(|map| map["data"]["root-cert.pem"].as_str().map(String::from));
        let istiod = self.world.services.get(self.namespace(), "istiod");
        let istiod = istiod.and_then(|service| service["spec"]["clusterIP"].as_str()?.parse::<Ipv4Addr>().ok());
        let token = self.volumes.token(pod, "istio-ca", 43_200).await?;
        let proxy = NodeProxy::start(
            &self.node.name,
            (istiod.ok_or("no Service istiod")?, 15012).into(),
            roots.ok_or("no root certificate")?,
            token,
        );
        let proxy = Arc::new(proxy);
        self.world.ztunnels.lock().unwrap().insert(self.node.name.clone(), proxy.clone());
        Ok(proxy)
    }

    fn ended(&mut self, at: usize, code: i32, since: String) {
        self.world.note(&format!("{} ends with {code}", self.key()));
        let policy = self.pod["spec"]["restartPolicy"].as_str().unwrap_or("Always");
        let one = &mut self.containers[at];
        (one.startup, one.readiness, one.liveness) = (None, None, None);
        if policy == "Never" || policy == "OnFailure" && code == 0 {
            one.state = State::Terminated(code, since, now());
            return;
        }
        one.last = Some(json!({ "terminated": status::terminated(code, &since, &now()) }));
        let wait = (BACKOFF * 2_u32.saturating_pow(one.restarts)).min(LONGEST_BACKOFF);
        one.again = Instant::now() + wait;
        one.restarts += 1;
        one.state = State::Waiting("CrashLoopBackOff", format!("it ended with {code}"));
    }

    /// Whether its traffic is to go through its node's ztunnel.
    fn to_be_captured(&self) -> bool {
        let namespace = self.world.namespaces.get("", self.namespace());
        let of_namespace = namespace.is_some_and(|it| it["metadata"]["labels"][DATAPLANE_MODE] == "ambient");
        match self.pod["metadata"]["labels"][DATAPLANE_MODE].as_str() {
            Some("ambient") => true,
            Some("none") => false,
            _ => of_namespace,
        }
    }

    /// Captures it, or lets it go, as Istio's CNI agent does.
    async fn capture(&mut self) {
        let Some(network) = self.network.clone() else { return };
        let ztunnel = self.world.ztunnel(&self.node.name);
        if self.captured.as_ref().is_some_and(|captured| ztunnel.as_ref().is_none_or(|it| !captured.is_by(it))) {
            self.captured = None;
        }
        let done = match (self.to_be_captured(), ztunnel) {
            (true, Some(ztunnel)) if self.captured.is_none() => self.hand_over(&ztunnel, &network).await,
            (false, _) if self.redirected => self.take_back(&network).await,
            _ => Ok(()),
        };
        if let Err(error) = done {
            self.world.note(&format!("{} cannot be captured: {error}", self.key()));
        }
        let said = self.pod["metadata"]["annotations"][REDIRECTION] == "enabled";
        if said != self.redirected {
            let value = if self.redirected { json!("enabled") } else { Value::Null };
            let patch = json!({ "metadata": { "annotations": { REDIRECTION: value } } });
            // A pod that is gone meanwhile needs none.
            let _ = self.world.api.try_patch(&self.pod, patch).await;
        }
    }

    async fn hand_over(&mut self, ztunnel: &Arc<NodeProxy>, network: &PodNetwork) -> Result<(), String> {
        let key = (self.namespace().to_owned(), self.name().to_owned());
        self.captured = Some(NodeProxy::capture(ztunnel, key, network).await.map_err(|error| error.to_string())?);
        if !self.redirected {
            network.redirect().await?;
            self.redirected = true;
        }
        self.world.note(&format!("{} is captured", self.key()));
        Ok(())
    }

    async fn take_back(&mut self, network: &PodNetwork) -> Result<(), String> {
        self.redirected = false;
        let done = network.leave_alone().await;
        self.captured = None;
        self.world.note(&format!("{} is no longer captured", self.key()));
        done
    }

    async fn report(&mut self) {
        let status = self.reporter.status(&self.pod, self.ip, &self.containers);
        if let Some(status) = status
            && self.world.api.patch_status(&self.pod, status.clone()).await.is_ok()
        {
            self.reporter.sent(status);
        }
    }

    /// Ends it with the grace it is given, and says how it ended.
    async fn end(&mut self) {
        let grace = self.pod["metadata"]["deletionGracePeriodSeconds"].as_u64().unwrap_or(30);
        let deadline = Instant::now() + Duration::from_secs(grace);
        self.world.note(&format!("{} is to end within {grace} s", self.key()));
        for one in &self.containers {
            if let State::Running(Running::Process(process), _) = &one.state {
                process.terminate();
            }
        }
        loop {
            let mut all = true;
            for one in &mut self.containers {
                let State::Running(running, since) = &one.state else { continue };
                let code = match running {
                    Running::Ztunnel(_) => Some(0),
                    Running::Process(process) => {
                        if Instant::now() >= deadline {
                            process.kill();
                        }
                        process.ended()
                    }
                };
                match code {
                    Some(code) => one.state = State::Terminated(code, since.clone(), now()),
                    None => all = false,
                }
            }
            if all {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.report().await;
        let _ = self.world.api.delete_ended(&self.pod).await;
    }

    /// Takes back what others know of it.
    fn forget(&self) {
        self.world.running.lock().unwrap().remove(&self.key());
        for one in &self.containers {
            if let (State::Running(Running::Ztunnel(_), _) | State::Terminated(..), Some(Runs::Ztunnel)) =
                (&one.state, image::find(one.spec["image"].as_str().unwrap_or_default()).map(|image| image.runs))
            {
                self.world.ztunnels.lock().unwrap().remove(&self.node.name);
            }
        }
        self.world.note(&format!("{} is gone", self.key()));
    }
}

impl Running {
    fn name(&self) -> &'static str {
        match self {
            Self::Process(_) => "process",
            Self::Ztunnel(_) => "ztunnel",
        }
    }
}

/// What a pod asks for that the stage cannot do.
fn unknown(pod: &Value) -> Option<&'static str> {
    let spec = &pod["spec"];
    let some = |name: &str| spec[name].as_array().is_some_and(|list| !list.is_empty());
    if some("initContainers") {
        return Some("init containers are not known on the stage");
    }
    (spec["hostNetwork"] == true).then_some("the network of nodes is not for pods on the stage")
}
