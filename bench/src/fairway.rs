//! The control plane under test: its process, its ports and its tokens.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::client::Credentials;
use crate::http2::Target;
use crate::mesh::{Holder, Mesh};

/// How long a start may take.
const START: Duration = Duration::from_secs(120);
/// How long it may take to end when told to.
const STOP: Duration = Duration::from_secs(5);

/// A running control plane; dropping it ends it.
pub struct Fairway {
    binary: PathBuf,
    state: PathBuf,
    log: PathBuf,
    child: Child,
    ports: [u16; 5],
    /// When it was started.
    pub started: Instant,
}

impl Fairway {
    /// Starts it on a folder, with a new state directory in `work`.
    pub fn start(binary: &Path, folder: &Path, work: &Path) -> anyhow::Result<Self> {
        let ports = free_ports()?;
        let [grpc, secure, http, https, monitoring] = ports.map(|port| format!("127.0.0.1:{port}"));
        let number = std::fs::read_dir(work)?.count();
        let (state, log) = (work.join(format!("state-{number}")), work.join(format!("fairway-{number}.log")));
        let output = std::fs::File::create(&log)?;
        let mut command = Command::new(binary);
        command.arg("discovery").arg("--configDir").arg(folder).arg("--stateDir").arg(&state);
        command.args(["--grpcAddr", &grpc, "--secureGRPCAddr", &secure, "--httpAddr", &http]);
        command.args(["--httpsAddr", &https, "--monitoringAddr", &monitoring]);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let started = Instant::now();
        let child = command.spawn().with_context(|| format!("cannot start {}", binary.display()))?;
        Ok(Self { binary: binary.to_owned(), state, log, child, ports, started })
    }

    /// Waits until it says that it is ready, and returns when it did.
    pub fn ready(&mut self) -> anyhow::Result<Instant> {
        loop {
            if self.asked_ready() {
                return Ok(Instant::now());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("fairway ended with {status}:\n{}", self.tail());
            }
            ensure!(self.started.elapsed() < START, "fairway is not ready after {START:?}:\n{}", self.tail());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn asked_ready(&self) -> bool {
        let ask = || -> std::io::Result<bool> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.ports[2]))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
            let mut answer = [0; 12];
            stream.read_exact(&mut answer)?;
            Ok(answer == *b"HTTP/1.1 200")
        };
        ask().unwrap_or(false)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The port without TLS, or the one with it.
    pub fn target(&self, tls: bool) -> anyhow::Result<Target> {
        if tls {
            Target::tls(self.ports[1], &self.state.join("root-cert.pem"))
        } else {
            Ok(Target::plain(self.ports[0]))
        }
    }

    /// The root of its certificates, in PEM.
    pub fn root(&self) -> anyhow::Result<Vec<u8>> {
        Ok(std::fs::read(self.state.join("root-cert.pem"))?)
    }

    /// A token for a pod.
    pub fn token(&self, holder: &Holder) -> anyhow::Result<String> {
        let mut command = Command::new(&self.binary);
        command.arg("token").arg("--stateDir").arg(&self.state);
        command.args(["--namespace", &holder.namespace, "--serviceAccount", &holder.service_account]);
        command.args(["--pod", &holder.pod, "--podUid", &holder.uid]);
        let output = command.output()?;
        ensure!(output.status.success(), "fairway token: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim().to_string())
    }

    /// What the ztunnels of the first nodes show.
    pub fn credentials(&self, mesh: &Mesh, tls: bool) -> anyhow::Result<Vec<Credentials>> {
        let nodes = 0..mesh.size.nodes().min(50);
        let credentials = nodes.map(|node| {
            let token = tls.then(|| self.token(&mesh.ztunnel(node))).transpose()?;
            Ok(Credentials::new(node, mesh.ztunnel(node), token))
        });
        credentials.collect()
    }

    /// The end of its log.
    pub fn tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Fairway {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Ends a process that was started here, and waits for it.
pub fn end(child: &mut Child) {
    if !matches!(child.try_wait(), Ok(None)) {
        return;
    }
    // There is no way to send SIGTERM without unsafe code but this.
    let _ = Command::new("kill").arg(child.id().to_string()).status();
    let deadline = Instant::now() + STOP;
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn free_ports() -> anyhow::Result<[u16; 5]> {
    // All at once, so that they differ.
    let listeners: Vec<_> =
        (0..5).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<std::io::Result<_>>().context("no free port")?;
    let mut ports = [0; 5];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}
