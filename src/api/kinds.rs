//! THE table of watched kinds. One line gives a kind its watch, its file
//! format, its input in the graph, its place in the sync barrier and its line
//! in the RBAC test.

use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::meta::ObjectKey;
use super::{
    backend_tls, core, destination_rule, gateway, ingress, istio, istio_gateway, request_authentication, route, secret,
    telemetry, virtual_service,
};
use crate::graph::{Collection, Graph};

/// What the API server calls a kind.
#[derive(Debug, PartialEq, Eq)]
pub struct KindInfo {
    /// The kind, such as `Pod`.
    pub kind: &'static str,
    /// What findings about objects of the kind call it. Unlike the kind, no two
    /// have it in common: both Istio and the Gateway API have a `Gateway`.
    pub subject: &'static str,
    /// What its input in the graph is called, which is its plural unless
    /// another kind has the same.
    pub table: &'static str,
    /// The API group; empty is the core group.
    pub group: &'static str,
    /// Versions that decode alike, the preferred one first.
    pub versions: &'static [&'static str],
    /// The plural in URLs.
    pub plural: &'static str,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Whether the kind is part of Kubernetes itself, hence always there.
    pub builtin: bool,
    /// Whether only the namespace of the control plane is read.
    pub system_only: bool,
    /// Whether only those objects are read that something refers to.
    pub by_name: bool,
}

impl KindInfo {
    /// Group and version as objects say them, of the preferred version.
    pub fn api_version(&self) -> String {
        match self.group {
            "" => self.versions[0].to_owned(),
            group => format!("{group}/{}", self.versions[0]),
        }
    }
}

macro_rules! kinds {
    ($( $field:ident: $kind:ident $(as $name:literal)? ($module:ident) = $group:literal / [$($version:literal),+] / $plural:literal, $scope:ident $(, $flag:ident)*; )+) => {
        /// A watched kind.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind { $(
            #[doc = concat!("`", $plural, "`.")]
            $kind,
        )+ }

        /// An object of a watched kind. Sources and the graph share one copy.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Object { $(
            #[doc = concat!("One of `", $plural, "`.")]
            $kind(Arc<$module::$kind>),
        )+ }

        /// The inputs of the graph, one for each watched kind.
        #[derive(Clone, Copy)]
        pub struct Inputs { $(
            #[doc = concat!("`", $plural, "`.")]
            pub $field: Collection<ObjectKey, $module::$kind>,
        )+
            /// Objects that cannot be read.
            pub unreadable: Collection<(Kind, ObjectKey), DecodeError>,
        }

        impl Kind {
            /// All watched kinds.
            pub const ALL: &[Kind] = &[ $( Kind::$kind, )+ ];

            /// What the API server calls the kind.
            pub const fn info(self) -> &'static KindInfo {
                match self { $(
                    Kind::$kind => const { &KindInfo {
                        kind: kinds!(@name $kind $($name)?),
                        subject: stringify!($kind),
                        table: kinds!(@table $field $plural $($name)?),
                        group: $group,
                        versions: &[$($version),+],
                        plural: $plural,
                        namespaced: kinds!(@namespaced $scope),
                        builtin: false $(|| kinds!(@builtin $flag))*,
                        system_only: false $(|| kinds!(@system $flag))*,
                        by_name: false $(|| kinds!(@by_name $flag))*,
                    } },
                )+ }
            }

            /// Decodes an object of this kind.
            pub fn decode<'de, D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Object, D::Error> {
                match self { $(
                    Kind::$kind => <$module::$kind as Deserialize>::deserialize(deserializer).map(|object| Object::$kind(Arc::new(object))),
                )+ }
            }
        }

        impl Object {
            /// The object's kind.
            pub fn kind(&self) -> Kind {
                match self { $( Object::$kind(_) => Kind::$kind, )+ }
            }

            /// The object's metadata.
            pub fn meta(&self) -> &super::Meta {
                match self { $( Object::$kind(object) => &object.meta, )+ }
            }
        }

        impl Object {
            /// The object's metadata, for sources that complete it.
            pub fn meta_mut(&mut self) -> &mut super::Meta {
                match self { $( Object::$kind(object) => &mut Arc::make_mut(object).meta, )+ }
            }
        }

        impl Inputs {
            /// Creates the inputs.
            pub fn new(graph: &mut Graph) -> Self {
                Self { $( $field: graph.input(Kind::$kind.info().table), )+ unreadable: graph.input("unreadable") }
            }

            /// The metadata of an object, if it is there.
            pub fn meta(&self, graph: &Graph, kind: Kind, key: &ObjectKey) -> Option<super::Meta> {
                match kind { $( Kind::$kind => graph.get(self.$field, key).map(|object| object.meta.clone()), )+ }
            }

            /// All objects of a kind, in no particular order.
            pub fn objects(&self, graph: &Graph, kind: Kind) -> Vec<Object> {
                match kind { $(
                    Kind::$kind => graph.rows(self.$field).map(|(_, object)| Object::$kind(object.clone())).collect(),
                )+ }
            }

            /// Says of each kind of which the last commit changed objects how many
            /// came, changed and went.
            pub fn changed(&self, graph: &Graph, mut count: impl FnMut(Kind, [u64; 3])) { $(
                let changes = graph.changes(self.$field);
                if !changes.is_empty() {
                    let mut counts = [0; 3];
                    for change in changes {
                        counts[match (&change.old, &change.new) {
                            (None, _) => 0,
                            (Some(_), Some(_)) => 1,
                            (Some(_), None) => 2,
                        }] += 1;
                    }
                    count(Kind::$kind, counts);
                }
            )+ }

            /// Hands a change to the graph. It takes effect with the next commit.
            pub fn apply(&self, graph: &mut Graph, change: Change) {
                match change {
                    $( Change::Put(Object::$kind(object)) => graph.put(self.$field, object.meta.key(), object), )+
                    $( Change::Delete(Kind::$kind, key) => graph.delete(self.$field, key), )+
                    $( Change::Reset(Kind::$kind, objects) => {
                        let rows = objects.into_iter().filter_map(|object| match object {
                            Object::$kind(object) => Some((object.meta.key(), object)),
                            _ => None,
                        });
                        graph.reset(self.$field, rows);
                    } )+
                    Change::Unreadable(kind, key, Some(error)) => graph.put(self.unreadable, (kind, key), error),
                    Change::Unreadable(kind, key, None) => graph.delete(self.unreadable, (kind, key)),
                }
            }
        }
    };
    (@name $kind:ident) => { stringify!($kind) };
    (@name $kind:ident $name:literal) => { $name };
    (@table $field:ident $plural:literal) => { $plural };
    (@table $field:ident $plural:literal $name:literal) => { stringify!($field) };
    (@namespaced namespaced) => { true };
    (@namespaced cluster) => { false };
    (@builtin builtin) => { true };
    (@builtin system) => { false };
    (@builtin by_name) => { false };
    (@system system) => { true };
    (@system builtin) => { false };
    (@system by_name) => { false };
    (@by_name by_name) => { true };
    (@by_name builtin) => { false };
    (@by_name system) => { false };
}

