//! A waypoint and what it serves: services with many routes, half of them of
//! Istio's API and half of the Gateway API, and pods behind them.
//!
//! As in [`mesh`](crate::mesh), everything is a function of its number.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::Context;

use crate::mesh::{mark, write, write_all};

/// The namespace that everything is in.
pub const NAMESPACE: &str = "shop";
/// The Gateway, and the service account of its proxies.
pub const GATEWAY: &str = "waypoint";
/// The header that tells one version of a route from the next.
pub const HEADER: &str = "x-bench";
/// How many services have routes and a pod in files of their own, to be
/// changed one at a time.
pub const HOT: usize = 64;
/// What is said of what has not changed.
const FIRST: &str = "first";

/// How much there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Services, of one HTTP port each.
    pub services: usize,
    /// Routes, spread over them.
    pub routes: usize,
    /// Pods, spread over them.
    pub pods: usize,
}

/// A waypoint's world, and what has changed in it.
pub struct Shop {
    /// Its size when it was made.
    pub size: Size,
    /// The versions of routes that have changed, by service.
    pub routes: BTreeMap<usize, String>,
    /// The versions of pods that have changed, by service.
    pub pods: BTreeMap<usize, String>,
    /// Services that came later.
    pub more: usize,
}

/// What is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A route of a service.
    Route,
    /// A pod behind it.
    Pod,
}

impl Shop {
    /// A world as it was made.
    pub fn new(size: Size) -> Self {
        Self { size, routes: BTreeMap::new(), pods: BTreeMap::new(), more: 0 }
    }

    /// Writes everything into a new folder.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder.join("hot")).with_context(|| format!("cannot create {}", folder.display()))?;
        write(&folder.join("waypoint.yaml"), &waypoint())?;
        let Size { services, pods, .. } = self.size;
        let hot = HOT.min(services);
        write_all(folder, "service", (0..services).map(service_object))?;
        write_all(folder, "route", (hot..services).map(|at| self.route(at)))?;
        write_all(folder, "pod", (hot..pods).map(|at| self.pod(at)))?;
        for at in 0..hot {
            write(&folder.join(hot_file(What::Route, at)), &self.route(at))?;
            write(&folder.join(hot_file(What::Pod, at)), &self.pod(at))?;
        }
        Ok(())
    }

    /// All objects, in texts of several.
    pub fn objects(&self) -> impl Iterator<Item = String> {
        let Size { services, pods, .. } = self.size;
        let all = (0..services).flat_map(|at| [service_object(at), self.route(at)]);
        std::iter::once(waypoint()).chain(all).chain((0..pods).map(|at| self.pod(at)))
    }

    /// Makes a change of one object, with its mark. Returns the file and what is
    /// in it from now on.
    pub fn change(&mut self, what: What, change: usize) -> (String, String) {
        let at = change % HOT.min(self.size.services);
        let versions = match what {
            What::Route => &mut self.routes,
            What::Pod => &mut self.pods,
        };
        versions.insert(at, mark(change));
        let object = match what {
            What::Route => self.route(at),
            What::Pod => self.pod(at),
        };
        (hot_file(what, at), object)
    }

    /// One more service, with a route and a pod. Returns its number, and the file
    /// with what is in it.
    pub fn add(&mut self) -> (usize, String, String) {
        let at = self.size.services + self.more;
        self.more += 1;
        // Numbers of pods and services are the same up to here.
        let pod = pod_object(at, at, 1_000_000 + at, FIRST);
        let all = [service_object(at), self.route(at), pod];
        (at, format!("hot/more-{at:05}.yaml"), all.join("---\n"))
    }

    /// How many routes a service has.
    pub fn routes_of(&self, at: usize) -> usize {
        let Size { services, routes, .. } = self.size;
        if at < services { routes / services + usize::from(at < routes % services) } else { 1 }
    }

    fn route(&self, at: usize) -> String {
        let version = self.routes.get(&at).map_or(FIRST, String::as_str);
        match at % 2 {
            0 => virtual_service(at, self.routes_of(at), version),
            _ => http_routes(at, self.routes_of(at), version),
        }
    }

    /// A pod; the first of each service are those of the same number.
    fn pod(&self, at: usize) -> String {
        let service = at % self.size.services;
        let version = if at == service { self.pods.get(&at).map(String::as_str) } else { None };
        pod_object(at, service, at, version.unwrap_or(FIRST))
    }

    /// What its first route sets the header to, for each service that has
    /// routes.
    pub fn expected_routes(&self) -> BTreeMap<String, String> {
        let all = (0..self.size.services + self.more).filter(|at| self.routes_of(*at) > 0);
        all.map(|at| (cluster(at), self.routes.get(&at).map_or(FIRST, String::as_str).to_owned())).collect()
    }

    /// The versions of the pods that have changed, by cluster.
    pub fn expected_pods(&self) -> BTreeMap<String, String> {
        self.pods.iter().map(|(at, version)| (cluster(*at), version.clone())).collect()
    }

    /// The names of all clusters with endpoints.
    pub fn clusters(&self) -> impl Iterator<Item = String> + use<> {
        (0..self.size.services + self.more).map(cluster)
    }
}

