//! What is measured, one file for each scenario.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use tempfile::TempDir;

use crate::Options;
use crate::check::check;
use crate::client::Credentials;
use crate::fairway::Fairway;
use crate::mesh::{Mesh, Size};
use crate::message::Message;
use crate::progress;
use crate::report::Finding;

pub mod csr;
pub mod idle;
pub mod memory;
pub mod push;
pub mod start;
pub mod sync;

/// How long clients may take to sync.
const SYNC: Duration = Duration::from_secs(120);
/// How long a process is left alone before its memory is read.
const SETTLE: Duration = Duration::from_secs(2);

/// What scenarios share.
pub struct Bench {
    binary: PathBuf,
    options: Options,
    work: TempDir,
    meshes: HashMap<usize, Rc<Mesh>>,
}

/// What a scenario found.
pub struct Outcome {
    /// What it was run with.
    pub setting: String,
    /// What its limit is.
    pub limit: &'static str,
    /// What it found.
    pub findings: Vec<Finding>,
}

/// A control plane that serves a mesh, and has been checked to do so.
struct Served {
    fairway: Fairway,
    mesh: Rc<Mesh>,
    addresses: Message,
    policies: Message,
}

impl Bench {
    /// A bench that keeps its files in a folder of its own until it ends.
    pub fn new(binary: PathBuf, options: Options) -> anyhow::Result<Self> {
        let work = tempfile::Builder::new().prefix("fairway-bench-").tempdir()?;
        Ok(Self { binary, options, work, meshes: HashMap::new() })
    }

    fn work(&self) -> &Path {
        self.work.path()
    }

    /// The mesh with this many pods.
    fn mesh(&mut self, pods: usize) -> anyhow::Result<Rc<Mesh>> {
        if let Some(mesh) = self.meshes.get(&pods) {
            return Ok(mesh.clone());
        }
        let size = Size { pods, services: self.services(pods), namespaces: 50 };
        let mesh = Rc::new(Mesh::write(&self.work().join(format!("mesh-{pods}")), size)?);
        progress(&format!("  wrote {pods} pods, {:.0} MB", mesh.bytes as f64 / 1e6));
        self.meshes.insert(pods, mesh.clone());
        Ok(mesh)
    }

    /// Services grow with the pods.
    fn services(&self, pods: usize) -> usize {
        let Options { pods: full, services, .. } = self.options;
        (services * pods / full).max(50)
    }

    /// A control plane that serves a mesh.
    async fn serve(&mut self, pods: usize) -> anyhow::Result<Served> {
        let mesh = self.mesh(pods)?;
        let mut fairway = Fairway::start(&self.binary, &mesh.folder, self.work())?;
        fairway.ready()?;
        let credentials = Credentials::new(0, mesh.ztunnel(0), None);
        let (addresses, policies) = check(&fairway.target(false)?, &credentials, &mesh).await?;
        Ok(Served { fairway, mesh, addresses, policies })
    }
}

/// What a row is called.
fn channel(tls: bool) -> &'static str {
    if tls { "TLS" } else { "plaintext" }
}

/// Microseconds.
fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// Milliseconds.
fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
