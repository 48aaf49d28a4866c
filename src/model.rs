//! What the objects mean: services, waypoints, networks, policies. Rows here
//! are facts of the mesh, not of Kubernetes and not of any wire format; what a
//! data plane is told is made from them in `workload`.
//!
//! The rules are Istio's (<https://istio.io/latest/docs/reference/config/>).
//! Where istiod is known to do something else than it documents, we follow the
//! documentation and say so in `docs/differences.md`.

pub mod attached;
pub mod authorization;
pub mod auto_allocation;
pub mod backend_tls;
pub mod binding;
pub mod by_host;
pub mod destination_rule;
pub mod endpoint;
pub mod endpoint_slice;
pub mod gateway;
pub mod key_set;
pub mod mesh;
pub mod network;
pub mod peer_authentication;
pub mod reference_grant;
pub mod revision;
pub mod secret;
pub mod selection;
pub mod service;
pub mod session;
pub mod telemetry;
#[cfg(test)]
mod tests;
pub mod virtual_service;
pub mod waypoint;
pub mod waypoint_policy;
pub mod workload_name;
pub mod workload_policy;

use std::net::IpAddr;
use std::sync::Arc;

use crate::api::istio::AuthorizationPolicy;
use crate::api::request_authentication::RequestAuthentication;
use crate::api::telemetry::Telemetry;
use crate::api::unknown::Unknown;
use crate::api::{Inputs, Meta, ObjectKey};
use crate::graph::{Collection, Ctx, Diagnostic, Graph, Index, Severity, Subject};

use authorization::SelectorPolicies;
use auto_allocation::{Entry, Pools};
use destination_rule::DestinationRules;
use endpoint_slice::Slices;
use gateway::credential::Led;
use gateway::ingress::{self, Ingresses};
use gateway::kubernetes::GatewayApi;
use gateway::{GatewayServers, Gateways};
use key_set::{FetchedBy, KeySets};
use network::NetworkGateway;
use peer_authentication::PeerAuthentications;
use reference_grant::ReferenceGrants;
use revision::{REVISION, Tags};
use secret::Credentials;
use selection::Selection;
use service::{Service, ServiceKey};
use telemetry::Telemetries;
use virtual_service::Routes;
use waypoint::Waypoint;
use waypoint::account::AccountWaypoints;
use waypoint::canary::{self, Canary};
use waypoint_policy::AttachedPolicies;
use workload_policy::WorkloadPolicies;

/// What the process is told at its start and never changes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The cluster's id in uids and metrics.
    pub cluster: Arc<str>,
    /// The suffix of service hostnames: `cluster.local`.
    pub domain: Arc<str>,
    /// The namespace of the control plane: `istio-system`.
    pub system_namespace: Arc<str>,
    /// The revision; objects labelled for another one are not ours.
    pub revision: Arc<str>,
    /// The mesh configuration of `--meshConfig`, which beats the ConfigMap.
    pub mesh_file: Option<Arc<mesh::MeshConfig>>,
    /// Whether policies marked as dry run are sent, to be logged by ztunnel.
    pub dry_run_policies: bool,
    /// Who fetches the keys of token issuers.
    pub keys_fetched_by: FetchedBy,
    /// Whether credentials are looked for by name, so that one which is not
    /// there may not have been looked for yet. A folder has all there are.
    pub credentials_by_name: bool,
    /// Whether services may ask by label that sessions are kept.
    pub persistent_sessions: bool,
    /// Whether Istio's Gateways select proxies of their own namespace alone.
    pub gateways_in_own_namespace: bool,
    /// The namespace of the proxies that Ingresses are for: `istio-system`.
    pub ingress_namespace: Arc<str>,
    /// Whether gateways are told of all services, not of those alone that their
    /// routes lead to.
    pub all_services_at_gateways: bool,
    /// Whether all proxies take HTTP/1.0, and not only those that say so.
    pub http10: bool,
    /// Where ServiceEntries without addresses get some from, if they do.
    pub auto_allocation: Option<Pools>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cluster: "Kubernetes".into(),
            domain: "cluster.local".into(),
            system_namespace: "istio-system".into(),
            revision: "default".into(),
            mesh_file: None,
            dry_run_policies: false,
            keys_fetched_by: FetchedBy::default(),
            credentials_by_name: false,
            persistent_sessions: false,
            gateways_in_own_namespace: false,
            ingress_namespace: "istio-system".into(),
            all_services_at_gateways: false,
            http10: false,
            auto_allocation: Some(Pools::default()),
        }
    }
}

