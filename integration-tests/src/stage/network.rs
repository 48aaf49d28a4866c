//! The network of the stage: one namespace is the nodes', and every pod has one
//! of its own, joined to it by a pair of virtual Ethernet devices. There is no
//! way out.
//!
//! Nodes differ in their addresses only, and so do the pods of different nodes:
//! what matters to a mesh is which node a pod is on, not how far away that is.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::sync::mpsc;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;

/// Where the control plane of the cluster is.
pub(super) const CONTROL_PLANE: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 1);
/// All addresses of nodes.
pub(super) const NODES: &str = "172.18.0.0/16";
/// All addresses of pods.
pub(super) const PODS: &str = "10.244.0.0/16";
/// All addresses of Services.
const SERVICES: &str = "10.96.0.0/16";
/// All addresses of load balancers.
const LOAD_BALANCERS: &str = "172.19.255.0/24";
/// Who answers questions of DNS.
pub(super) const DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// What every pod takes for its router.
const ROUTER: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// What a ztunnel's own sockets are marked with, so that nobody takes them for
/// those of the pod.
const MARK: u32 = 0x539;
/// Where a ztunnel takes what a pod sends.
pub(super) const OUTBOUND: u16 = 15001;
/// Where it takes what somebody sends a pod in plain text.
pub(super) const INBOUND_PLAIN: u16 = 15006;
/// Where it takes HBONE.
pub(super) const INBOUND_HBONE: u16 = 15008;

/// The address of a node, counted from 0.
pub(super) fn node_ip(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(172, 18, 0, 2 + node as u8)
}

/// The address of a load balancer, counted from 1.
pub(super) fn load_balancer_ip(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 19, 255, number)
}

/// Makes the nodes' namespace.
pub(super) async fn make(nodes: usize) {
    let addresses = (0..nodes).map(node_ip).chain([CONTROL_PLANE, ROUTER, DNS]);
    let addresses: Vec<_> = addresses.map(|ip| format!("ip address add {ip}/32 dev lo")).collect();
    let script = format!(
        "{}\n\
         ip route add {SERVICES} dev lo src {CONTROL_PLANE}\n\
         ip route add {LOAD_BALANCERS} dev lo src {CONTROL_PLANE}\n\
         echo 1 >/proc/sys/net/ipv4/ip_forward\n",
        addresses.join("\n")
    );
    run(None, &script).await.unwrap_or_else(|error| panic!("the network of the stage: {error}"));
}

/// Runs a script of shell in the namespace of a process, or in the nodes'.
async fn run(process: Option<u32>, script: &str) -> Result<(), String> {
    let mut command = match process {
        Some(process) => {
            let mut command = tokio::process::Command::new("nsenter");
            command.arg(format!("--net=/proc/{process}/ns/net")).arg("sh");
            command
        }
        None => tokio::process::Command::new("sh"),
    };
    command.args(["-eu", "-s"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let mut stdin = child.stdin.take().expect("it is piped");
    // A script that fails is not read to its end.
    let _ = stdin.write_all(script.as_bytes()).await;
    drop(stdin);
    let output = child.wait_with_output().await.map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// The namespace of a pod, for sockets to be made in.
#[derive(Clone)]
pub(super) struct PodNetwork {
    pub(super) ip: Ipv4Addr,
    process: u32,
    orders: mpsc::Sender<Order>,
}

type Order = Box<dyn FnOnce() + Send>;

impl PodNetwork {
    /// Joins the namespace of a process, which is new and empty, to the nodes'.
    /// The device goes with the namespace.
    pub(super) async fn join(process: u32, node: Ipv4Addr, ip: Ipv4Addr) -> Result<Self, String> {
        let device = format!("pod{process}");
        let outside = format!(
            "ip link add {device} type veth peer name eth0 netns {process}\n\
             ip link set {device} up\n\
             ip route add {ip}/32 dev {device} src {node}\n"
        );
        run(None, &outside).await?;
        let inside = format!(
            "ip link set lo up\n\
             ip address add {ip}/32 dev eth0\n\
             ip link set eth0 up\n\
             ip route add {ROUTER} dev eth0 scope link\n\
             ip route add default via {ROUTER}\n"
        );
        run(Some(process), &inside).await?;
        let namespace = std::fs::File::open(format!("/proc/{process}/ns/net")).map_err(|error| error.to_string())?;
        let (orders, queue) = mpsc::channel::<Order>();
        // Sockets stay where they were made, so a thread that never leaves makes
        // them for everybody.
        let entered = move || {
            let kind = Some(LinkNameSpaceType::Network);
            match move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), kind) {
                Ok(()) => queue.into_iter().for_each(|order| order()),
                Err(error) => eprintln!("cannot enter the network of {ip}: {error}"),
            }
        };
        std::thread::Builder::new().name(format!("pod {ip}")).spawn(entered).map_err(|error| error.to_string())?;
        Ok(Self { ip, process, orders })
    }

    /// Has connections from and to the pod redirected to its node's ztunnel, as
    /// Istio's CNI agent does. What the nodes themselves send, such as probes, is
    /// left alone.
    pub(super) async fn redirect(&self) -> Result<(), String> {
        let rules = format!(
            "nft -f - <<END\n\
             table ip mesh {{\n\
               chain output {{\n\
                 type nat hook output priority -100\n\
                 meta mark {MARK} return\n\
                 oifname lo return\n\
                 ip protocol tcp redirect to :{OUTBOUND}\n\
               }}\n\
               chain prerouting {{\n\
                 type nat hook prerouting priority -100\n\
                 iifname lo return\n\
                 ip saddr {NODES} return\n\
                 tcp dport {INBOUND_HBONE} return\n\
                 ip protocol tcp redirect to :{INBOUND_PLAIN}\n\
               }}\n\
             }}\n\
             END\n"
        );
        run(Some(self.process), &rules).await
    }

    /// Ends that.
    pub(super) async fn leave_alone(&self) -> Result<(), String> {
        run(Some(self.process), "nft delete table ip mesh\n").await
    }

    async fn within<T: Send + 'static>(
        &self,
        make: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> std::io::Result<T> {
        let (answer, made) = oneshot::channel();
        let gone = || std::io::Error::other("the pod is gone");
        self.orders.send(Box::new(move || drop(answer.send(make())))).map_err(|_| gone())?;
        made.await.map_err(|_| gone())?
    }

    /// Listens at a port of the pod.
    pub(super) async fn listen(&self, port: u16) -> std::io::Result<TcpListener> {
        let listener = self.within(move || {
            let listener = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        TcpListener::from_std(listener.await?)
    }

    /// Connects from the pod without being redirected.
    pub(super) async fn connect(&self, address: SocketAddr) -> std::io::Result<TcpStream> {
        let socket = self.within(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            socket.set_nonblocking(true)?;
            socket.set_mark(MARK)?;
            Ok(socket)
        });
        TcpSocket::from_std_stream(socket.await?.into()).connect(address).await
    }
}