/// The cluster, and the filter chain, of a service.
pub fn cluster(at: usize) -> String {
    format!("inbound-vip|80|http|{}.{NAMESPACE}.svc.cluster.local", service(at))
}

fn service(at: usize) -> String {
    const PARTS: [&str; 8] = ["cart", "catalog", "search", "stock", "price", "review", "payment", "profile"];
    format!("{}-{at:05}", PARTS[at % PARTS.len()])
}

fn hot_file(what: What, at: usize) -> String {
    match what {
        What::Route => format!("hot/route-{at:05}.yaml"),
        What::Pod => format!("hot/pod-{at:05}.yaml"),
    }
}

fn waypoint() -> String {
    format!(
        "apiVersion: v1
kind: Namespace
metadata:
  name: {NAMESPACE}
  labels:
    istio.io/dataplane-mode: ambient
    istio.io/use-waypoint: {GATEWAY}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: {GATEWAY}
  namespace: {NAMESPACE}
  labels:
    istio.io/waypoint-for: service
spec:
  gatewayClassName: istio-waypoint
  listeners:
  - {{ name: mesh, port: 15008, protocol: HBONE }}
status:
  addresses:
  - {{ type: Hostname, value: {GATEWAY}.{NAMESPACE}.svc.cluster.local }}
"
    )
}

fn service_object(at: usize) -> String {
    let (name, address) = (service(at), Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 10)) + at as u32));
    format!(
        "apiVersion: v1
kind: Service
metadata:
  name: {name}
  namespace: {NAMESPACE}
  creationTimestamp: \"2026-03-02T09:30:00Z\"
spec:
  clusterIP: {address}
  clusterIPs:
  - {address}
  ports:
  - appProtocol: http
    name: http
    port: 80
    protocol: TCP
    targetPort: 8080
  selector:
    app: {name}
"
    )
}

fn pod_object(at: usize, of: usize, number: usize, version: &str) -> String {
    let (app, address) = (service(of), Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 10)) + number as u32));
    format!(
        "apiVersion: v1
kind: Pod
metadata:
  annotations:
    ambient.istio.io/redirection: enabled
  labels:
    app: {app}
    version: {version}
  name: {app}-{at:06}
  namespace: {NAMESPACE}
  uid: {at:08x}-0000-4c3b-8a9e-000000000000
spec:
  containers:
  - name: app
    ports:
    - containerPort: 8080
      protocol: TCP
  nodeName: node-{}
  serviceAccountName: {app}
status:
  conditions:
  - status: \"True\"
    type: Ready
  phase: Running
  podIPs:
  - ip: {address}
",
        at % 50
    )
}

fn virtual_service(at: usize, routes: usize, version: &str) -> String {
    let name = service(at);
    let rule = |rule: usize| {
        format!(
            "  - name: r{rule}
    match:
    - uri:
        prefix: /r{rule}/
      headers:
        x-version:
          exact: v{rule}
    headers:
      response:
        set:
          {HEADER}: {}
    timeout: 5s
    retries:
      attempts: 3
      perTryTimeout: 1s
      retryOn: 5xx,reset
    route:
    - destination:
        host: {name}
        port:
          number: 80
",
            if rule == 0 { version } else { FIRST }
        )
    };
    let rules: String = (0..routes).map(rule).collect();
    format!(
        "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: {name}
  namespace: {NAMESPACE}
spec:
  hosts:
  - {name}
  http:
{rules}"
    )
}

fn http_routes(at: usize, routes: usize, version: &str) -> String {
    let name = service(at);
    let route = |route: usize| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: {name}-r{route}
  namespace: {NAMESPACE}
spec:
  parentRefs:
  - group: \"\"
    kind: Service
    name: {name}
    port: 80
  rules:
  - matches:
    - path:
        type: PathPrefix
        value: /r{route}
      headers:
      - name: x-version
        value: v{route}
    filters:
    - type: ResponseHeaderModifier
      responseHeaderModifier:
        set:
        - name: {HEADER}
          value: {}
    timeouts:
      request: 5s
    backendRefs:
    - name: {name}
      port: 80
",
            if route == 0 { version } else { FIRST }
        )
    };
    (0..routes).map(route).collect::<Vec<_>>().join("---\n")
}
