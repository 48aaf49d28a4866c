//! The numbers of the fields that models read.
//! <https://github.com/kubernetes/api>, the `generated.proto` of each group.

use super::Message;
use super::Value::{Bool, Bytes, Inline, Int, IntOrString, List, Map, Message as Nested, Text, Time};
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
        Kind::Secret => Some(&SECRET),
        Kind::Ingress => Some(&INGRESS),
        Kind::IngressClass => Some(&INGRESS_CLASS),
        Kind::ServiceEntry
        | Kind::WorkloadEntry
        | Kind::AuthorizationPolicy
        | Kind::PeerAuthentication
        | Kind::RequestAuthentication
        | Kind::Telemetry
        | Kind::Gateway
        | Kind::ListenerSet
        | Kind::GatewayClass
        | Kind::IstioGateway
        | Kind::VirtualService
        | Kind::DestinationRule
        | Kind::HTTPRoute
        | Kind::GRPCRoute
        | Kind::TCPRoute
        | Kind::TLSRoute
        | Kind::BackendTLSPolicy
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
    (11, "labels", Map(&Text)),
    (12, "annotations", Map(&Text)),
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

static SERVICE: Message = Message(&[
    (1, "metadata", Nested(&META)),
    (2, "spec", Nested(&SERVICE_SPEC)),
    (3, "status", Nested(&SERVICE_STATUS)),
]);
static SERVICE_STATUS: Message = Message(&[(1, "loadBalancer", Nested(&LOAD_BALANCER))]);
static LOAD_BALANCER: Message = Message(&[(1, "ingress", List(&Nested(&LOAD_BALANCER_INGRESS)))]);
static LOAD_BALANCER_INGRESS: Message = Message(&[(1, "ip", Text), (2, "hostname", Text)]);
static SERVICE_SPEC: Message = Message(&[
    (1, "ports", List(&Nested(&SERVICE_PORT))),
    (2, "selector", Map(&Text)),
    (3, "clusterIP", Text),
    (4, "type", Text),
    (5, "externalIPs", List(&Text)),
    (10, "externalName", Text),
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

static CONFIG_MAP: Message = Message(&[(1, "metadata", Nested(&META)), (2, "data", Map(&Text))]);

static SECRET: Message = Message(&[
    (1, "metadata", Nested(&META)),
    (2, "data", Map(&Bytes)),
    (3, "type", Text),
    // Never in what an API server sends, but it is part of the message.
    (4, "stringData", Map(&Text)),
]);

static INGRESS: Message = Message(&[(1, "metadata", Nested(&META)), (2, "spec", Nested(&INGRESS_SPEC))]);
static INGRESS_SPEC: Message = Message(&[
    (1, "defaultBackend", Nested(&INGRESS_BACKEND)),
    (2, "tls", List(&Nested(&INGRESS_TLS))),
    (3, "rules", List(&Nested(&INGRESS_RULE))),
    (4, "ingressClassName", Text),
]);
static INGRESS_TLS: Message = Message(&[(1, "hosts", List(&Text)), (2, "secretName", Text)]);
static INGRESS_RULE: Message = Message(&[(1, "host", Text), (2, "", Inline(&INGRESS_RULE_VALUE))]);
static INGRESS_RULE_VALUE: Message = Message(&[(1, "http", Nested(&INGRESS_HTTP))]);
static INGRESS_HTTP: Message = Message(&[(1, "paths", List(&Nested(&INGRESS_PATH)))]);
static INGRESS_PATH: Message =
    Message(&[(1, "path", Text), (2, "backend", Nested(&INGRESS_BACKEND)), (3, "pathType", Text)]);
static INGRESS_BACKEND: Message =
    Message(&[(3, "resource", Nested(&INGRESS_RESOURCE)), (4, "service", Nested(&INGRESS_SERVICE))]);
static INGRESS_RESOURCE: Message = Message(&[(2, "kind", Text), (3, "name", Text)]);
static INGRESS_SERVICE: Message = Message(&[(1, "name", Text), (2, "port", Nested(&INGRESS_PORT))]);
static INGRESS_PORT: Message = Message(&[(1, "name", Text), (2, "number", Int)]);
static INGRESS_CLASS: Message = Message(&[(1, "metadata", Nested(&META)), (2, "spec", Nested(&INGRESS_CLASS_SPEC))]);
static INGRESS_CLASS_SPEC: Message = Message(&[(1, "controller", Text)]);

pub(super) static LIST_META: Message = Message(&[(2, "resourceVersion", Text), (3, "continue", Text)]);
pub(super) static STATUS: Message =
    Message(&[(3, "message", Text), (5, "details", Nested(&STATUS_DETAILS)), (6, "code", Int)]);
static STATUS_DETAILS: Message = Message(&[(5, "retryAfterSeconds", Int)]);
