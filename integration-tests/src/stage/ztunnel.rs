//! The stand-in for ztunnel: it takes what the captured pods of its node send
//! and are sent, and does with it what ztunnel would, by what the control plane
//! says. It asks for the certificates of pods as ztunnel does, and speaks HBONE
//! for them from and to the pods' own addresses.
//! <https://istio.io/latest/docs/ambient/architecture/traffic-redirection/>
//!
//! It is part of the stage's process. What it is not: it opens a connection for
//! every tunnel, prefers no locality, answers no DNS, knows one network, and
//! looks at policies only when a connection begins.

mod rbac;
mod route;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex};

use fairway_proto::workload::Workload;
use http::StatusCode;
use hyper_util::rt::TokioIo;
use openssl::x509::X509;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::network::{INBOUND_HBONE, INBOUND_PLAIN, OUTBOUND, PodNetwork};
use crate::accept::each_connection;
use crate::hbone::{Asked, Carry, Client, serve};
use crate::identity::Identity;
use crate::ztunnel::table::Table;
use crate::ztunnel::{Options, Tls, Ztunnel};
use rbac::Connection;
use route::Route;

/// How many connections are remembered: more than any test counts.
const KEPT: usize = 10_000;

/// A connection that a pod opened or was sent, as ztunnel's access log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Whether the pod opened it.
    pub outbound: bool,
    /// Namespace and name of the pod.
    pub pod: (String, String),
    /// The address it was for.
    pub destination: SocketAddr,
    /// The identity of the other end; without HBONE there is none.
    pub peer: Option<String>,
    /// Why it was refused.
    pub error: Option<String>,
}

/// The ztunnel of a node.
pub struct NodeProxy {
    client: Ztunnel,
    options: Options,
    identities: tokio::sync::Mutex<HashMap<String, Arc<Identity>>>,
    accesses: Mutex<Vec<Access>>,
}

impl NodeProxy {
    /// Starts one that finds its control plane at an address.
    pub(super) fn start(node: &str, istiod: SocketAddr, roots: String, token: String) -> Self {
        let options = Options {
            tls: Some(Tls::istiod(roots)),
            token: Some(token),
            node: node.into(),
            ..Options::plaintext(istiod)
        };
        let client = Ztunnel::start(options.clone());
        Self { client, options, identities: Default::default(), accesses: Default::default() }
    }

    /// Whether it would take traffic.
    pub fn is_ready(&self) -> bool {
        self.client.read(Table::ready)
    }

    /// What it was told.
    pub fn client(&self) -> &Ztunnel {
        &self.client
    }

    /// The connections there were.
    pub fn accesses(&self) -> Vec<Access> {
        self.accesses.lock().unwrap().clone()
    }

    /// The certificate it has for an identity.
    pub async fn certificate(&self, name: &str) -> Option<X509> {
        Some(self.identities.lock().await.get(name)?.certificate().clone())
    }

    fn note(&self, access: Access) {
        let mut accesses = self.accesses.lock().unwrap();
        if accesses.len() < KEPT {
            accesses.push(access);
        }
    }

    /// The certificate of a workload.
    async fn identity(&self, workload: &Workload) -> Result<Arc<Identity>, String> {
        let name = route::identity(workload);
        let mut identities = self.identities.lock().await;
        if let Some(identity) = identities.get(&name) {
            return Ok(identity.clone());
        }
        let identity = Arc::new(Identity::impersonated(&self.options, &name).await?);
        identities.insert(name, identity.clone());
        Ok(identity)
    }

    /// Takes the connections of a pod.
    pub(super) async fn capture(
        proxy: &Arc<Self>,
        pod: (String, String),
        network: &PodNetwork,
    ) -> std::io::Result<Captured> {
        let pod = Arc::new(Pod { proxy: proxy.clone(), key: pod, network: network.clone() });
        let mut tasks = JoinSet::new();
        accept(
            &mut tasks,
            network.listen(OUTBOUND).await?,
            &pod,
            |pod, stream| async move { pod.outbound(stream).await },
        );
        let hbone = network.listen(INBOUND_HBONE).await?;
        accept(&mut tasks, hbone, &pod, |pod, stream| async move { pod.inbound(stream).await });
        let plain = network.listen(INBOUND_PLAIN).await?;
        accept(&mut tasks, plain, &pod, |pod, stream| async move { pod.inbound_plain(stream).await });
        Ok(Captured { proxy: proxy.clone(), _tasks: tasks })
    }
}

/// A pod that is captured, until this is dropped; its connections end then.
pub(super) struct Captured {
    proxy: Arc<NodeProxy>,
    _tasks: JoinSet<()>,
}

impl Captured {
    pub(super) fn is_by(&self, proxy: &Arc<NodeProxy>) -> bool {
        Arc::ptr_eq(&self.proxy, proxy)
    }
}

fn accept<F: Future<Output = ()> + Send + 'static>(
    tasks: &mut JoinSet<()>,
    listener: TcpListener,
    pod: &Arc<Pod>,
    take: impl Fn(Arc<Pod>, TcpStream) -> F + Send + 'static,
) {
    let pod = pod.clone();
    tasks.spawn(each_connection(listener, move |stream| take(pod.clone(), stream)));
}

