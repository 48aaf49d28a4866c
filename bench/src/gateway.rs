//! Gateways that many namespaces share: routes for a host each, certificates
//! for listeners, and services with a pod behind them.
//!
//! As in [`mesh`](crate::mesh), everything is a function of its number; only
//! certificates are made anew each time.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::Context;

use crate::certificate::self_signed;
use crate::mesh::{mark, write, write_all};
use crate::waypoint::HEADER;

/// The namespace of the Gateways and of their certificates.
pub const NAMESPACE: &str = "edge";
/// The route configuration of the listener that routes are attached to.
pub const ROUTES: &str = "http.80";
/// How many Secrets are in files of their own, to be changed one at a time.
const HOT: usize = 64;
/// What is said of what has not changed.
const FIRST: &str = "first";

/// How much there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Gateways.
    pub gateways: usize,
    /// Namespaces of applications.
    pub namespaces: usize,
    /// Routes, spread over all of these; a multiple of the Gateways.
    pub routes: usize,
    /// Services with a pod each, spread over the namespaces.
    pub services: usize,
    /// Listeners with a certificate of their own, spread over the Gateways.
    pub secrets: usize,
}

/// What is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A route for a new host is added.
    Route,
    /// A Secret gets another certificate.
    Secret,
}

/// Gateways and what they serve, and what has changed in it.
pub struct Edge {
    /// Its size when it was made.
    pub size: Size,
    /// The versions of routes that came later, by number.
    pub added: BTreeMap<usize, String>,
    /// The versions of Secrets that have changed, by number.
    pub secrets: BTreeMap<usize, String>,
    /// Services that came later, with a route each.
    pub more: usize,
}

impl Edge {
    /// As it was made.
    pub fn new(size: Size) -> Self {
        Self { size, added: BTreeMap::new(), secrets: BTreeMap::new(), more: 0 }
    }

