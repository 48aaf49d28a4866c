//! What a scenario's proxies are told of, be it a waypoint's services or
//! gateways: how it is written down, what changes in it, and what it means.

use std::path::Path;

use anyhow::{Context as _, ensure};
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::{Route, RouteConfiguration};
use fairway_bench::gateway::{self, Edge};
use fairway_bench::mesh::{Holder, MARK};
use fairway_bench::waypoint::{self, HEADER, Shop, cluster};
use prost::Message as _;

use crate::envoy::{ENDPOINTS, Held, LISTENERS, Proxy, ROUTES, SECRETS, contains, routes, target};

/// The clusters and listeners that a waypoint has whatever it serves.
const FIXED: usize = 3;

/// Objects, and what they mean for proxies.
pub trait Site {
    /// What can change.
    type What: Copy;

    /// Writes all objects into a new folder.
    fn write(&self, folder: &Path) -> anyhow::Result<()>;
    /// Changes one object, with the mark of this number. Returns the file and
    /// what is in it from now on.
    fn change(&mut self, what: Self::What, number: usize) -> anyhow::Result<(String, String)>;
    /// The type of the resources that tell of it.
    fn place(what: Self::What) -> usize;
    /// Adds something that proxies can be led to. Returns the type of what leads
    /// the first of them there, the cluster, and the file with what is in it.
    fn add(&mut self) -> ((usize, String), String, String);
    /// The proxies, of which each is told something else. A change of a number
    /// is for the one of that number, counted around.
    fn proxies(&self) -> Vec<Proxy>;
    /// Fails if what one of them holds is not what the objects mean.
    fn compare(&self, proxy: usize, held: &Held) -> anyhow::Result<()>;
}

impl Site for Shop {
    type What = waypoint::What;

    fn write(&self, folder: &Path) -> anyhow::Result<()> {
        self.write(folder)
    }

    fn change(&mut self, what: waypoint::What, number: usize) -> anyhow::Result<(String, String)> {
        Ok(self.change(what, number))
    }

    fn place(what: waypoint::What) -> usize {
        match what {
            waypoint::What::Route => LISTENERS,
            waypoint::What::Pod => ENDPOINTS,
        }
    }

    fn add(&mut self) -> ((usize, String), String, String) {
        let (service, file, text) = self.add();
        ((LISTENERS, cluster(service)), file, text)
    }

    fn proxies(&self) -> Vec<Proxy> {
        vec![Proxy {
            kind: "waypoint",
            holder: holder(waypoint::NAMESPACE, waypoint::GATEWAY, "waypoint-1"),
            gateway: waypoint::GATEWAY.into(),
            clusters: self.clusters().collect(),
            fixed: FIXED,
            listeners: FIXED,
            routes: Vec::new(),
            secrets: Vec::new(),
        }]
    }

    fn compare(&self, _: usize, held: &Held) -> anyhow::Result<()> {
        let listener = Listener::decode(held.resource(LISTENERS, "main_internal")?)?;
        let mut chains = std::collections::BTreeMap::new();
        for chain in &listener.filter_chains {
            let hosts = routes(chain)?.into_iter().flat_map(|routes| routes.virtual_hosts);
            for route in hosts.flat_map(|host| host.routes) {
                held.leads(&target(&route).with_context(|| format!("{}: a route to nowhere", chain.name))?)?;
                chains.entry(chain.name.clone()).or_insert_with(Vec::new).extend(versions(&route));
            }
        }
        for (at, (name, version)) in self.expected_routes().into_iter().enumerate() {
            let found = chains.get(&name).with_context(|| format!("{name} is missing"))?;
            ensure!(found.contains(&version), "{name}: routes of versions {found:?}, not {version}");
            let marked = found.iter().filter(|found| found.starts_with(MARK)).count();
            ensure!(marked <= 1 && !found.is_empty(), "{name} ({at}): {found:?}");
        }
        for name in self.clusters() {
            held.resource(ENDPOINTS, &name)?;
        }
        for (name, version) in self.expected_pods() {
            let endpoints = held.resource(ENDPOINTS, &name)?;
            let assignment = ClusterLoadAssignment::decode(endpoints)?;
            let count: usize = assignment.endpoints.iter().map(|locality| locality.lb_endpoints.len()).sum();
            ensure!(count > 0 && contains(endpoints, version.as_bytes()), "{name}: not of version {version}");
        }
        Ok(())
    }
}

impl Site for Edge {
    type What = gateway::What;

    fn write(&self, folder: &Path) -> anyhow::Result<()> {
        self.write(folder)
    }

    fn change(&mut self, what: gateway::What, number: usize) -> anyhow::Result<(String, String)> {
        self.change(what, number)
    }

    fn place(what: gateway::What) -> usize {
        match what {
            gateway::What::Route => ROUTES,
            gateway::What::Secret => SECRETS,
        }
    }

    fn add(&mut self) -> ((usize, String), String, String) {
        let (cluster, file, text) = self.add();
        ((ROUTES, cluster), file, text)
    }

    fn proxies(&self) -> Vec<Proxy> {
        let proxy = |at| {
            let name = gateway::gateway_name(at);
            Proxy {
                kind: "router",
                // What a Gateway of class `istio` is deployed as.
                holder: holder(gateway::NAMESPACE, &format!("{name}-istio"), &format!("{name}-istio-1")),
                gateway: name,
                clusters: self.clusters(at),
                fixed: 0,
                listeners: 1 + usize::from(at < self.size.secrets),
                routes: vec![gateway::ROUTES.into()],
                secrets: self.expected_secrets(at).into_keys().collect(),
            }
        };
        (0..self.size.gateways).map(proxy).collect()
    }

    fn compare(&self, proxy: usize, held: &Held) -> anyhow::Result<()> {
        let routes = RouteConfiguration::decode(held.resource(ROUTES, gateway::ROUTES)?)?;
        let expected = self.expected_routes(proxy);
        let found = routes.virtual_hosts.iter().flat_map(|host| host.domains.iter().map(move |domain| (domain, host)));
        let found: std::collections::BTreeMap<_, _> = found.collect();
        for (domain, version) in &expected {
            let host = found.get(domain).with_context(|| format!("{domain} is missing"))?;
            let Some(route) = host.routes.first() else { anyhow::bail!("{domain}: no routes") };
            let to = target(route).with_context(|| format!("{domain}: a route to nowhere"))?;
            held.leads(&to)?;
            held.resource(ENDPOINTS, &to)?;
            ensure!(versions(route) == [version.clone()], "{domain}: {:?}, not {version}", versions(route));
        }
        ensure!(routes.virtual_hosts.len() == expected.len(), "{} hosts", routes.virtual_hosts.len());
        // Who did not ask for secrets has none.
        for (name, version) in self.expected_secrets(proxy).into_iter().filter(|_| held.has(SECRETS)) {
            let secret = held.resource(SECRETS, &name)?;
            ensure!(contains(secret, format!("version {version}\n").as_bytes()), "{name}: not of version {version}");
        }
        Ok(())
    }
}

/// What a route says its version is.
fn versions(route: &Route) -> Vec<String> {
    let headers = route.response_headers_to_add.iter().filter_map(|one| one.header.as_ref());
    headers.filter(|header| header.key == HEADER).map(|header| header.value.clone()).collect()
}

fn holder(namespace: &str, service_account: &str, pod: &str) -> Holder {
    Holder {
        namespace: namespace.into(),
        service_account: service_account.into(),
        pod: pod.into(),
        uid: "00000000-0000-4c3b-8a9e-000000000001".into(),
    }
}
