//! The objects that a control plane is run on, wherever they are, and changes
//! of them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tokio::time::sleep_until;

use crate::client::Credentials;
use crate::http2::Target;
use crate::kube::Kube;
use crate::mesh::{HOT_PODS, Holder, Kind, Mesh, PodState, Size, hot_file, mark, write};
use crate::plane::{Objects, Plane};
use crate::watch::Seen;

/// Milliseconds after the last change of a folder until it is read.
pub const QUIET: f64 = 50.0;
/// How many pods take turns with changes in a Kubernetes API. From its first
/// change on a pod has labels that no other has, which a control plane has to
/// keep; with all pods in turn that would grow for as long as changes go on.
const TURNS: usize = 1000;
/// How many ztunnels' tokens are made; clients take turns with them.
const TOKENS: usize = 20;

/// A change of a pod.
#[derive(Clone, Debug)]
pub enum Op {
    /// Gives it another version.
    Revise {
        /// The pod.
        pod: usize,
        /// The version.
        revision: String,
    },
    /// Creates it with an address, not ready.
    Create {
        /// The pod.
        pod: usize,
    },
    /// Makes it ready.
    Ready {
        /// The pod.
        pod: usize,
    },
    /// Tells it to end.
    Terminate {
        /// The pod.
        pod: usize,
    },
    /// Takes it away.
    Remove {
        /// The pod.
        pod: usize,
    },
}

impl Op {
    /// The pod.
    pub fn pod(&self) -> usize {
        match self {
            Self::Revise { pod, .. }
            | Self::Create { pod }
            | Self::Ready { pod }
            | Self::Terminate { pod }
            | Self::Remove { pod } => *pod,
        }
    }

    /// Whether this is how a pod is after it.
    pub fn is(&self, seen: &Seen) -> bool {
        match self {
            Self::Revise { revision, .. } => seen.revision == *revision,
            Self::Create { .. } => seen.address,
            Self::Ready { .. } => seen.address && seen.ready,
            Self::Terminate { .. } => seen.terminating,
            Self::Remove { .. } => seen.gone,
        }
    }

    fn apply(&self, state: &mut PodState) {
        match self {
            Self::Revise { revision, .. } => state.revision.clone_from(revision),
            Self::Create { .. } => *state = PodState { ready: false, ..PodState::default() },
            Self::Ready { .. } => state.ready = true,
            Self::Terminate { .. } => state.terminating = true,
            Self::Remove { .. } => state.present = false,
        }
    }
}

/// A change that was made.
pub struct Timed {
    /// When it should have been made.
    pub due: Instant,
    /// When whoever keeps the object said that it was.
    pub answered: Instant,
    /// When a watch of ours showed it, if there is such a thing.
    pub seen: Option<Instant>,
    /// What it was.
    pub op: Op,
}

enum Store {
    Files(PathBuf),
    Kube(Kube),
}

/// A mesh that is kept somewhere.
pub struct World {
    /// What is there.
    pub mesh: Mesh,
    /// Bytes of all files, if there are files.
    pub bytes: u64,
    store: Store,
    /// The number of the next change; none is used twice.
    pub next: usize,
    /// Whether what is there is what `mesh` says: not while changes are made,
    /// nor after some of them failed.
    pub known: bool,
}

impl World {
    /// A mesh in a new folder.
    pub fn files(folder: PathBuf, size: Size) -> anyhow::Result<Self> {
        let mesh = Mesh::new(size);
        let bytes = mesh.write(&folder)?;
        Ok(Self { mesh, bytes, store: Store::Files(folder), next: 1, known: true })
    }

    /// A mesh in a Kubernetes API.
    pub async fn kube(size: Size) -> anyhow::Result<Self> {
        let mesh = Mesh::new(size);
        let kube = Kube::start(&mesh).await?;
        Ok(Self { mesh, bytes: 0, store: Store::Kube(kube), next: 1, known: true })
    }

    /// What a control plane has to be pointed at.
    pub fn objects(&self) -> Objects {
        match &self.store {
            Store::Files(folder) => Objects::Folder(folder.clone()),
            Store::Kube(kube) => Objects::Kubeconfig(kube.kubeconfig()),
        }
    }

    /// The Kubernetes API, if it is there.
    pub fn api(&self) -> Option<&Kube> {
        match &self.store {
            Store::Files(_) => None,
            Store::Kube(kube) => Some(kube),
        }
    }

    /// The folder, if it is there.
    pub fn folder(&self) -> Option<&Path> {
        match &self.store {
            Store::Files(folder) => Some(folder),
            Store::Kube(_) => None,
        }
    }

    /// Milliseconds that a source may wait before it reads, by contract: the
    /// folder is read after 50 ms of quiet.
    pub fn quiet(&self) -> f64 {
        if self.folder().is_some() { QUIET } else { 0.0 }
    }

