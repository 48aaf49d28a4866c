//! A control plane under test: a command line, its process and its ports.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

/// How long a start may take.
const START: Duration = Duration::from_secs(300);
/// How long it may take to end when told to.
const STOP: Duration = Duration::from_secs(5);
/// Files and sockets that a server may have open.
const OPEN_FILES: &str = "100000";
/// What follows a program that is given without arguments: istiod's flags.
const FLAGS: &str = "discovery {source} --grpcAddr {grpc} --secureGRPCAddr {secure} --httpAddr {http} \
                     --httpsAddr {https} --monitoringAddr {monitoring}";
/// What istiod is told by its Deployment, and whoever takes its place.
const ENVIRONMENT: [(&str, &str); 5] = [
    ("CA_TRUSTED_NODE_ACCOUNTS", "istio-system/ztunnel"),
    ("POD_NAMESPACE", "istio-system"),
    ("CLUSTER_ID", "Kubernetes"),
    ("REVISION", "default"),
    ("PILOT_ENABLE_AMBIENT", "true"),
];

/// How to start a control plane.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Words, with places for what differs from start to start.
    words: Vec<String>,
    /// Addresses that it is known to listen on whatever it is told: `grpc`,
    /// `secure`, `http`, `https`, `monitoring`.
    fixed: [Option<SocketAddr>; 5],
    /// Only Fairway reads folders, and can make tokens without a cluster.
    pub fairway: bool,
}

/// Where a control plane gets its objects.
#[derive(Clone, Debug)]
pub enum Objects {
    /// A folder of YAML.
    Folder(PathBuf),
    /// A Kubernetes API.
    Kubeconfig(PathBuf),
}

impl Launch {
    /// From a command line: a program alone gets istiod's flags, anything else
    /// is started as it is, with `{source}`, `{folder}`, `{kubeconfig}`,
    /// `{state}`, `{grpc}`, `{secure}`, `{http}`, `{https}`, `{monitoring}`
    /// replaced. Words are divided by white space.
    pub fn new(command: &str, fixed: [Option<SocketAddr>; 5]) -> anyhow::Result<Self> {
        let mut words: Vec<String> = command.split_whitespace().map(Into::into).collect();
        let program = words.first().context("empty command line")?;
        ensure!(!program.contains('/') || Path::new(program).exists(), "{program} does not exist");
        let fairway = Path::new(program).file_name().is_some_and(|name| name.to_string_lossy().contains("fairway"));
        if words.len() == 1 {
            words.extend(FLAGS.split_whitespace().map(Into::into));
        }
        Ok(Self { words, fixed, fairway })
    }

    /// The program.
    pub fn program(&self) -> &str {
        &self.words[0]
    }

    fn command(&self, objects: &Objects, state: &Path, addresses: &[SocketAddr; 5]) -> anyhow::Result<Command> {
        let state_text = state.display().to_string();
        let (mut source, mut folder, mut kubeconfig) = (Vec::new(), String::new(), String::new());
        match objects {
            Objects::Folder(path) => {
                ensure!(self.fairway, "{} does not read folders; use --driver kube", self.program());
                folder = path.display().to_string();
                source.extend(["--configDir".into(), folder.clone(), "--stateDir".into(), state_text.clone()]);
            }
            Objects::Kubeconfig(path) => {
                kubeconfig = path.display().to_string();
                source.extend(["--kubeconfig".into(), kubeconfig.clone()]);
            }
        }
        let [grpc, secure, http, https, monitoring] = addresses.map(|address| address.to_string());
        let mut command = Command::new(self.program());
        for word in &self.words[1..] {
            if word == "{source}" {
                command.args(&source);
                continue;
            }
            let places = [("{folder}", &folder), ("{kubeconfig}", &kubeconfig), ("{state}", &state_text)];
            let ports = [("{grpc}", &grpc), ("{secure}", &secure), ("{http}", &http), ("{https}", &https)];
            let all = places.into_iter().chain(ports).chain([("{monitoring}", &monitoring)]);
            command.arg(all.fold(word.clone(), |word, (place, value)| word.replace(place, value)));
        }
        // What is set for whoever runs the bench is not meant for what it runs.
        command.env_remove("KUBECONFIG").env_remove("RUST_LOG").envs(ENVIRONMENT);
        Ok(command)
    }
}