/// The collections that everything downstream reads.
#[derive(Clone)]
pub struct Model {
    scope: Scope,
    /// The objects as they are.
    pub inputs: Inputs,
    /// What the process was told.
    pub settings: Arc<Settings>,
    /// Services by namespace and hostname, duplicates resolved.
    pub services: Collection<ServiceKey, Arc<Service>>,
    /// Services by each label of their selector's first pair.
    pub services_by_selector: Index<service::SelectorKey, ServiceKey, Arc<Service>>,
    /// Which pods are behind which services.
    pub selection: Selection,
    /// What is behind services besides.
    pub slices: Slices,
    /// Services by the object they come from.
    pub services_by_origin: Index<(service::Registry, ObjectKey), ServiceKey, Arc<Service>>,
    /// For each hostname, the service that stands for it mesh-wide.
    pub canonical: Collection<Arc<str>, ServiceKey>,
    /// Gateways that can serve as waypoints.
    pub waypoints: Collection<ObjectKey, Waypoint>,
    /// Those that serve a service account, by namespace.
    pub waypoints_of_accounts: AccountWaypoints,
    /// The waypoint of each service that has one.
    pub service_waypoints: Collection<ServiceKey, ObjectKey>,
    /// The canary of each service that has one.
    pub service_canaries: Collection<ServiceKey, Canary>,
    /// For each waypoint that is for workloads, where those are that are
    /// attached to it.
    pub attached_workloads: Collection<ObjectKey, Vec<IpAddr>>,
    /// Gateways to other networks.
    pub network_gateways: Collection<network::GatewayKey, NetworkGateway>,
    /// Gateways to other networks, by network.
    pub network_gateways_by_network: Index<Arc<str>, network::GatewayKey, NetworkGateway>,
    /// How connections to services are made.
    pub destination_rules: DestinationRules,
    /// What becomes of requests to services.
    pub routes: Routes,
    /// What gateways listen for, and the routes that are bound to them.
    pub gateways: Gateways,
    /// Where the proxies of Istio's Gateways are that have credentials.
    pub led: Collection<Led, Arc<GatewayServers>>,
    /// The gateways of the Gateway API, checked.
    pub gateway_api: GatewayApi,
    /// The Ingresses that are for the mesh.
    pub ingresses: Ingresses,
    /// What may be referred to from other namespaces.
    pub reference_grants: ReferenceGrants,
    /// Policies that are attached to waypoints and what they serve.
    pub attached_policies: AttachedPolicies<AuthorizationPolicy>,
    /// Which tokens waypoints believe.
    pub attached_authentications: AttachedPolicies<RequestAuthentication>,
    /// Policies for gateways.
    pub gateway_policies: WorkloadPolicies<AuthorizationPolicy>,
    /// Which tokens gateways believe.
    pub gateway_authentications: WorkloadPolicies<RequestAuthentication>,
    /// What gateways log, count and trace.
    pub gateway_telemetries: WorkloadPolicies<Telemetry>,
    /// The keys of token issuers.
    pub key_sets: KeySets,
    /// Certificates and keys that are referred to.
    pub credentials: Credentials,
    /// What waypoints log, count and trace.
    pub telemetries: Telemetries,
    /// Policies that name workloads by label.
    pub selector_policies: SelectorPolicies,
    /// Whether callers must prove who they are.
    pub peer_authentications: PeerAuthentications,
    /// ServiceEntries that want addresses, and those that have some.
    pub auto_allocation: Collection<ObjectKey, Entry>,
}

