//! The numbers of the fields that models read.
//! <https://github.com/kubernetes/api>, the `generated.proto` of each group.

use super::Message;
use super::Value::{Bool, Int, IntOrString, List, Map, Message as Nested, Text, Time};
use crate::api::Kind;

/// The message of a kind.
pub(super) fn of(kind: Kind) -> Option<&'static Message> {
    match kind {
        // Of these only the metadata is read.
        Kind::Namespace | Kind::Node | Kind::CustomResourceDefinition => Some(&OBJECT),
        Kind::Pod => Some(&POD),
        Kind::Service => Some(&SERVICE),
        Kind::EndpointSlice => Some(&ENDPOINT_SLICE),
        Kind::ConfigMap => Some(&CONFIG_MAP),
        Kind::ServiceEntry
        | Kind::WorkloadEntry
        | Kind::AuthorizationPolicy
        | Kind::PeerAuthentication
        | Kind::RequestAuthentication
        | Kind::Telemetry
        | Kind::Gateway
        | Kind::GatewayClass
        | Kind::IstioGateway
        | Kind::VirtualService
        | Kind::DestinationRule
        | Kind::HTTPRoute
        | Kind::GRPCRoute
        | Kind::TCPRoute
        | Kind::TLSRoute
        | Kind::ReferenceGrant => None,
    }
}

pub(super) static META: Message = Message(&[
    (1, "name", Text),
    (2, "generateName", Text),
    (3, "namespace", Text),
    (5, "uid", Text),
    (6, "resourceVersion", Text),
    (7, "generation", Int),
    (8, "creationTimestamp", Time),
    (9, "deletionTimestamp", Time),
    (11, "labels", Map),
    (12, "annotations", Map),
    (13, "ownerReferences", List(&Nested(&OWNER))),
]);
static OWNER: Message = Message(&[(1, "kind", Text), (3, "name", Text), (6, "controller", Bool)]);

static OBJECT: Message = Message(&[(1, "metadata", Nested(&META))]);

static POD: Message =
    Message(&[(1, "metadata", Nested(&META)), (2, "spec", Nested(&POD_SPEC)), (3, "status", Nested(&POD_STATUS))]);
static POD_SPEC: Message = Message(&[
    (2, "containers", List(&Nested(&CONTAINER))),
    (8, "serviceAccountName", Text),
    (10, "nodeName", Text),
    (11, "hostNetwork", Bool),
    (20, "initContainers", List(&Nested(&CONTAINER))),
]);
static CONTAINER: Message = Message(&[(6, "ports", List(&Nested(&CONTAINER_PORT))), (24, "restartPolicy", Text)]);
static CONTAINER_PORT: Message = Message(&[(1, "name", Text), (3, "containerPort", Int), (4, "protocol", Text)]);
static POD_STATUS: Message = Message(&[
    (1, "phase", Text),
    (2, "conditions", List(&Nested(&CONDITION))),
    (6, "podIP", Text),
    (12, "podIPs", List(&Nested(&POD_IP))),
]);
static CONDITION: Message = Message(&[(1, "type", Text), (2, "status", Text)]);
static POD_IP: Message = Message(&[(1, "ip", Text)]);

static SERVICE: Message = Message(&[(1, "metadata", Nested(&META)), (2, "spec", Nested(&SERVICE_SPEC))]);
static SERVICE_SPEC: Message = Message(&[
    (1, "ports", List(&Nested(&SERVICE_PORT))),
    (2, "selector", Map),
    (3, "clusterIP", Text),
    (4, "type", Text),
    (13, "publishNotReadyAddresses", Bool),
    (18, "clusterIPs", List(&Text)),
    (19, "ipFamilies", List(&Text)),
    (22, "internalTrafficPolicy", Text),
    (23, "trafficDistribution", Text),
]);
static SERVICE_PORT: Message = Message(&[
    (1, "name", Text),
    (2, "protocol", Text),
    (3, "port", Int),
    (4, "targetPort", IntOrString),
    (6, "appProtocol", Text),
]);

static ENDPOINT_SLICE: Message = Message(&[
    (1, "metadata", Nested(&META)),
    (2, "endpoints", List(&Nested(&ENDPOINT))),
    (3, "ports", List(&Nested(&ENDPOINT_PORT))),
    (4, "addressType", Text),
]);
static ENDPOINT: Message = Message(&[
    (1, "addresses", List(&Text)),
    (2, "conditions", Nested(&ENDPOINT_CONDITIONS)),
    (4, "targetRef", Nested(&TARGET_REF)),
]);
static ENDPOINT_CONDITIONS: Message = Message(&[(1, "ready", Bool)]);
static TARGET_REF: Message = Message(&[(1, "kind", Text), (2, "namespace", Text), (3, "name", Text), (4, "uid", Text)]);
static ENDPOINT_PORT: Message = Message(&[(1, "name", Text), (2, "protocol", Text), (3, "port", Int)]);

static CONFIG_MAP: Message = Message(&[(1, "metadata", Nested(&META)), (2, "data", Map)]);

pub(super) static LIST_META: Message = Message(&[(2, "resourceVersion", Text), (3, "continue", Text)]);
pub(super) static STATUS: Message =
    Message(&[(3, "message", Text), (5, "details", Nested(&STATUS_DETAILS)), (6, "code", Int)]);
static STATUS_DETAILS: Message = Message(&[(5, "retryAfterSeconds", Int)]);
