//! The pure function that a control plane is: objects, mesh configuration and
//! connected proxies in, resources and findings out. Whoever serves proxies and
//! whoever only wants to see what they would be told use this one.

pub mod rejections;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use jiff::Timestamp;

use crate::api::ObjectKey;
use crate::api::kinds::{Change, Inputs, Kind};
use crate::credential::{Asked, Place};
use crate::envoy::{self, Configs};
use crate::graph::{Collection, Graph, Provenance};
use crate::model::auto_allocation::Entry;
use crate::model::key_set::{Fetched, KeySets};
use crate::model::network::{GatewayKey, NetworkGateway};
use crate::model::revision::Tags;
use crate::model::secret::Credentials;
use crate::model::service::{Service, ServiceKey};
use crate::model::{Model, Settings};
use crate::proxy::Scope;
use crate::status::facts;
use crate::workload::{self, Resources};
use crate::xds::resource::ResourceType;
use crate::xds::secret::{Accounts, Vault};
use crate::xds::verdict::Verdict;
use crate::xds::view::{Layer, Views};
use rejections::{RejectedResource, Rejections};

/// The tables, and what comes of them.
pub struct Translation {
    /// The tables.
    pub graph: Graph,
    /// The objects.
    pub inputs: Inputs,
    /// What is known of objects that have a status.
    pub facts: facts::Collections,
    /// The keys of token issuers, and who needs them.
    pub key_sets: KeySets,
    /// Which certificates and keys are needed, and what is known of them.
    pub credentials: Credentials,
    /// What names of revisions stand for.
    pub tags: Tags,
    /// ServiceEntries that want addresses, and those that have some.
    pub auto_allocation: Collection<ObjectKey, Entry>,
    services: Collection<ServiceKey, Arc<Service>>,
    network_gateways: Collection<GatewayKey, NetworkGateway>,
    /// The scopes of connected proxies.
    scopes: Collection<Scope, ()>,
    /// Whether there is a row: whether this replica speaks for all.
    speaks: Collection<(), ()>,
    resources: Resources,
    configs: Configs,
    views: Arc<Views>,
    /// The certificates and keys themselves.
    opened: envoy::secret::Credentials,
    vault: Vault,
    rejections: Rejections,
}

/// What is known of places that traffic goes to.
#[derive(Clone, Debug)]
pub struct Registry {
    /// The services.
    pub services: Vec<Arc<Service>>,
    /// The gateways to other networks.
    pub gateways: Vec<(GatewayKey, NetworkGateway)>,
}

/// How many objects a commit may change for them to be remembered one by one.
const FEW: usize = 1024;

impl Translation {
    /// Nothing yet.
    pub fn new(settings: Arc<Settings>) -> Self {
        let mut graph = Graph::new();
        let inputs = Inputs::new(&mut graph);
        let accounts = match settings.credentials_by_name {
            true => Accounts::Asked(imbl::OrdMap::new()),
            false => Accounts::All,
        };
        let model = Model::new(&mut graph, inputs, settings);
        let resources = workload::resources(&mut graph, &model);
        let facts = facts::collections(&mut graph, &model);
        let scopes = graph.input("scopes");
        let speaks = graph.input("speaks_for_all");
        let configs = envoy::configs(&mut graph, &model, scopes, speaks);
        let views = Arc::new(Views::new(0, Layer::default(), Layer::default()));
        let (services, network_gateways) = (model.services, model.network_gateways);
        let (key_sets, credentials, tags) = (model.key_sets, model.credentials, model.scope().tags());
        let opened = envoy::secret::credentials(&mut graph, &model);
        let vault = Vault { accounts, ..Vault::default() };
        let rejections = Rejections::default();
        Self {
            graph,
            inputs,
            facts,
            key_sets,
            credentials,
            tags,
            auto_allocation: model.auto_allocation,
            services,
            network_gateways,
            scopes,
            speaks,
            resources,
            configs,
            views,
            opened,
            vault,
            rejections,
        }
    }

    /// Notes a change of an object.
    pub fn apply(&mut self, change: Change) {
        self.inputs.apply(&mut self.graph, change);
    }

    /// Notes which scopes have a proxy.
    pub fn want(&mut self, scopes: impl IntoIterator<Item = Scope>) {
        self.graph.reset(self.scopes, scopes.into_iter().map(|scope| (scope, ())));
    }

    /// Notes whether this replica speaks about objects for all: then what is said
    /// of them is complete, whichever replicas proxies are connected to.
    pub fn speak_for_all(&mut self, speaks: bool) {
        match speaks {
            true => self.graph.put(self.speaks, (), ()),
            false => self.graph.delete(self.speaks, ()),
        }
    }

    /// How many scopes got a proxy or lost the last one with the last commit.
    pub fn scopes_changed(&self) -> usize {
        self.graph.changes(self.scopes).len()
    }

    /// Notes which keys of token issuers have been fetched.
    pub fn know(&mut self, keys: Fetched) {
        self.graph.reset(self.key_sets.fetched, keys);
    }

    /// Notes which credentials are asked for by proxies that may have them.
    pub fn ask(&mut self, places: impl IntoIterator<Item = Place>) {
        self.graph.reset(self.credentials.asked, places.into_iter().map(|place| (place, ())));
    }

    /// Notes whether what is in a place has been said.
    pub fn seek(&mut self, place: Place, sought: bool) {
        match sought {
            true => self.graph.put(self.credentials.sought, place, ()),
            false => self.graph.delete(self.credentials.sought, place),
        }
    }