impl Model {
    /// Declares the model's collections.
    pub fn new(graph: &mut Graph, inputs: Inputs, settings: Arc<Settings>) -> Self {
        let scope = Scope::new(graph, inputs, settings.clone());
        let network_gateways = network::gateways(graph, &scope);
        let network_gateways_by_network =
            graph.index(network_gateways, |key: &network::GatewayKey, _, keys| keys.push(key.network.clone()));
        let waypoints = waypoint::waypoints(graph, &scope);
        let waypoints_of_accounts = waypoint::account::account_waypoints(graph, waypoints);
        let services = service::services(graph, &scope);
        let services_by_selector = service::by_selector(graph, services);
        let selection = selection::selection(graph, &scope, services_by_selector, waypoints);
        let canonical = service::canonical(graph, services);
        let service_waypoints =
            waypoint::of_services(graph, &scope, waypoints, waypoints_of_accounts, selection, services);
        let attached_policies = AttachedPolicies::new(graph, inputs.authorization_policies);
        let attached_authentications = AttachedPolicies::new(graph, inputs.request_authentications);
        let telemetries = Telemetries::new(graph, inputs.telemetries);
        let reference_grants = reference_grant::reference_grants(graph, &scope);
        let istio = gateway::istio::source(graph, &scope);
        let led = gateway::credential::led(graph, services, selection, istio.servers);
        let by_led = gateway::credential::references(graph, led);
        let [by_gateways, by_sets, by_policies] =
            gateway::kubernetes::credentials::references(graph, &scope, reference_grants);
        let credentials = Credentials::new(graph, &scope, [by_gateways, by_sets, by_policies, by_led]);
        let ingresses = ingress::ingresses(graph, &scope);
        let gateway_api = gateway::kubernetes::gateway_api(graph, &scope, reference_grants, credentials);
        Self {
            inputs,
            settings,
            services,
            services_by_selector,
            selection,
            slices: endpoint_slice::slices(graph, &scope, services),
            attached_workloads: attached::workloads(graph, &scope, waypoints, selection),
            services_by_origin: service::by_origin(graph, services),
            canonical,
            waypoints,
            waypoints_of_accounts,
            service_waypoints,
            service_canaries: canary::of_services(graph, &scope, waypoints, services, service_waypoints),
            destination_rules: destination_rule::destination_rules(graph, &scope, services),
            routes: virtual_service::routes(graph, &scope),
            gateways: gateway::gateways(graph, [istio, gateway_api.source, ingresses.source]),
            led,
            gateway_api,
            ingresses,
            reference_grants,
            attached_policies,
            attached_authentications,
            gateway_policies: WorkloadPolicies::new(graph, inputs.authorization_policies, attached_policies),
            gateway_authentications: WorkloadPolicies::new(
                graph,
                inputs.request_authentications,
                attached_authentications,
            ),
            gateway_telemetries: WorkloadPolicies::new(graph, inputs.telemetries, telemetries.attached()),
            key_sets: KeySets::new(graph, &scope, canonical),
            credentials,
            telemetries,
            network_gateways,
            network_gateways_by_network,
            selector_policies: authorization::selector_policies(graph, &scope),
            peer_authentications: peer_authentication::peer_authentications(graph, &scope),
            auto_allocation: auto_allocation::entries(graph, &scope),
            scope,
        }
    }

    /// The objects and the settings by themselves.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }
}

/// The objects and the settings: what can be read before there is a model.
#[derive(Clone)]
pub struct Scope {
    /// The objects as they are.
    pub inputs: Inputs,
    /// What the process was told.
    pub settings: Arc<Settings>,
    tags: Tags,
    mesh: Collection<(), mesh::MeshConfig>,
}