    /// Services beyond those of the mesh.
    pub fn extra_services(&self) -> &'static [(&'static str, [u8; 4])] {
        match &self.store {
            Store::Files(_) => &[],
            Store::Kube(_) => &[("default/kubernetes.default.svc.cluster.local", [10, 96, 0, 1])],
        }
    }

    /// How many addresses a client should know.
    pub fn addresses(&self) -> usize {
        self.mesh.size.addresses() + self.extra_services().len()
    }

    /// Changes of one pod each, at a rate, every one with a mark of its own.
    pub fn revisions(&mut self, rate: f64, count: usize) -> Vec<(Duration, Op)> {
        let pods = self.mesh.size.pods.min(if self.folder().is_some() { HOT_PODS } else { TURNS });
        let from = self.next;
        self.next += count;
        (0..count)
            .map(|at| {
                let op = Op::Revise { pod: (from + at) % pods, revision: mark(from + at) };
                (Duration::from_secs_f64(at as f64 / rate), op)
            })
            .collect()
    }

    /// Makes changes by the clock: open loop, whatever becomes of them.
    pub async fn play(&mut self, schedule: Vec<(Duration, Op)>) -> anyhow::Result<Vec<Timed>> {
        self.known = false;
        let played = match &self.store {
            Store::Kube(kube) => kube.play(&self.mesh, schedule).await?,
            Store::Files(folder) => {
                let folder = folder.clone();
                self.play_files(&folder, schedule).await?
            }
        };
        for Timed { op, .. } in &played {
            let mut state = self.mesh.state(op.pod());
            op.apply(&mut state);
            self.mesh.changed.insert(op.pod(), state);
        }
        self.known = true;
        Ok(played)
    }

    async fn play_files(&mut self, folder: &Path, schedule: Vec<(Duration, Op)>) -> anyhow::Result<Vec<Timed>> {
        let begin = Instant::now() + Duration::from_millis(50);
        let mut timed = Vec::new();
        for (due, op) in schedule {
            let at = op.pod();
            let mut state = self.mesh.state(at);
            op.apply(&mut state);
            self.mesh.changed.insert(at, state);
            let staging = folder.with_extension("staged");
            write(&staging, &self.mesh.object(Kind::Pod, at))?;
            sleep_until((begin + due).into()).await;
            std::fs::rename(&staging, folder.join(hot_file(at)))?;
            timed.push(Timed { due: begin + due, answered: Instant::now(), seen: None, op });
        }
        Ok(timed)
    }

    /// Gives a namespace of a folder a waypoint, or takes it away.
    pub fn set_waypoint(&mut self, namespace: usize, waypoint: bool) -> anyhow::Result<Instant> {
        let folder = self.folder().context("namespaces are changed in folders only")?.to_owned();
        ensure!(self.mesh.size.namespaces < 400, "namespaces are in more than one file");
        self.mesh.waypoint = waypoint.then_some(namespace);
        let all: Vec<_> = (0..self.mesh.size.namespaces).map(|at| self.mesh.object(Kind::Namespace, at)).collect();
        let staging = folder.with_extension("staged");
        write(&staging, &all.join("---\n"))?;
        std::fs::rename(&staging, folder.join("namespace-0000.yaml"))?;
        Ok(Instant::now())
    }

    /// How clients reach a control plane.
    pub async fn target(&self, plane: &Plane, tls: bool) -> anyhow::Result<Target> {
        if !tls {
            return Ok(Target::plain(plane.grpc().port()));
        }
        let root = self.root(plane).await?;
        Target::tls(plane.secure().port(), &root, "istiod.istio-system.svc")
    }

    /// The root of its certificates, in PEM.
    pub async fn root(&self, plane: &Plane) -> anyhow::Result<Vec<u8>> {
        match &self.store {
            Store::Files(_) => Ok(std::fs::read(plane.state.join("root-cert.pem"))?),
            Store::Kube(kube) => Ok(kube.root().await?.into_bytes()),
        }
    }

    /// A token for a pod.
    pub async fn token(&self, plane: &Plane, holder: &Holder) -> anyhow::Result<String> {
        if let Store::Kube(kube) = &self.store {
            return kube.token(holder).await;
        }
        token(plane, holder)
    }

    /// What the ztunnels of the first nodes show.
    pub async fn credentials(&self, plane: &Plane, tls: bool) -> anyhow::Result<Vec<Credentials>> {
        let mut credentials = Vec::new();
        for node in 0..self.mesh.size.nodes().min(if tls { TOKENS } else { 50 }) {
            let holder = self.mesh.ztunnel(node);
            let token = if tls { Some(self.token(plane, &holder).await?) } else { None };
            credentials.push(Credentials::new(node, holder, token));
        }
        Ok(credentials)
    }
}

/// A token for a pod from a control plane that needs no cluster.
pub fn token(plane: &Plane, holder: &Holder) -> anyhow::Result<String> {
    let mut command = Command::new(plane.program());
    command.arg("token").arg("--stateDir").arg(&plane.state);
    command.args(["--namespace", &holder.namespace, "--serviceAccount", &holder.service_account]);
    command.args(["--pod", &holder.pod, "--podUid", &holder.uid]);
    let output = command.output()?;
    if !output.status.success() {
        bail!("fairway token: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_string())
}
