//! Services: Kubernetes' own and those of ServiceEntries, one for each
//! namespace and hostname.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::api::core::{self, TargetPort};
use crate::api::istio::{ServiceEntry, ServiceEntryPort, ServiceEntrySpec};
use crate::api::{Labels, Meta, ObjectKey};
use crate::graph::{Collection, Ctx, Graph, Index};

use super::{Scope, auto_allocation, not_known, problem};

/// A service's name in the mesh.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The hostname; may start with `*.`.
    pub hostname: Arc<str>,
}

impl std::fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.hostname)
    }
}

impl std::fmt::Debug for ServiceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// Where a service was registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Registry {
    /// A Kubernetes Service.
    Kubernetes,
    /// A ServiceEntry.
    ServiceEntry,
}

impl Registry {
    /// The kind of the objects that services of it come from.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Kubernetes => "Service",
            Self::ServiceEntry => "ServiceEntry",
        }
    }
}

/// A label pair in a namespace, by which selectors are found.
pub type SelectorKey = (Arc<str>, Arc<str>, Arc<str>);

/// A service, wherever it was registered.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Where it was registered.
    pub registry: Registry,
    /// The object it comes from.
    pub meta: Meta,
    /// Its name in the mesh.
    pub key: ServiceKey,
    /// Virtual addresses, in order; none for a headless service.
    pub addresses: Vec<IpNet>,
    /// Its ports.
    pub ports: Vec<Port>,
    /// The workloads behind it; empty selects none.
    pub selector: Labels,
    /// How the places behind it are found.
    pub resolution: Resolution,
    /// Whether it is outside of the mesh.
    pub external: bool,
    /// SPIFFE identities its endpoints may have besides those known.
    pub subject_alt_names: Box<[Arc<str>]>,
    /// Where its traffic should go.
    pub distribution: Distribution,
    /// Whether endpoints that are not ready count.
    pub all_endpoints: bool,
    /// The address families it is restricted to, in order of preference.
    pub families: Box<[Arc<str>]>,
    /// The namespaces that may see it; empty leaves that to the mesh.
    pub export_to: Box<[Arc<str>]>,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// The name.
    pub name: Arc<str>,
    /// The number clients use.
    pub number: u16,
    /// Where workloads listen.
    pub target: TargetPort,
    /// `TCP`, `UDP` or `SCTP`.
    pub transport: Arc<str>,
    /// The application protocol.
    pub protocol: Protocol,
}

/// The application protocol of a port, as far as proxies tell them apart.
/// <https://istio.io/latest/docs/ops/configuration/traffic-management/protocol-selection/>
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Not declared, or one that proxies do not treat specially.
    Unknown,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
    /// gRPC.
    Grpc,
    /// Opaque TCP.
    Tcp,
    /// TLS, and HTTPS which looks the same.
    Tls,
}

/// How the places behind a service are found.
/// <https://istio.io/latest/docs/reference/config/networking/service-entry/#ServiceEntry-Resolution>
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Their addresses are known.
    Static,
    /// By DNS; every answer is one of them.
    Dns,
    /// By DNS; each new connection goes to the newest answer.
    DnsRoundRobin,
    /// The same, but the answers are tried side by side.
    DnsRace,
    /// Connections go to the address they were for.
    Passthrough,
    /// By DNS, from the name that each request is for.
    DynamicDns,
}

impl Resolution {
    fn of_entry(resolution: &str, meta: &Meta) -> Self {
        // <https://istio.io/latest/docs/reference/config/annotations/>
        let strategy = meta.annotation("istio.io/connect-strategy").unwrap_or_default();
        let race = strategy.eq_ignore_ascii_case("RACE_FIRST_TCP_CONNECT");
        match resolution {
            "" | "NONE" => Self::Passthrough,
            "DNS" if race => Self::DnsRace,
            "DNS" => Self::Dns,
            "DNS_ROUND_ROBIN" => Self::DnsRoundRobin,
            "DYNAMIC_DNS" => Self::DynamicDns,
            _ => Self::Static,
        }
    }

    /// Whether hostnames can stand for endpoints.
    pub const fn by_dns(self) -> bool {
        matches!(self, Self::Dns | Self::DnsRoundRobin | Self::DnsRace)
    }
}