kinds! {
    namespaces: Namespace (core) = "" / ["v1"] / "namespaces", cluster, builtin;
    nodes: Node (core) = "" / ["v1"] / "nodes", cluster, builtin;
    pods: Pod (core) = "" / ["v1"] / "pods", namespaced, builtin;
    services: Service (core) = "" / ["v1"] / "services", namespaced, builtin;
    endpoint_slices: EndpointSlice (core) = "discovery.k8s.io" / ["v1"] / "endpointslices", namespaced, builtin;
    config_maps: ConfigMap (core) = "" / ["v1"] / "configmaps", namespaced, builtin, system;
    ingresses: Ingress (ingress) = "networking.k8s.io" / ["v1"] / "ingresses", namespaced, builtin;
    ingress_classes: IngressClass (ingress) = "networking.k8s.io" / ["v1"] / "ingressclasses", cluster, builtin;
    secrets: Secret (secret) = "" / ["v1"] / "secrets", namespaced, builtin, by_name;
    crds: CustomResourceDefinition (core) = "apiextensions.k8s.io" / ["v1"] / "customresourcedefinitions", cluster, builtin;
    service_entries: ServiceEntry (istio) = "networking.istio.io" / ["v1", "v1beta1", "v1alpha3"] / "serviceentries", namespaced;
    workload_entries: WorkloadEntry (istio) = "networking.istio.io" / ["v1", "v1beta1", "v1alpha3"] / "workloadentries", namespaced;
    authorization_policies: AuthorizationPolicy (istio) = "security.istio.io" / ["v1", "v1beta1"] / "authorizationpolicies", namespaced;
    peer_authentications: PeerAuthentication (istio) = "security.istio.io" / ["v1", "v1beta1"] / "peerauthentications", namespaced;
    request_authentications: RequestAuthentication (request_authentication) = "security.istio.io" / ["v1", "v1beta1"] / "requestauthentications", namespaced;
    telemetries: Telemetry (telemetry) = "telemetry.istio.io" / ["v1", "v1alpha1"] / "telemetries", namespaced;
    gateways: Gateway (gateway) = "gateway.networking.k8s.io" / ["v1", "v1beta1"] / "gateways", namespaced;
    listener_sets: ListenerSet (gateway) = "gateway.networking.k8s.io" / ["v1"] / "listenersets", namespaced;
    gateway_classes: GatewayClass (gateway) = "gateway.networking.k8s.io" / ["v1", "v1beta1"] / "gatewayclasses", cluster;
    virtual_services: VirtualService (virtual_service) = "networking.istio.io" / ["v1", "v1beta1", "v1alpha3"] / "virtualservices", namespaced;
    destination_rules: DestinationRule (destination_rule) = "networking.istio.io" / ["v1", "v1beta1", "v1alpha3"] / "destinationrules", namespaced;
    istio_gateways: IstioGateway as "Gateway" (istio_gateway) = "networking.istio.io" / ["v1", "v1beta1", "v1alpha3"] / "gateways", namespaced;
    http_routes: HTTPRoute (route) = "gateway.networking.k8s.io" / ["v1", "v1beta1"] / "httproutes", namespaced;
    grpc_routes: GRPCRoute (route) = "gateway.networking.k8s.io" / ["v1"] / "grpcroutes", namespaced;
    tcp_routes: TCPRoute (route) = "gateway.networking.k8s.io" / ["v1", "v1alpha2"] / "tcproutes", namespaced;
    tls_routes: TLSRoute (route) = "gateway.networking.k8s.io" / ["v1", "v1alpha3", "v1alpha2"] / "tlsroutes", namespaced;
    backend_tls_policies: BackendTLSPolicy (backend_tls) = "gateway.networking.k8s.io" / ["v1", "v1alpha3"] / "backendtlspolicies", namespaced;
    reference_grants: ReferenceGrant (route) = "gateway.networking.k8s.io" / ["v1", "v1beta1"] / "referencegrants", namespaced;
}