/// A running control plane; dropping it ends it.
pub struct Plane {
    launch: Launch,
    objects: Objects,
    /// Where it keeps its state, if it does.
    pub state: PathBuf,
    log: PathBuf,
    child: Child,
    addresses: [SocketAddr; 5],
    /// When it was started.
    pub started: Instant,
}

impl Plane {
    /// Starts it, with a new state directory in `work`.
    pub fn start(launch: &Launch, objects: &Objects, work: &Path) -> anyhow::Result<Self> {
        let number = std::fs::read_dir(work)?.count();
        let mut addresses = free_addresses()?;
        for (address, fixed) in addresses.iter_mut().zip(launch.fixed) {
            *address = fixed.unwrap_or(*address);
        }
        let state = work.join(format!("state-{number}"));
        let log = work.join(format!("plane-{number}.log"));
        Self::spawn(launch.clone(), objects.clone(), state, log, addresses)
    }

    fn spawn(
        launch: Launch,
        objects: Objects,
        state: PathBuf,
        log: PathBuf,
        addresses: [SocketAddr; 5],
    ) -> anyhow::Result<Self> {
        let output = std::fs::File::options().create(true).append(true).open(&log)?;
        let mut command = launch.command(&objects, &state, &addresses)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let started = Instant::now();
        let child = command.spawn().with_context(|| format!("cannot start {}", launch.program()))?;
        allow_open_files(child.id());
        Ok(Self { launch, objects, state, log, child, addresses, started })
    }

    /// Ends it as a crash does and starts it again, on the same ports and state.
    pub fn crash(mut self) -> anyhow::Result<Self> {
        self.child.kill()?;
        self.child.wait()?;
        let (launch, objects) = (self.launch.clone(), self.objects.clone());
        Self::spawn(launch, objects, self.state.clone(), self.log.clone(), self.addresses)
    }

    /// Waits until it says that it is ready, and returns when it did.
    pub async fn ready(&mut self) -> anyhow::Result<Instant> {
        loop {
            if self.asked_ready() {
                return Ok(Instant::now());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the control plane ended with {status}:\n{}", self.tail());
            }
            ensure!(self.started.elapsed() < START, "the control plane is not ready after {START:?}:\n{}", self.tail());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn asked_ready(&self) -> bool {
        let ask = || -> std::io::Result<bool> {
            let mut stream = TcpStream::connect(self.addresses[2])?;
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

    /// Has it end by itself, so that it gives up its Leases, unless that takes
    /// too long.
    pub async fn stop(mut self) {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let deadline = Instant::now() + STOP;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            // Meanwhile its clients notice that they are dropped.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Where it serves gRPC without TLS.
    pub fn grpc(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// Where it serves gRPC with TLS.
    pub fn secure(&self) -> SocketAddr {
        self.addresses[1]
    }

    /// The program that was started.
    pub fn program(&self) -> &str {
        self.launch.program()
    }

    /// The end of its log.
    pub fn tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        // Clients are still connected and would be waited for; nothing of its
        // state is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
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

fn free_addresses() -> anyhow::Result<[SocketAddr; 5]> {
    // All at once, so that they differ.
    let listeners: Vec<_> =
        (0..5).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<std::io::Result<_>>().context("no free port")?;
    let mut addresses = [SocketAddr::from(([127, 0, 0, 1], 0)); 5];
    for (address, listener) in addresses.iter_mut().zip(&listeners) {
        *address = listener.local_addr()?;
    }
    Ok(addresses)
}

/// Lets a process, perhaps this one, have thousands of sockets. Only a process
/// with few streams can do without.
pub fn allow_open_files(pid: u32) {
    let limit = format!("--nofile={OPEN_FILES}:{OPEN_FILES}");
    let _ = Command::new("prlimit").args(["--pid", &pid.to_string(), &limit]).stderr(Stdio::null()).status();
}

#[cfg(test)]
mod tests;