/// How traffic to a service is spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distribution {
    /// Over all endpoints.
    Any,
    /// Only over those on the client's node.
    LocalNode,
    /// Preferably in the client's zone.
    PreferSameZone,
    /// Preferably on the client's node.
    PreferSameNode,
    /// To the address the client asked for.
    Passthrough,
}

/// All services. A Kubernetes Service beats ServiceEntries that claim its
/// hostname in its namespace; of those, the oldest counts.
pub fn services(graph: &mut Graph, scope: &Scope) -> Collection<ServiceKey, Arc<Service>> {
    let scope_of = scope.clone();
    let kubernetes = graph.derive("kubernetes_services", scope.inputs.services, move |cx, _, service| {
        kubernetes_service(cx, &scope_of, service).map(|service| (service.key.clone(), Arc::new(service)))
    });
    let scope_of = scope.clone();
    let claims = graph.derive("service_entry_hosts", scope.inputs.service_entries, move |cx, key, entry| {
        let services = entry_services(cx, &scope_of, entry);
        services.into_iter().map(|one| ((one.key.clone(), key.clone()), Arc::new(one))).collect::<Vec<_>>()
    });
    let by_host = graph.index(claims, |(key, _): &(ServiceKey, ObjectKey), _, keys| keys.push(key.clone()));
    let entries = graph.group("service_entry_services", by_host, move |cx, host| {
        let claims = cx.fetch(by_host, host);
        // Equal ages are decided by name, so that restarts agree.
        claims.map(|(_, service)| service).min_by_key(|service| (service.meta.created, service.meta.key())).cloned()
    });
    graph.union("mesh_services", [kubernetes, entries])
}

/// Services by the first pair of their selector: enough to find the few that
/// may select a workload from its labels.
pub fn by_selector(
    graph: &mut Graph,
    services: Collection<ServiceKey, Arc<Service>>,
) -> Index<SelectorKey, ServiceKey, Arc<Service>> {
    graph.index(services, |key: &ServiceKey, service: &Arc<Service>, keys| {
        if let Some((label, value)) = service.selector.iter().next() {
            keys.push((key.namespace.clone(), label.into(), value.into()));
        }
    })
}

/// Services by the object they come from.
pub fn by_origin(
    graph: &mut Graph,
    services: Collection<ServiceKey, Arc<Service>>,
) -> Index<(Registry, ObjectKey), ServiceKey, Arc<Service>> {
    graph.index(services, |_: &ServiceKey, service: &Arc<Service>, keys| {
        keys.push((service.registry, service.meta.key()));
    })
}

/// For each hostname the one service that stands for it outside its own
/// namespace: the Kubernetes Service, else the oldest ServiceEntry.
pub fn canonical(
    graph: &mut Graph,
    services: Collection<ServiceKey, Arc<Service>>,
) -> Collection<Arc<str>, ServiceKey> {
    let by_hostname = graph.index(services, |key: &ServiceKey, _: &Arc<Service>, keys| keys.push(key.hostname.clone()));
    graph.group("canonical_services", by_hostname, move |cx, hostname| {
        let all = cx.fetch(by_hostname, hostname);
        all.min_by_key(|(key, service)| (service.registry, service.meta.created, (*key).clone()))
            .map(|(key, _)| key.clone())
    })
}

/// The hostname of a Kubernetes Service.
pub fn hostname(name: &str, namespace: &str, domain: &str) -> Arc<str> {
    format!("{name}.{namespace}.svc.{domain}").into()
}

fn kubernetes_service(cx: &Ctx<'_>, scope: &Scope, service: &core::Service) -> Option<Service> {
    let (meta, spec) = (&service.meta, &service.spec);
    // The DNS server answers for an external name; there is nothing to route.
    if &*spec.kind == "ExternalName" || !scope.discovers(cx, &meta.namespace) {
        return None;
    }
    let single = std::slice::from_ref(&spec.cluster_ip);
    let addresses = if spec.cluster_ips.is_empty() { single } else { &spec.cluster_ips };
    let mut parsed = Vec::with_capacity(addresses.len());
    for address in addresses.iter().filter(|address| !matches!(&***address, "" | "None")) {
        match address.parse::<IpAddr>() {
            Ok(address) => parsed.push(IpNet::from(address)),
            Err(_) => {
                let message = format!("{address:?} is not an IP address; the service is left out");
                cx.diagnose(problem("Service", meta, "spec.clusterIPs", "InvalidAddress", message));
                return None;
            }
        }
    }
    let distribution = match &*spec.internal_traffic_policy {
        "Local" => Distribution::LocalNode,
        _ => distribution(cx, scope, "Service", meta, &spec.traffic_distribution),
    };
    Some(Service {
        registry: Registry::Kubernetes,
        key: ServiceKey {
            namespace: meta.namespace.clone(),
            hostname: hostname(&meta.name, &meta.namespace, &scope.settings.domain),
        },
        meta: meta.clone(),
        addresses: parsed,
        ports: spec.ports.iter().map(kubernetes_port).collect(),
        selector: spec.selector.clone(),
        resolution: Resolution::Static,
        external: false,
        subject_alt_names: [].into(),
        distribution,
        all_endpoints: spec.publish_not_ready_addresses,
        families: spec.ip_families.clone(),
        export_to: meta.annotation(EXPORT_TO).map(export_to).unwrap_or_default(),
    })
}

