//! The process under test: `fairway discovery` on free loopback ports.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::child::{Child, free_address};
use crate::{cluster, eventually, runner};

/// The program under test.
pub fn binary() -> PathBuf {
    cluster::tool("FAIRWAY_BIN", "target/debug/fairway")
}

/// How to start a control plane.
#[derive(Clone)]
pub struct Options {
    binary: PathBuf,
    source: Vec<OsString>,
    flags: Vec<String>,
    environment: BTreeMap<String, String>,
}

impl Options {
    /// A control plane with the rights of a kubeconfig.
    pub fn new(kubeconfig: &Path) -> Self {
        Self::of(vec!["--kubeconfig".into(), kubeconfig.into()])
    }

    /// A control plane of a folder of YAML, without a cluster. Its own files,
    /// of which some are secret, are in `state`.
    pub fn folder(config: &Path, state: &Path) -> Self {
        Self::of(vec!["--configDir".into(), config.into(), "--stateDir".into(), state.into()])
    }

    fn of(source: Vec<OsString>) -> Self {
        let environment = [
            ("CA_TRUSTED_NODE_ACCOUNTS", "istio-system/ztunnel"),
            ("POD_NAMESPACE", "istio-system"),
            ("CLUSTER_ID", "Kubernetes"),
            ("REVISION", "default"),
        ];
        let environment = environment.map(|(name, value)| (name.to_string(), value.to_string()));
        Self { binary: binary(), source, flags: vec![], environment: environment.into() }
    }

    /// Of another build.
    pub fn of_build(mut self, binary: PathBuf) -> Self {
        self.binary = binary;
        self
    }

    /// With one more flag.
    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.into());
        self
    }

    /// With a variable of the environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }
}

/// A running control plane. It ends when it is dropped.
pub struct Fairway {
    /// Plaintext gRPC, without authentication.
    pub grpc: SocketAddr,
    /// gRPC over TLS.
    pub secure_grpc: SocketAddr,
    /// Readiness.
    pub http: SocketAddr,
    /// Metrics and debug pages.
    pub monitoring: SocketAddr,
    /// All of them.
    addresses: [SocketAddr; 5],
    child: Child,
}

impl Fairway {
    /// Starts one without waiting for it.
    pub fn launch(options: &Options) -> Self {
        Self::launch_at(options, std::array::from_fn(|_| free_address()))
    }

    /// Starts one in the place of one that has ended, and waits until it is ready.
    pub async fn start_again(&self, options: &Options) -> Self {
        let fairway = Self::launch_at(options, self.addresses);
        fairway.until_ready().await;
        fairway
    }

    fn launch_at(options: &Options, addresses: [SocketAddr; 5]) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let [grpc, secure_grpc, http, https, monitoring] = addresses;
        let mut command = Command::new(&options.binary);
        command.arg("discovery").args(&options.source);
        let flags = [
            ("--grpcAddr", grpc),
            ("--secureGRPCAddr", secure_grpc),
            ("--httpAddr", http),
            ("--httpsAddr", https),
            ("--monitoringAddr", monitoring),
        ];
        for (flag, address) in flags {
            command.args([flag, &address.to_string()]);
        }
        command.args(["--domain", "cluster.local"]).args(&options.flags).envs(&options.environment);
        // What is set for whoever runs the tests is not meant for what they test.
        command.env_remove("KUBECONFIG").env_remove("RUST_LOG");
        let log = runner::folder().join(format!("fairway-{number}.log"));
        runner::show_on_failure("fairway", log.clone());
        let child = Child::start("fairway", &mut command, &log);
        Self { grpc, secure_grpc, http, monitoring, addresses, child }
    }

    /// Starts one and waits until it is ready.
    pub async fn start(options: &Options) -> Self {
        let fairway = Self::launch(options);
        fairway.until_ready().await;
        fairway
    }

    /// Waits until it says that it is ready.
    pub async fn until_ready(&self) {
        eventually("fairway's readiness", || async {
            self.child.assert_running();
            match self.get(self.http, "/ready").await {
                Ok((200, _)) => Ok(()),
                other => Err(other),
            }
        })
        .await;
    }

    /// The status of `/ready`; 0 if nothing answers.
    pub async fn ready_status(&self) -> u16 {
        self.get(self.http, "/ready").await.map_or(0, |(status, _)| status)
    }

    /// A page, such as `/debug/syncz`.
    pub async fn page(&self, path: &str) -> String {
        match self.get(self.monitoring, path).await {
            Ok((200, body)) => body,
            other => panic!("GET {path}: {other:?}"),
        }
    }

    /// The status and body of a GET.
    pub async fn get(&self, address: SocketAddr, path: &str) -> Result<(u16, String), String> {
        let get = async {
            let mut stream = TcpStream::connect(address).await?;
            // An HTTP/1.0 answer ends with the connection and has no chunks.
            stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
            let mut answer = vec![];
            stream.read_to_end(&mut answer).await?;
            Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
        };
        let answer = tokio::time::timeout(Duration::from_secs(5), get).await.map_err(|_| "no answer".to_string())?;
        let answer = answer.map_err(|error| error.to_string())?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or("no HTTP")?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or("no status")?;
        Ok((status, body.to_string()))
    }

    /// Everything it logged.
    pub fn log(&self) -> String {
        self.child.log()
    }

    /// The file it logs to.
    pub fn log_path(&self) -> &Path {
        self.child.log_path()
    }

    /// Panics if it has ended.
    pub fn assert_running(&self) {
        self.child.assert_running();
    }

    /// Sends a signal, such as `STOP`.
    pub fn signal(&self, signal: &str) {
        self.child.signal(signal);
    }

    /// Asks it to end and waits.
    pub async fn terminate(&self) -> ExitStatus {
        self.child.terminate().await
    }

    /// Ends it as a crash does.
    pub async fn kill(&self) -> ExitStatus {
        self.child.kill().await
    }
}
