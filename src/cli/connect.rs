//! How commands reach a cluster and the replicas of a control plane in it.
//!
//! A replica is asked for its debug pages through the API server's proxy, by those
//! who may use that, with a token that is good for these pages alone; or at an
//! address, which is the end of a forwarded port as a rule.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use futures::future::join_all;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

use crate::admin::access::{AUDIENCE, TOKEN_HEADER};
use crate::config::terminal::Connection;

/// The longest page that is read from an address.
const LONGEST: usize = 1 << 30;
/// The port of the debug pages.
const MONITORING_PORT: u16 = 15014;
/// The account whose token is asked for; every namespace has it.
const ACCOUNT: &str = "default";

/// The API server, asked for objects as they are.
#[derive(Clone)]
pub(super) struct Cluster {
    client: kube::Client,
    timeout: Duration,
}

impl Cluster {
    /// The cluster of a kubeconfig, or the one around this process.
    pub(super) async fn connect(flags: &Connection) -> anyhow::Result<Self> {
        let options = KubeConfigOptions { context: flags.context.clone(), ..Default::default() };
        let mut config = match &flags.kubeconfig {
            Some(path) => {
                // Their texts have their causes in them.
                let file = Kubeconfig::read_from(path).map_err(|error| anyhow::anyhow!("{error}"))?;
                let config = kube::Config::from_custom_kubeconfig(file, &options).await;
                config.map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?
            }
            None => match kube::Config::from_kubeconfig(&options).await {
                Ok(config) => config,
                Err(error) => kube::Config::incluster()
                    .map_err(|_| anyhow::anyhow!("{error}"))
                    .context("no kubeconfig, and no cluster around; --kubeconfig or --address says where")?,
            },
        };
        config.connect_timeout = Some(flags.request_timeout);
        config.default_retry = false;
        Ok(Self { client: kube::Client::try_from(config)?, timeout: flags.request_timeout })
    }

    /// What is at a path; nothing if there is nothing.
    pub(super) async fn get(&self, path: &str) -> anyhow::Result<Option<Value>> {
        match self.send(Request::get(path).body(Vec::new())?).await {
            Ok(value) => Ok(Some(value)),
            Err(error) if is_status(&error, StatusCode::NOT_FOUND) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What becomes of an object that is created.
    pub(super) async fn create(&self, path: &str, object: &Value) -> anyhow::Result<Value> {
        let request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
        self.send(request.body(serde_json::to_vec(object)?)?).await
    }

    async fn send(&self, request: Request<Vec<u8>>) -> anyhow::Result<Value> {
        let path = request.uri().path().to_owned();
        let answer = tokio::time::timeout(self.timeout, self.client.request::<Value>(request)).await;
        let answer = answer.with_context(|| format!("{path}: no answer within {:?}", self.timeout))?;
        let answer = answer.map_err(|error| match error {
            kube::Error::Api(status) => {
                anyhow::Error::from(Refused { code: status.code, message: status.message.clone() })
            }
            other => anyhow::Error::from(other),
        });
        answer.with_context(|| format!("the API server does not answer {path}"))
    }
}

/// What the API server refused, in its own words: the client prints its whole
/// answer, twice.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Refused {
    code: u16,
    message: String,
}

/// Whether the API server answered with a status.
pub(super) fn is_status(error: &anyhow::Error, status: StatusCode) -> bool {
    error.downcast_ref::<Refused>().is_some_and(|refused| refused.code == status.as_u16())
}

/// One replica of a control plane.
#[derive(Clone)]
pub(super) struct Replica {
    /// What it is called.
    pub(super) name: String,
    reached: Reached,
}

#[derive(Clone)]
enum Reached {
    /// At an address, without the slash at its end.
    At { address: String, token: Option<String>, timeout: Duration },
    /// Through the API server's proxy of this path.
    Through { cluster: Cluster, path: String, token: String },
}

/// A control plane: its replicas, and the cluster that they were found in.
pub(super) struct ControlPlane {
    pub(super) cluster: Option<Cluster>,
    pub(super) replicas: Vec<Replica>,
}

impl ControlPlane {
    /// Finds the replicas. There is at least one.
    pub(super) async fn find(flags: &Connection) -> anyhow::Result<Self> {
        if !flags.address.is_empty() {
            let replicas = at_addresses(flags)?;
            // A kubeconfig that merely lies around may be of another cluster.
            let cluster = match flags.kubeconfig.is_some() || flags.context.is_some() {
                true => Some(Cluster::connect(flags).await?),
                false => None,
            };
            return Ok(Self { cluster, replicas });
        }
        let cluster = Cluster::connect(flags).await?;
        let pods = pods(&cluster, flags).await?;
        if pods.is_empty() {
            let namespace = &flags.istio_namespace;
            match &flags.revision {
                Some(revision) => {
                    bail!("no pod with the labels app=istiod and istio.io/rev={revision} runs in {namespace}")
                }
                None => {
                    bail!("no pod with the label app=istiod runs in {namespace}; --istio-namespace says where it is")
                }
            }
        }
        let token = token(&cluster, &flags.istio_namespace).await?;
        let replicas = pods.iter().map(|pod| Replica {
            name: text(pod, "/metadata/name").to_owned(),
            reached: Reached::Through {
                cluster: cluster.clone(),
                path: proxy_path(&flags.istio_namespace, pod),
                token: token.clone(),
            },
        });
        Ok(Self { replicas: replicas.collect(), cluster: Some(cluster) })
    }