/// The annotation of a Kubernetes Service that says who may see it.
/// <https://istio.io/latest/docs/reference/config/annotations/#NetworkingExportTo>
const EXPORT_TO: &str = "networking.istio.io/exportTo";

fn export_to(list: &str) -> Box<[Arc<str>]> {
    list.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(Into::into).collect()
}

fn kubernetes_port(port: &core::ServicePort) -> Port {
    let transport = if port.protocol.is_empty() { "TCP".into() } else { port.protocol.clone() };
    Port {
        name: port.name.clone(),
        number: port.port,
        target: port.target_port.clone(),
        protocol: Protocol::of_port(port.port, &port.name, &transport, &port.app_protocol),
        transport,
    }
}

fn entry_services(cx: &Ctx<'_>, scope: &Scope, entry: &ServiceEntry) -> Vec<Service> {
    let (meta, spec) = (&entry.meta, &entry.spec);
    if !scope.configures(cx, meta) {
        return Vec::new();
    }
    not_known(cx, "ServiceEntry", meta, "", &entry.unknown);
    let say = |field: String, reason, message: String| {
        cx.diagnose(problem("ServiceEntry", meta, field, reason, message));
    };
    let mut addresses = Vec::with_capacity(spec.addresses.len());
    for (at, address) in spec.addresses.iter().enumerate() {
        match parse_range(address) {
            Some(range) => addresses.push(range),
            None => {
                let message = format!("{address:?} is neither an IP address nor a CIDR range; the entry is left out");
                say(format!("spec.addresses[{at}]"), "InvalidAddress", message);
                return Vec::new();
            }
        }
    }
    let resolution = Resolution::of_entry(&spec.resolution, meta);
    if resolution == Resolution::Static && &*spec.resolution != "STATIC" {
        let message = format!("{:?} is not a resolution; STATIC is used, and no name is resolved", spec.resolution);
        say("spec.resolution".into(), "UnsupportedValue", message);
    }
    if !matches!(&*spec.location, "" | "MESH_EXTERNAL" | "MESH_INTERNAL") {
        let message = format!("{:?} is not a location; MESH_EXTERNAL is used", spec.location);
        say("spec.location".into(), "UnsupportedValue", message);
    }
    contradictions(spec, resolution, &say);
    let passthrough = resolution == Resolution::Passthrough;
    let distribution =
        if passthrough { Distribution::Passthrough } else { distribution(cx, scope, "ServiceEntry", meta, "") };
    let ports = entry_ports(&spec.ports, &say);
    let service = |hostname: &Arc<str>| Service {
        registry: Registry::ServiceEntry,
        key: ServiceKey { namespace: meta.namespace.clone(), hostname: hostname.clone() },
        meta: meta.clone(),
        addresses: match addresses.is_empty() && !passthrough {
            true => allocated(scope, entry, hostname),
            false => addresses.clone(),
        },
        ports: ports.clone(),
        selector: spec.workload_selector.as_ref().map(|selector| selector.labels.clone()).unwrap_or_default(),
        resolution,
        external: &*spec.location != "MESH_INTERNAL",
        subject_alt_names: spec.subject_alt_names.clone(),
        distribution,
        all_endpoints: passthrough,
        families: [].into(),
        export_to: spec.export_to.clone(),
    };
    if spec.hosts.is_empty() {
        say("spec.hosts".into(), "InvalidValue", "without a host there is no service; the entry is left out".into());
    }
    let alone = spec.endpoints.is_empty() && spec.workload_selector.is_none();
    let mut services = Vec::with_capacity(spec.hosts.len());
    for (at, host) in spec.hosts.iter().enumerate().filter(|(at, host)| !spec.hosts[..*at].contains(host)) {
        let field = || format!("spec.hosts[{at}]");
        if matches!(&**host, "" | "*") {
            say(field(), "InvalidValue", format!("{host:?} is not the name of a host; left out"));
            continue;
        }
        if host.starts_with('*') && resolution.by_dns() && alone {
            let message = format!("{host} cannot be resolved, and no endpoints are given: there is nothing behind it");
            say(field(), "UnsupportedValue", message);
        }
        services.push(service(host));
    }
    services
}