impl Scope {
    /// What is read of the objects.
    pub fn new(graph: &mut Graph, inputs: Inputs, settings: Arc<Settings>) -> Self {
        let tags = Tags::new(graph, inputs, &settings);
        let mesh = mesh::said(graph, inputs.config_maps, &settings);
        Self { inputs, settings, tags, mesh }
    }

    /// What names of revisions stand for.
    pub fn tags(&self) -> Tags {
        self.tags
    }

    /// The mesh configuration in force.
    pub fn mesh<'a>(&'a self, cx: &Ctx<'a>) -> &'a mesh::MeshConfig {
        mesh::config(cx, self.mesh, &self.settings)
    }

    /// The namespace's own metadata, if the namespace is known.
    pub fn namespace<'g>(&self, cx: &Ctx<'g>, namespace: &Arc<str>) -> Option<&'g Meta> {
        let key = ObjectKey { namespace: "".into(), name: namespace.clone() };
        cx.get(self.inputs.namespaces, &key).map(|namespace| &namespace.meta)
    }

    /// Whether objects of the namespace are looked at: `discoverySelectors`
    /// of the mesh configuration select it, or there are none.
    pub fn discovers(&self, cx: &Ctx<'_>, namespace: &Arc<str>) -> bool {
        let selectors = &self.mesh(cx).discovery_selectors;
        selectors.is_empty()
            || self.namespace(cx, namespace).is_some_and(|meta| selectors.iter().any(|one| one.matches(&meta.labels)))
    }

    /// Whether a configuration object is ours to read: its namespace is
    /// discovered, and its `istio.io/rev` label, if any, means our revision.
    pub fn configures(&self, cx: &Ctx<'_>, meta: &Meta) -> bool {
        let ours = |name| self.tags.mean(cx, name, &self.settings.revision);
        meta.label(REVISION).is_none_or(ours) && self.discovers(cx, &meta.namespace)
    }

    /// The network of the cluster's own workloads; empty is the default one.
    pub fn network<'g>(&self, cx: &Ctx<'g>) -> &'g str {
        let system = self.namespace(cx, &self.settings.system_namespace);
        system.and_then(|meta| meta.label("topology.istio.io/network")).unwrap_or_default()
    }
}

/// Fields of Istio's that are not read, whatever object they are in: no words
/// that nobody knows.
const NOT_READ: &[(&str, &str)] = &[
    ("DestinationRule", "outlierDetection.consecutiveErrors"),
    // Their rules are left out for want of a fault that can be injected.
    ("VirtualService", "fault.abort.http2Error"),
    ("VirtualService", "fault.delay.exponentialDelay"),
];

/// Says which fields at a place of an object have no effect, because no such
/// field is known. Istio's definitions would not have admitted the object.
pub fn not_known(cx: &Ctx<'_>, kind: &'static str, meta: &Meta, place: &str, unknown: &Unknown) {
    for name in unknown.names() {
        let field = if place.is_empty() { name.to_owned() } else { format!("{place}.{name}") };
        let istios = NOT_READ.iter().any(|(of, end)| *of == kind && field.ends_with(end));
        let (reason, message) = match istios {
            true => ("UnsupportedValue", "the field has no effect here"),
            false => ("UnknownField", "this version does not know the field; ignored"),
        };
        cx.diagnose(problem(kind, meta, field, reason, message));
    }
}

/// The finding that part of an object has no effect.
pub fn problem(
    kind: &'static str,
    meta: &Meta,
    field: impl Into<String>,
    reason: &'static str,
    message: impl Into<String>,
) -> Diagnostic {
    let subject = Subject { kind, namespace: meta.namespace.clone(), name: meta.name.clone() };
    Diagnostic { subject, field: field.into(), severity: Severity::Error, reason, message: message.into() }
}
