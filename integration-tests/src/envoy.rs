//! A real Envoy on loopback, with whatever bootstrap a test gives it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::child::{Child, free_address};
use crate::{cluster, eventually, runner};

/// The release that `make envoy` installs, or another.
pub fn binary() -> PathBuf {
    cluster::tool("FAIRWAY_ENVOY", ".cache/bin/envoy")
}

/// A running Envoy. It ends when it is dropped.
pub struct Envoy {
    /// Its administration.
    pub admin: SocketAddr,
    child: Child,
}

impl Envoy {
    /// Starts one from a bootstrap in YAML, without waiting for it. The
    /// bootstrap has no `admin`: that is added.
    pub fn launch(bootstrap: &str) -> Self {
        Self::launch_with(bootstrap, &[])
    }

    /// Starts one with further arguments.
    pub fn launch_with(bootstrap: &str, arguments: &[&str]) -> Self {
        let admin = free_address();
        let files = Files::new(&with_admin(bootstrap, admin));
        let mut command = files.command();
        command.args(arguments);
        runner::show_on_failure("envoy", files.log.clone());
        Self { admin, child: Child::start("envoy", &mut command, &files.log) }
    }

    /// One that another program, such as an agent, has started or will start.
    /// It ends with that program.
    pub fn of(child: Child, admin: SocketAddr) -> Self {
        Self { admin, child }
    }

    /// Starts one and waits until it is ready.
    pub async fn start(bootstrap: &str) -> Self {
        let envoy = Self::launch(bootstrap);
        envoy.until_ready().await;
        envoy
    }

    /// Waits until it says that it is ready: it then has what it asked its
    /// control plane for.
    pub async fn until_ready(&self) {
        eventually("envoy's readiness", || async {
            self.child.assert_running();
            match self.get("/ready").await {
                Ok((200, _)) => Ok(()),
                other => Err(other),
            }
        })
        .await;
    }

    /// What it was told, and what it makes of that. With `resource`, such as
    /// `dynamic_listeners`, only that part.
    pub async fn config_dump(&self, resource: Option<&str>) -> Value {
        let query = resource.map(|resource| format!("&resource={resource}")).unwrap_or_default();
        self.json(&format!("/config_dump?include_eds{query}")).await
    }

    /// Its clusters, with the endpoints and their health.
    pub async fn clusters(&self) -> Value {
        self.json("/clusters?format=json").await
    }

    /// A counter or a gauge; `None` before it was first counted.
    pub async fn stat(&self, name: &str) -> Option<u64> {
        let stats = self.json("/stats?format=json").await;
        let stats = stats["stats"].as_array().unwrap();
        stats.iter().find(|stat| stat["name"] == name).map(|stat| stat["value"].as_u64().unwrap())
    }

    /// A page of its administration, as JSON.
    pub async fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.page(path).await).unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    /// A page of its administration, such as `/stats/prometheus`.
    pub async fn page(&self, path: &str) -> String {
        self.child.assert_running();
        match self.get(path).await {
            Ok((200, body)) => body,
            other => panic!("GET {path}: {other:?}"),
        }
    }

    /// The status and body of a GET of its administration.
    pub async fn get(&self, path: &str) -> Result<(u16, String), String> {
        get(self.admin, path).await
    }

    /// Has its administration do something.
    pub async fn post(&self, path: &str) {
        match ask("POST", self.admin, path).await {
            Ok((200, _)) => {}
            other => panic!("POST {path}: {other:?}"),
        }
    }

    /// Everything it logged.
    pub fn log(&self) -> String {
        self.child.log()
    }

    /// The file it logs to.
    pub fn log_path(&self) -> &std::path::Path {
        self.child.log_path()
    }

    /// Panics if it has ended.
    pub fn assert_running(&self) {
        self.child.assert_running();
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

/// The status and body of a GET at an address.
pub async fn get(address: SocketAddr, path: &str) -> Result<(u16, String), String> {
    ask("GET", address, path).await
}

async fn ask(method: &str, address: SocketAddr, path: &str) -> Result<(u16, String), String> {
    let get = async {
        let mut stream = TcpStream::connect(address).await?;
        // Envoy knows no HTTP/1.0, and an answer without chunks is easier
        // to read: a client that wants to close gets one.
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n");
        let request = head + "Content-Length: 0\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await?;
        let mut answer = vec![];
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(Duration::from_secs(10), get).await.map_err(|_| "no answer".to_string())?;
    let answer = answer.map_err(|error| error.to_string())?;
    let at = answer.windows(4).position(|end| end == b"\r\n\r\n").ok_or("no HTTP")?;
    let head = String::from_utf8_lossy(&answer[..at]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or("no status")?;
    let body = &answer[at + 4..];
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { unchunked(body).ok_or("broken chunks")? } else { body.to_vec() };
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// Whether Envoy could start from a bootstrap, or what it says. Nothing is
/// listened on.
pub async fn validate(bootstrap: &str) -> Result<(), String> {
    let files = Files::new(bootstrap);
    let mut command = files.command();
    command.args(["--mode", "validate"]);
    let child = Child::start("envoy", &mut command, &files.log);
    match child.wait().await.success() {
        true => Ok(()),
        false => Err(child.log()),
    }
}

/// What one process reads and writes.
struct Files {
    bootstrap: PathBuf,
    log: PathBuf,
}

impl Files {
    fn new(bootstrap: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let file = |name: &str| runner::folder().join(format!("envoy-{number}.{name}"));
        let files = Self { bootstrap: file("yaml"), log: file("log") };
        std::fs::write(&files.bootstrap, bootstrap).unwrap();
        files
    }

    fn command(&self) -> Command {
        let mut command = Command::new(binary());
        command.arg("--config-path").arg(&self.bootstrap);
        // Without a base id of its own, a second Envoy would not start.
        command.args(["--use-dynamic-base-id", "--concurrency", "1", "--disable-hot-restart"]);
        command
    }
}

/// A bootstrap in YAML with an administration at this address.
fn with_admin(bootstrap: &str, admin: SocketAddr) -> String {
    let (address, port) = (admin.ip(), admin.port());
    format!(
        "{}\nadmin:\n  address:\n    socket_address:\n      address: {address}\n      port_value: {port}\n",
        bootstrap.trim_end()
    )
}

/// A body that came in chunks.
fn unchunked(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut whole = vec![];
    loop {
        let end = body.windows(2).position(|end| end == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&body[..end]).ok()?.trim(), 16).ok()?;
        let chunk = body.get(end + 2..)?;
        if size == 0 {
            return Some(whole);
        }
        whole.extend_from_slice(chunk.get(..size)?);
        body = chunk.get(size + 2..)?;
    }
}