/// A fact about objects: the only thing a source says.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// An object is there, in this state.
    Put(Object),
    /// An object is gone.
    Delete(Kind, ObjectKey),
    /// These are all the objects of the kind.
    Reset(Kind, Vec<Object>),
    /// An object is there and cannot be read; without an error, it can again,
    /// or is gone.
    Unreadable(Kind, ObjectKey, Option<DecodeError>),
}

/// Why an object could not be read. It costs that object only.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct DecodeError {
    /// The path of the field.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

/// The short names that kinds have in their definitions, as kubectl knows them.
const SHORT: &[(&str, Kind)] = &[
    ("ns", Kind::Namespace),
    ("no", Kind::Node),
    ("po", Kind::Pod),
    ("svc", Kind::Service),
    ("cm", Kind::ConfigMap),
    ("ing", Kind::Ingress),
    ("se", Kind::ServiceEntry),
    ("we", Kind::WorkloadEntry),
    ("ap", Kind::AuthorizationPolicy),
    ("pa", Kind::PeerAuthentication),
    ("ra", Kind::RequestAuthentication),
    ("telemetry", Kind::Telemetry),
    ("gtw", Kind::Gateway),
    ("gc", Kind::GatewayClass),
    ("gw", Kind::IstioGateway),
    ("vs", Kind::VirtualService),
    ("dr", Kind::DestinationRule),
    ("btlspolicy", Kind::BackendTLSPolicy),
    ("refgrant", Kind::ReferenceGrant),
];

impl Kind {
    /// Its short name, if it has one.
    pub fn short_name(self) -> Option<&'static str> {
        SHORT.iter().find(|(_, kind)| *kind == self).map(|(short, _)| *short)
    }

    /// The kind that `apiVersion` and `kind` of an object name, whatever the
    /// version, if it is watched.
    pub fn of(api_version: &str, kind: &str) -> Option<Kind> {
        let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
        Kind::ALL.iter().copied().find(|candidate| candidate.info().kind == kind && candidate.info().group == group)
    }

    /// Decodes an object from JSON. The slow pass that finds the field is made
    /// only for an object that does not decode.
    pub fn decode_json(self, json: &str) -> Result<Object, DecodeError> {
        let object = self.decode(&mut serde_json::Deserializer::from_str(json));
        object.or_else(|error| match self.decode_tracked(&mut serde_json::Deserializer::from_str(json)) {
            Ok(object) => Ok(object),
            Err(DecodeError { field, .. }) => Err(DecodeError { field, reason: without_place(error.to_string()) }),
        })
    }

    /// Decodes an object, and tells the field that does not decode.
    pub fn decode_tracked<'de, D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Object, DecodeError> {
        let mut track = serde_path_to_error::Track::new();
        let tracked = serde_path_to_error::Deserializer::new(deserializer, &mut track);
        let result = self.decode(tracked);
        result.map_err(|error| DecodeError { field: track.path().to_string(), reason: error.to_string() })
    }
}

/// What is wrong, on one line, without the place in the text: nobody wrote that
/// text, it is how the API server prints the object. Readers of YAML in a field
/// draw the place, below a line that names it.
fn without_place(mut reason: String) -> String {
    let ends = [reason.find('\n'), reason.rfind(" at line 1 column ")];
    if let Some(end) = ends.into_iter().flatten().min() {
        reason.truncate(end);
    }
    reason
}

/// The least that can be read of an object that does not decode.
pub fn decode_meta<T: DeserializeOwned>(json: &str) -> Option<T> {
    #[derive(Deserialize)]
    struct Bare<T> {
        metadata: T,
    }
    serde_json::from_str::<Bare<T>>(json).ok().map(|bare| bare.metadata)
}
