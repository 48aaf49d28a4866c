//! Probes, as kubelets make them.
//! <https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/>

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::sandbox::Container;

/// A probe of a container, and what came of it.
pub(super) struct Probe {
    /// The probe as the pod says it.
    spec: Value,
    next: Instant,
    /// How often the same came of it.
    streak: u64,
    last: bool,
    /// What it counts as: nothing before it succeeded or failed often enough.
    pub(super) result: Option<bool>,
}

impl Probe {
    /// One that begins now. `None` if the container has none of this name.
    pub(super) fn of(container: &Value, name: &str) -> Option<Self> {
        let spec = container[name].clone();
        let delay = Duration::from_secs(spec["initialDelaySeconds"].as_u64().unwrap_or(0));
        spec.is_object().then(|| Self { spec, next: Instant::now() + delay, streak: 0, last: true, result: None })
    }

    fn number(&self, name: &str, default: u64) -> u64 {
        self.spec[name].as_u64().filter(|number| *number > 0).unwrap_or(default)
    }

    /// Looks if it is time to.
    pub(super) async fn look(&mut self, pod: &Value, container: &Value, running: &Container, ip: Ipv4Addr) {
        if Instant::now() < self.next {
            return;
        }
        let limit = Duration::from_secs(self.number("timeoutSeconds", 1));
        let look = look(&self.spec, pod, container, running, ip);
        let found = tokio::time::timeout(limit, look).await.unwrap_or(false);
        self.streak = if found == self.last { self.streak + 1 } else { 1 };
        self.last = found;
        let threshold = if found { self.number("successThreshold", 1) } else { self.number("failureThreshold", 3) };
        if self.streak >= threshold {
            self.result = Some(found);
        }
        self.next = Instant::now() + Duration::from_secs(self.number("periodSeconds", 10));
    }
}

async fn look(spec: &Value, pod: &Value, container: &Value, running: &Container, ip: Ipv4Addr) -> bool {
    if let Some(command) = spec["exec"]["command"].as_array() {
        let command: Vec<_> = command.iter().filter_map(Value::as_str).collect();
        let Some(mut exec) = running.exec(&command) else { return false };
        return exec.output().await.is_ok_and(|output| output.status.success());
    }
    let action = if spec["httpGet"].is_object() { &spec["httpGet"] } else { &spec["tcpSocket"] };
    let named = || {
        let ports = container["ports"].as_array().into_iter().flatten();
        ports.filter(|port| port["name"] == action["port"]).find_map(|port| port["containerPort"].as_u64())
    };
    let Some(port) = action["port"].as_u64().or_else(named) else { return false };
    let Ok(mut stream) = TcpStream::connect(SocketAddr::from((ip, port as u16))).await else { return false };
    if !spec["httpGet"].is_object() {
        return true;
    }
    let get = async {
        let path = action["path"].as_str().unwrap_or("/");
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {ip}:{port}\r\nUser-Agent: kube-probe/1.37 ({name})\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut status = [0; 12];
        stream.read_exact(&mut status).await?;
        Ok::<_, std::io::Error>(status)
    };
    // What is asked for after "HTTP/1.1 ".
    get.await.is_ok_and(|status| matches!(status[9], b'2' | b'3'))
}