    /// Has no answer be waited for any longer than this.
    pub(super) fn answer_within(&mut self, limit: Duration) {
        for replica in &mut self.replicas {
            let timeout = match &mut replica.reached {
                Reached::At { timeout, .. } => timeout,
                Reached::Through { cluster, .. } => &mut cluster.timeout,
            };
            *timeout = limit.min(*timeout);
        }
    }

    /// A page of every replica, by its name.
    pub(super) async fn pages(&self, path: &str) -> Vec<(&Replica, anyhow::Result<Value>)> {
        let asked = self.replicas.iter().map(|replica| async move { (replica, replica.page(path).await) });
        join_all(asked).await
    }
}

impl Replica {
    /// A page, such as `/debug/syncz`.
    pub(super) async fn page(&self, path: &str) -> anyhow::Result<Value> {
        match &self.reached {
            Reached::At { address, token, timeout } => {
                let text = tokio::time::timeout(*timeout, fetch(&format!("{address}{path}"), token.as_deref())).await;
                let text = text.with_context(|| format!("no answer within {timeout:?}"))??;
                Ok(serde_json::from_slice(&text)?)
            }
            Reached::Through { cluster, path: proxy, token } => {
                let request = Request::get(format!("{proxy}{path}")).header(TOKEN_HEADER, token);
                cluster.send(request.body(Vec::new())?).await
            }
        }
    }
}

/// The pods of the control plane that run.
pub(super) async fn pods(cluster: &Cluster, flags: &Connection) -> anyhow::Result<Vec<Value>> {
    let namespace = &flags.istio_namespace;
    let revision = flags.revision.iter().map(|revision| format!("%2Cistio.io%2Frev%3D{revision}")).collect::<String>();
    let path = format!("/api/v1/namespaces/{namespace}/pods?labelSelector=app%3Distiod{revision}");
    let mut list = cluster.get(&path).await?.unwrap_or_default();
    let pods = list.get_mut("items").and_then(Value::as_array_mut).map(std::mem::take).unwrap_or_default();
    let runs =
        |pod: &Value| text(pod, "/status/phase") == "Running" && pod.pointer("/metadata/deletionTimestamp").is_none();
    Ok(pods.into_iter().filter(runs).collect())
}

/// Where the API server passes requests on to the debug pages of a pod.
fn proxy_path(namespace: &str, pod: &Value) -> String {
    let ports = pod.pointer("/spec/containers/0/ports").and_then(Value::as_array);
    let port = ports.into_iter().flatten().find(|port| text(port, "/name") == "http-monitoring");
    let port = port.and_then(|port| port.get("containerPort")?.as_u64()).unwrap_or(u64::from(MONITORING_PORT));
    format!("/api/v1/namespaces/{namespace}/pods/{}:{port}/proxy", text(pod, "/metadata/name"))
}

/// A token for the debug pages.
async fn token(cluster: &Cluster, namespace: &str) -> anyhow::Result<String> {
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{ACCOUNT}/token");
    let asked = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": { "audiences": [AUDIENCE], "expirationSeconds": 600 },
    });
    let made = cluster.create(&path, &asked).await;
    let made = made.context("no token for the debug pages (forward a port and use --address instead)")?;
    Ok(text(&made, "/status/token").to_owned())
}

fn at_addresses(flags: &Connection) -> anyhow::Result<Vec<Replica>> {
    let token = match &flags.token_file {
        Some(path) => {
            let token = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            Some(token.trim().to_owned())
        }
        None => None,
    };
    let replica = |address: &String| {
        let address = address.trim_end_matches('/');
        let full = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
        let name = full.trim_start_matches("http://").to_owned();
        Replica { name, reached: Reached::At { address: full, token: token.clone(), timeout: flags.request_timeout } }
    };
    Ok(flags.address.iter().map(replica).collect())
}

async fn fetch(url: &str, token: Option<&str>) -> anyhow::Result<Bytes> {
    let (status, body) = answer(url, token).await?;
    if !status.is_success() {
        bail!("{url}: {status}: {}", String::from_utf8_lossy(&body).trim());
    }
    Ok(body)
}

/// What somebody at an address says to a GET.
pub(super) async fn answer(url: &str, token: Option<&str>) -> anyhow::Result<(StatusCode, Bytes)> {
    let client = Client::builder(TokioExecutor::new()).build::<_, Empty<Bytes>>(HttpConnector::new());
    let mut request = Request::get(url);
    if let Some(token) = token {
        request = request.header(TOKEN_HEADER, token);
    }
    let answer = client.request(request.body(Empty::new())?).await.with_context(|| format!("cannot reach {url}"))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), LONGEST).collect().await;
    Ok((status, body.map_err(|error| anyhow::anyhow!("{url}: {error}"))?.to_bytes()))
}

/// A text in an object; empty if there is none.
pub(super) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The objects of a list.
pub(super) fn items(list: &Value) -> &[Value] {
    list.get("items").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A runtime for one command.
pub(super) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