    /// Notes the time, if anything depends on it. Returns whether it does.
    pub fn tick(&mut self, now: Timestamp) -> bool {
        let needed = self.graph.rows(self.credentials.needed).next().is_some();
        if needed {
            self.graph.put(self.credentials.clock, (), now);
        }
        needed
    }

    /// The secrets before there are any.
    pub fn empty_vault(&self) -> Arc<Vault> {
        Arc::new(self.vault.clone())
    }

    /// The secrets as of the last commit, if they are not those of before, or
    /// `accounts` are others. To be asked once for each commit.
    pub fn vault(&mut self, accounts: Option<Accounts>) -> Option<Arc<Vault>> {
        let (items, accounts) = (self.opened.update(), accounts.filter(|accounts| *accounts != self.vault.accounts));
        if items.is_none() && accounts.is_none() {
            return None;
        }
        let old = &self.vault;
        self.vault = Vault {
            revision: old.revision + 1,
            items: items.unwrap_or_else(|| old.items.clone()),
            accounts: accounts.unwrap_or_else(|| old.accounts.clone()),
        };
        Some(Arc::new(self.vault.clone()))
    }

    /// Works out what has been noted. Returns whether anything changed.
    pub fn commit(&mut self) -> bool {
        self.graph.commit()
    }

    /// What proxies are told as of the last commit, if that is not what they
    /// were told before. To be asked once for each commit.
    pub fn published(&mut self) -> Option<Arc<Views>> {
        let views = self.views();
        let changed = self.changed();
        let Self { rejections, graph, configs, .. } = self;
        rejections.committed(graph, configs, changed);
        views
    }

    /// Takes what a proxy says of what it was sent. Returns whether there is
    /// something to work out.
    pub fn judge(&mut self, verdict: &Verdict) -> bool {
        self.rejections.judge(&mut self.graph, &self.configs, verdict)
    }

    /// What proxies rejected.
    pub fn rejections(&mut self) -> &mut Rejections {
        &mut self.rejections
    }

    /// What proxies of a scope rejected, whatever scope that is worked out for.
    pub fn rejected(&self, connected: Option<&Scope>) -> Vec<RejectedResource> {
        let shared = connected.and_then(|connected| self.configs.shared(&self.graph, connected));
        match (connected, &shared) {
            // It has gone.
            (Some(_), None) => Vec::new(),
            _ => self.rejections.of(shared.as_ref()),
        }
    }

    /// The objects with a status that the last commit changed, if they are few.
    fn changed(&self) -> Vec<rejections::Object> {
        let mut all: Vec<_> = Vec::new();
        macro_rules! changed {
            ($($kind:ident: $input:ident),+) => { $(
                let changes = self.graph.changes(self.inputs.$input);
                all.extend(changes.iter().take(FEW).map(|change| (Kind::$kind, change.key.clone())));
            )+ };
        }
        changed!(
            VirtualService: virtual_services, DestinationRule: destination_rules,
            AuthorizationPolicy: authorization_policies, RequestAuthentication: request_authentications,
            HTTPRoute: http_routes, GRPCRoute: grpc_routes, TCPRoute: tcp_routes, TLSRoute: tls_routes,
            Service: services, ServiceEntry: service_entries, IstioGateway: istio_gateways
        );
        if all.len() < FEW { all } else { Vec::new() }
    }

    fn views(&mut self) -> Option<Arc<Views>> {
        let addresses = self.resources.addresses.update(&self.graph);
        let authorizations = self.resources.authorizations.update(&self.graph);
        let scopes = self.configs.update(&self.graph, &self.views.scopes);
        if addresses.is_none() && authorizations.is_none() && scopes.is_none() {
            return None;
        }
        let old = &self.views;
        let addresses = addresses.unwrap_or_else(|| old.addresses.clone());
        let authorizations = authorizations.unwrap_or_else(|| old.authorizations.clone());
        let scopes = scopes.unwrap_or_else(|| old.scopes.clone());
        let views = Views::new(self.graph.revision(), addresses, authorizations).with_scopes(scopes);
        self.views = Arc::new(views);
        Some(self.views.clone())
    }

    /// The services, and the gateways to other networks, in the order of their
    /// keys.
    pub fn registry(&self) -> Registry {
        let mut services: Vec<_> = self.graph.rows(self.services).map(|(_, service)| (**service).clone()).collect();
        services.sort_by(|a, b| a.key.cmp(&b.key));
        let gateways = self.graph.rows(self.network_gateways);
        let mut gateways: Vec<_> = gateways.map(|(key, gateway)| (key.clone(), (**gateway).clone())).collect();
        gateways.sort_by(|a, b| a.0.cmp(&b.0));
        Registry { services, gateways }
    }

    /// Where a resource comes from.
    pub fn provenance(&self, ty: ResourceType, name: &Arc<str>) -> Option<Provenance> {
        match ty {
            ResourceType::Authorization => self.resources.authorizations.provenance(&self.graph, name),
            ResourceType::Address | ResourceType::Workload => self.resources.addresses.provenance(&self.graph, name),
            ResourceType::Cluster | ResourceType::Endpoints | ResourceType::Listener | ResourceType::Routes => {
                self.configs.provenance(&self.graph, ty, name)
            }
            // By its full name: nobody's namespace is meant here.
            ResourceType::Secret => {
                let places = Asked::parse(name, "").map(|asked| asked.places).unwrap_or_default();
                places.iter().find_map(|place| self.opened.provenance(&self.graph, place))
            }
        }
    }
}