/// A captured pod.
struct Pod {
    proxy: Arc<NodeProxy>,
    key: (String, String),
    network: PodNetwork,
}

impl Pod {
    /// The pod's own workload, as the control plane tells of it.
    fn workload(&self, table: &Table) -> Result<Workload, String> {
        let mut workloads = table.workloads.values();
        let own = workloads.find(|one| (&one.namespace, &one.name) == (&self.key.0, &self.key.1));
        own.cloned().ok_or_else(|| "failed to fetch information about local workload".into())
    }

    fn note(&self, outbound: bool, destination: SocketAddr, peer: Option<String>, error: Option<String>) {
        self.proxy.note(Access { outbound, pod: self.key.clone(), destination, peer, error });
    }

    async fn outbound(&self, mut stream: TcpStream) {
        let Some(destination) = original_destination(&stream) else { return };
        let address = SocketAddr::V4(destination);
        match self.send(&mut stream, destination).await {
            Ok(()) => {}
            Err((peer, error)) => self.note(true, address, peer, Some(error)),
        }
        // It is dropped here; whoever was refused sees it closed.
    }

    async fn send(&self, stream: &mut TcpStream, destination: SocketAddrV4) -> Result<(), (Option<String>, String)> {
        let failed = |error: String| (None, error);
        let (source, route) = self
            .proxy
            .client
            .read(|table| {
                let source = self.workload(table)?;
                let route = route::outbound(table, &source, destination)?;
                Ok::<_, String>((source, route))
            })
            .map_err(failed)?;
        match route {
            Route::Plain(to) => {
                let mut upstream = self.network.connect(to).await.map_err(|error| failed(error.to_string()))?;
                self.note(true, destination.into(), None, None);
                let _ = tokio::io::copy_bidirectional(stream, &mut upstream).await;
            }
            Route::Hbone { to, authority, peers } => {
                let identity = self.proxy.identity(&source).await.map_err(failed)?;
                let upstream = self.network.connect(to).await.map_err(|error| failed(error.to_string()))?;
                let client = Client::over(&identity, upstream).await.map_err(failed)?;
                let peer = client.peer.clone();
                if !peers.contains(&peer) {
                    return Err((Some(peer), format!("the peer is none of {peers:?}")));
                }
                let tunnel = client.tunnel(&authority).await.map_err(|error| (Some(peer.clone()), error))?;
                self.note(true, destination.into(), Some(peer), None);
                let mut tunnel = tunnel;
                let _ = tokio::io::copy_bidirectional(stream, &mut tunnel).await;
            }
        }
        Ok(())
    }

    async fn inbound(self: Arc<Self>, stream: TcpStream) {
        let source = stream.peer_addr();
        let own = self.proxy.client.read(|table| self.workload(table));
        let (Ok(SocketAddr::V4(source)), Ok(own)) = (source, own) else { return };
        let Ok(identity) = self.proxy.identity(&own).await else { return };
        let open = |asked: Asked| {
            let pod = self.clone();
            async move { pod.open(&asked, *source.ip()).await }
        };
        serve(stream, &identity, open).await;
    }

    /// Lets a tunnel in or not.
    async fn open(&self, asked: &Asked, source: Ipv4Addr) -> Result<Carry, StatusCode> {
        let destination: SocketAddr = asked.destination.parse().map_err(|_| StatusCode::BAD_REQUEST)?;
        if destination.ip() != IpAddr::V4(self.network.ip) {
            return Err(StatusCode::BAD_REQUEST);
        }
        let peer = Some(asked.peer.clone());
        let connection = Connection { peer: Some(&asked.peer), source, destination };
        if let Err(error) = self.allowed(&connection) {
            self.note(false, destination, peer, Some(error));
            return Err(StatusCode::UNAUTHORIZED);
        }
        let upstream = self.network.connect(destination).await;
        let mut upstream = upstream.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
        self.note(false, destination, peer, None);
        Ok(Box::new(move |tunnel| {
            Box::pin(async move {
                let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(tunnel), &mut upstream).await;
            })
        }))
    }

    async fn inbound_plain(self: Arc<Self>, mut stream: TcpStream) {
        let (source, destination) = (stream.peer_addr(), original_destination(&stream));
        let (Ok(SocketAddr::V4(source)), Some(destination)) = (source, destination) else { return };
        let destination = SocketAddr::V4(destination);
        let allowed = self.allowed(&Connection { peer: None, source: *source.ip(), destination });
        self.note(false, destination, None, allowed.clone().err());
        if allowed.is_ok()
            && let Ok(mut upstream) = self.network.connect(destination).await
        {
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut upstream).await;
        }
    }

    fn allowed(&self, connection: &Connection<'_>) -> Result<(), String> {
        self.proxy.client.read(|table| rbac::allowed(table, &self.workload(table)?, connection))
    }
}

/// Where a connection had wanted to go before it was redirected.
fn original_destination(stream: &TcpStream) -> Option<SocketAddrV4> {
    SockRef::from(stream).original_dst_v4().ok()?.as_socket_ipv4()
}