/// What an entry says that does not go together with its resolution, or with what
/// else it says. Istio's webhook refuses most of that.
/// <https://istio.io/latest/docs/reference/config/networking/service-entry/>
fn contradictions(spec: &ServiceEntrySpec, resolution: Resolution, say: &dyn Fn(String, &'static str, String)) {
    let (listed, selects) = (!spec.endpoints.is_empty(), spec.workload_selector.is_some());
    let unused = |why: &str| {
        for (field, given) in [("spec.endpoints", listed), ("spec.workloadSelector", selects)] {
            if given {
                say(field.into(), "UnsupportedValue", why.into());
            }
        }
    };
    match resolution {
        Resolution::Passthrough => unused("with the resolution NONE, connections go where they were going, not here"),
        Resolution::DynamicDns => {
            unused("with DYNAMIC_DNS, requests go to the name that they are for, not here");
            for (at, host) in spec.hosts.iter().enumerate().filter(|(_, host)| !host.starts_with('*')) {
                let message = format!("DYNAMIC_DNS is for hosts with a wildcard, which {host} is not");
                say(format!("spec.hosts[{at}]"), "InvalidValue", message);
            }
        }
        Resolution::Static | Resolution::Dns | Resolution::DnsRoundRobin | Resolution::DnsRace if listed && selects => {
            let message = "only one of endpoints and workloadSelector should be given; what either says counts";
            say("spec.workloadSelector".into(), "InvalidValue", message.into());
        }
        Resolution::Static | Resolution::Dns | Resolution::DnsRoundRobin | Resolution::DnsRace => {}
    }
    for (at, endpoint) in spec.endpoints.iter().enumerate() {
        for name in endpoint.ports.keys().filter(|name| spec.ports.iter().all(|port| *port.name != ***name)) {
            let message = format!("{name:?} is not the name of a port of the entry; not used");
            say(format!("spec.endpoints[{at}].ports"), "InvalidValue", message);
        }
    }
}

/// The ports of an entry, without those that cannot be: of two with one number
/// the first counts.
fn entry_ports(given: &[ServiceEntryPort], say: &dyn Fn(String, &'static str, String)) -> Vec<Port> {
    let mut ports: Vec<Port> = Vec::with_capacity(given.len());
    for (at, port) in given.iter().enumerate() {
        let number = || format!("spec.ports[{at}].number");
        if port.number == 0 {
            say(number(), "InvalidValue", "a port needs a number from 1 to 65535; left out".into());
            continue;
        }
        if let Some(first) = ports.iter().find(|one| one.number == port.number) {
            let message = format!("port {} is also that of {:?}, which counts; left out", port.number, first.name);
            say(number(), "InvalidValue", message);
            continue;
        }
        if let Some(first) = ports.iter().find(|one| one.name == port.name) {
            let message =
                format!("{:?} is also the name of port {}: endpoints cannot tell them apart", port.name, first.number);
            say(format!("spec.ports[{at}].name"), "InvalidValue", message);
        }
        if !Protocol::is_name(&port.protocol) {
            let message = format!("{:?} is not a protocol; the port is as one without", port.protocol);
            say(format!("spec.ports[{at}].protocol"), "UnsupportedValue", message);
        }
        ports.push(entry_port(port));
    }
    ports
}

fn entry_port(port: &ServiceEntryPort) -> Port {
    let target = if port.target_port == 0 { port.number } else { port.target_port };
    let transport = if port.protocol.eq_ignore_ascii_case("udp") { "UDP" } else { "TCP" };
    Port {
        name: port.name.clone(),
        number: port.number,
        target: TargetPort::Number(target),
        transport: transport.into(),
        protocol: Protocol::parse(&port.protocol),
    }
}

/// Addresses that a control plane allocated to a host.
fn allocated(scope: &Scope, entry: &ServiceEntry, hostname: &str) -> Vec<IpNet> {
    let is_on = scope.settings.auto_allocation.is_some();
    if !is_on || !auto_allocation::asks(entry) || !auto_allocation::suits(entry, hostname) {
        return Vec::new();
    }
    let ours = entry.status.addresses.iter().filter(|address| address.host.is_empty() || &*address.host == hostname);
    ours.filter_map(|address| address.value.parse::<IpAddr>().ok()).map(IpNet::from).collect()
}

/// An address, or a range with its host bits cleared.
pub fn parse_range(text: &str) -> Option<IpNet> {
    match text.contains('/') {
        true => text.parse::<IpNet>().ok().map(|range| range.trunc()),
        false => text.parse::<IpAddr>().ok().map(IpNet::from),
    }
}

/// Traffic distribution: the field of a Service, else the annotation of the
/// object, else that of its namespace. Annotations ignore case.
fn distribution(cx: &Ctx<'_>, scope: &Scope, kind: &'static str, meta: &Meta, field: &str) -> Distribution {
    match field {
        "PreferClose" | "PreferSameZone" => return Distribution::PreferSameZone,
        "PreferSameNode" => return Distribution::PreferSameNode,
        _ => {}
    }
    const ANNOTATION: &str = "networking.istio.io/traffic-distribution";
    let own = meta.annotation(ANNOTATION).filter(|value| !value.is_empty());
    let value = own.or_else(|| {
        let namespace = scope.namespace(cx, &meta.namespace)?;
        namespace.annotation(ANNOTATION).filter(|value| !value.is_empty())
    });
    match value.map(str::to_ascii_lowercase).as_deref() {
        None => Distribution::Any,
        Some("preferclose" | "prefersamezone") => Distribution::PreferSameZone,
        Some("prefersamenode") => Distribution::PreferSameNode,
        Some(other) => {
            let message = format!("{other:?} is not a traffic distribution; traffic goes to all endpoints");
            cx.diagnose(problem(
                kind,
                meta,
                format!("metadata.annotations[{ANNOTATION}]"),
                "UnsupportedValue",
                message,
            ));
            Distribution::Any
        }
    }
}

impl Protocol {
    /// The protocol a name stands for, ignoring case.
    pub fn parse(name: &str) -> Self {
        match name.to_ascii_lowercase().as_str() {
            "http" => Self::Http11,
            "http2" => Self::Http2,
            "grpc" => Self::Grpc,
            "tcp" => Self::Tcp,
            "tls" | "https" => Self::Tls,
            _ => Self::Unknown,
        }
    }

    /// Whether a ServiceEntry may say that, ignoring case; some are treated like
    /// none.
    fn is_name(name: &str) -> bool {
        const OTHERS: [&str; 8] = ["", "udp", "grpc-web", "http_proxy", "mongo", "mysql", "redis", "doublehbone"];
        Self::parse(name) != Self::Unknown || OTHERS.iter().any(|one| name.eq_ignore_ascii_case(one))
    }

    /// The protocol of a Kubernetes port: its `appProtocol`, else the part of
    /// its name before the first dash.
    fn of_port(number: u16, name: &str, transport: &str, app_protocol: &str) -> Self {
        if transport == "UDP" {
            return Self::Unknown;
        }
        match app_protocol {
            "kubernetes.io/h2c" => return Self::Http2,
            "kubernetes.io/ws" => return Self::Http11,
            "kubernetes.io/wss" => return Self::Tls,
            _ => {}
        }
        let declared = if app_protocol.is_empty() { name } else { app_protocol };
        let head = declared.get(..8).unwrap_or_default();
        if head.eq_ignore_ascii_case("grpc-web") {
            return Self::Unknown;
        }
        let prefix = declared.split('-').next().unwrap_or_default();
        let known = ["http_proxy", "mongo", "mysql", "redis", "udp"];
        match Self::parse(prefix) {
            // Sniffing would break protocols where the server speaks first.
            Self::Unknown
                if matches!(number, 25 | 53 | 3306 | 27017) && !known.contains(&&*prefix.to_ascii_lowercase()) =>
            {
                Self::Tcp
            }
            protocol => protocol,
        }
    }
}