    /// Writes everything into a new folder.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder.join("hot")).with_context(|| format!("cannot create {}", folder.display()))?;
        write_all(folder, "object", self.objects())?;
        let (secrets, secret) = (self.size.secrets, |at| self.secret(at, FIRST));
        let rest: Vec<_> = (HOT.min(secrets)..secrets).map(secret).collect::<anyhow::Result<_>>()?;
        write_all(folder, "secret", rest)?;
        for at in 0..HOT.min(secrets) {
            write(&folder.join(secret_file(at)), &secret(at)?)?;
        }
        Ok(())
    }

    /// All objects but Secrets, in texts of several.
    pub fn objects(&self) -> impl Iterator<Item = String> {
        let Size { gateways, namespaces, routes, services, .. } = self.size;
        let names = (0..namespaces).map(namespace).chain([NAMESPACE.to_owned()]);
        names
            .map(|name| namespace_object(&name))
            .chain((0..gateways).map(|at| self.gateway(at)))
            .chain((0..services).map(|at| self.service(at)))
            .chain((0..routes).map(|at| self.route(at, FIRST)))
    }

    /// Makes a change of one object, with its mark. Returns the file and what is
    /// in it from now on.
    pub fn change(&mut self, what: What, change: usize) -> anyhow::Result<(String, String)> {
        let version = mark(change);
        Ok(match what {
            What::Route => {
                let at = self.size.routes + change;
                let object = self.route(at, &version);
                self.added.insert(at, version);
                (format!("hot/route-{at:06}.yaml"), object)
            }
            What::Secret => {
                let at = change % HOT.min(self.size.secrets);
                let object = self.secret(at, &version)?;
                self.secrets.insert(at, version);
                (secret_file(at), object)
            }
        })
    }

    /// One more service, with a route at the first Gateway. Returns its cluster,
    /// and the file with what is in it.
    pub fn add(&mut self) -> (String, String, String) {
        let at = self.size.services + self.more;
        self.more += 1;
        let route = route_object(&format!("more-{at}"), &host_of_more(at), 0, &self.backend(at), FIRST);
        (self.cluster(at), format!("hot/more-{at:05}.yaml"), [self.service(at), route].join("---\n"))
    }

    /// The hosts of a Gateway, and what their route sets the header to.
    pub fn expected_routes(&self, gateway: usize) -> BTreeMap<String, String> {
        let made = (0..self.size.routes).map(|at| (at, FIRST));
        let added = self.added.iter().map(|(at, version)| (*at, version.as_str()));
        let here = made.chain(added).filter(|(at, _)| at % self.size.gateways == gateway);
        let more = self.more_of(gateway).map(|at| (host_of_more(at), FIRST.to_owned()));
        here.map(|(at, version)| (self.host(at), version.to_owned())).chain(more).collect()
    }

    /// The names by which the proxies of a Gateway ask for their certificates,
    /// and the versions of these.
    pub fn expected_secrets(&self, gateway: usize) -> BTreeMap<String, String> {
        let here = (0..self.size.secrets).filter(|at| at % self.size.gateways == gateway);
        let version = |at: &usize| self.secrets.get(at).map_or(FIRST, String::as_str).to_owned();
        here.map(|at| (format!("kubernetes-gateway://{NAMESPACE}/{}", secret_name(at)), version(&at))).collect()
    }

    /// The clusters that the routes of a Gateway lead to.
    pub fn clusters(&self, gateway: usize) -> Vec<String> {
        let routes = (gateway..self.size.routes).step_by(self.size.gateways);
        let mut all: Vec<_> =
            routes.map(|at| self.service_of(at)).chain(self.more_of(gateway)).map(|at| self.cluster(at)).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The services that came later and have a route at a Gateway.
    fn more_of(&self, gateway: usize) -> std::ops::Range<usize> {
        let services = self.size.services;
        services..services + if gateway == 0 { self.more } else { 0 }
    }

    /// Routes of one Gateway are in all namespaces, and lead to all services in
    /// turn; those that come later lead where others do.
    fn service_of(&self, route: usize) -> usize {
        route % self.size.routes / self.size.gateways % self.size.services
    }

    fn backend(&self, service: usize) -> Backend {
        Backend { name: format!("app-{service:05}"), namespace: namespace(service % self.size.namespaces) }
    }

    fn cluster(&self, service: usize) -> String {
        let Backend { name, namespace } = self.backend(service);
        format!("outbound|80||{name}.{namespace}.svc.cluster.local")
    }

    fn host(&self, route: usize) -> String {
        format!("r{route:06}.{}.example.com", gateway_name(route % self.size.gateways))
    }

    fn route(&self, at: usize, version: &str) -> String {
        let backend = self.backend(self.service_of(at));
        route_object(&format!("route-{at:06}"), &self.host(at), at % self.size.gateways, &backend, version)
    }

    fn gateway(&self, at: usize) -> String {
        let name = gateway_name(at);
        let mut text = format!(
            "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: {name}
  namespace: {NAMESPACE}
spec:
  gatewayClassName: istio
  listeners:
  - name: http
    port: 80
    protocol: HTTP
    allowedRoutes: {{ namespaces: {{ from: All }} }}
"
        );
        for secret in (at..self.size.secrets).step_by(self.size.gateways) {
            let credential = secret_name(secret);
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "  - name: {credential}
    port: 443
    protocol: HTTPS
    hostname: {credential}.example.com
    tls: {{ certificateRefs: [{{ name: {credential} }}] }}
"
            );
        }
        text
    }

    fn service(&self, at: usize) -> String {
        let Backend { name, namespace } = self.backend(at);
        let address = |net: [u8; 4]| Ipv4Addr::from(u32::from(Ipv4Addr::from(net)) + at as u32);
        format!(
            "apiVersion: v1
kind: Service
metadata:
  name: {name}
  namespace: {namespace}
  creationTimestamp: \"2026-03-02T09:30:00Z\"
spec:
  clusterIP: {vip}
  clusterIPs:
  - {vip}
  ports:
  - appProtocol: http
    name: http
    port: 80
    protocol: TCP
    targetPort: 8080
  selector:
    app: {name}
---
apiVersion: v1
kind: Pod
metadata:
  labels:
    app: {name}
  name: {name}-1
  namespace: {namespace}
  uid: {at:08x}-0000-4c3b-8a9e-000000000000
spec:
  containers:
  - name: app
    ports:
    - containerPort: 8080
      protocol: TCP
  nodeName: node-{node}
  serviceAccountName: {name}
status:
  conditions:
  - status: \"True\"
    type: Ready
  phase: Running
  podIPs:
  - ip: {pod}
",
            vip = address([10, 96, 0, 10]),
            pod = address([10, 128, 0, 10]),
            node = at % 50
        )
    }

    /// A Secret with a new certificate, before which its version is written, as
    /// tools write whose it is.
    fn secret(&self, at: usize, version: &str) -> anyhow::Result<String> {
        let name = secret_name(at);
        let (certificate, key) = self_signed(&format!("{name}.example.com"))?;
        let indent = |pem: Vec<u8>| -> anyhow::Result<String> {
            Ok(String::from_utf8(pem)?.lines().map(|line| format!("    {line}\n")).collect())
        };
        let (certificate, key) = (indent(certificate.to_pem()?)?, indent(key.private_key_to_pem_pkcs8()?)?);
        Ok(format!(
            "apiVersion: v1
kind: Secret
metadata:
  name: {name}
  namespace: {NAMESPACE}
type: kubernetes.io/tls
stringData:
  tls.crt: |
    version {version}
{certificate}  tls.key: |
{key}"
        ))
    }
}

struct Backend {
    name: String,
    namespace: String,
}

/// The name of a Gateway.
pub fn gateway_name(at: usize) -> String {
    format!("gateway-{at}")
}

fn namespace(at: usize) -> String {
    format!("team-{at:03}")
}

fn secret_name(at: usize) -> String {
    format!("tls-{at:05}")
}

fn secret_file(at: usize) -> String {
    format!("hot/secret-{at:05}.yaml")
}

fn host_of_more(service: usize) -> String {
    format!("more-{service}.example.com")
}

fn namespace_object(name: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n")
}

fn route_object(name: &str, host: &str, gateway: usize, to: &Backend, version: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: {name}
  namespace: {namespace}
spec:
  parentRefs:
  - name: {gateway}
    namespace: {NAMESPACE}
    sectionName: http
  hostnames:
  - {host}
  rules:
  - matches:
    - path:
        type: PathPrefix
        value: /
    filters:
    - type: ResponseHeaderModifier
      responseHeaderModifier:
        set:
        - name: {HEADER}
          value: {version}
    timeouts:
      request: 5s
    backendRefs:
    - name: {to}
      port: 80
",
        namespace = to.namespace,
        gateway = gateway_name(gateway),
        to = to.name
    )
}
