//! What the pods of one namespace with the same labels have in common, which
//! is nearly everything but their names and addresses. A change of a policy or
//! a service is looked at once for each of these, not for each pod.

use std::sync::Arc;

use fairway_proto::workload as proto;

use crate::api::core::{EndpointSlice, Pod};
use crate::api::{Labels, ObjectKey};
use crate::graph::{Collection, Ctx, Graph, Index};
use crate::model::Model;
use crate::model::service::Service;
use crate::model::waypoint::Unattached;

use super::{network_gateway, policies, trust_domain, waypoint_fields};

/// What a profile is made from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ProfileKey {
    /// The namespace of the pods.
    pub(super) namespace: Arc<str>,
    /// Their labels.
    pub(super) labels: Labels,
}

impl ProfileKey {
    pub(super) fn of(pod: &Pod) -> Self {
        Self { namespace: pod.meta.namespace.clone(), labels: pod.meta.labels.clone() }
    }
}

/// What follows from a namespace and labels.
#[derive(Debug, PartialEq)]
pub(super) struct Profile {
    /// The cluster's network.
    pub(super) network: String,
    /// The gateway to it, if others need one.
    pub(super) network_gateway: Option<proto::GatewayAddress>,
    /// The trust domain, as ztunnel expects it.
    pub(super) trust_domain: String,
    /// The services that select the labels.
    pub(super) services: Vec<Arc<Service>>,
    /// Whether there are pods in the namespace that slices refer to which
    /// someone wrote by hand.
    pub(super) hand_written: bool,
    /// The policies a workload names.
    pub(super) policies: Vec<String>,
    /// The tunnel of an instance of a waypoint.
    pub(super) application_tunnel: Option<proto::ApplicationTunnel>,
    /// The waypoint for traffic to the pods' own addresses.
    pub(super) waypoint: Option<proto::GatewayAddress>,
    /// Why they have not the waypoint that was asked for.
    pub(super) unattached: Option<Unattached>,
}

/// The profiles of all pods in namespaces that are discovered; `slices` are
/// those that someone wrote by hand.
pub(super) fn profiles(
    graph: &mut Graph,
    model: &Model,
    slices: Index<Arc<str>, ObjectKey, Arc<EndpointSlice>>,
) -> Collection<ProfileKey, Profile> {
    let model_of = model.clone();
    let of_pod = |_: &_, pod: &Pod| Some(ProfileKey::of(pod));
    graph.distinct("pod_profiles", model.inputs.pods, of_pod, move |cx, key| profile(cx, &model_of, slices, key))
}

fn profile(
    cx: &Ctx<'_>,
    model: &Model,
    slices: Index<Arc<str>, ObjectKey, Arc<EndpointSlice>>,
    key: &ProfileKey,
) -> Option<Profile> {
    let scope = model.scope();
    let ProfileKey { namespace, labels } = key;
    if !scope.discovers(cx, namespace) {
        return None;
    }
    let network = scope.network(cx);
    let (application_tunnel, waypoint) = waypoint_fields(cx, model, namespace, labels);
    let (waypoint, unattached) = match waypoint {
        Ok(waypoint) => (waypoint, None),
        Err(unattached) => (None, Some(unattached)),
    };
    Some(Profile {
        network: network.to_string(),
        network_gateway: network_gateway(cx, model, network),
        trust_domain: trust_domain(cx, scope),
        services: services(cx, model, key),
        hand_written: cx.fetch(slices, namespace).next().is_some(),
        policies: policies(cx, model, namespace, labels),
        application_tunnel,
        waypoint,
        unattached,
    })
}

fn services(cx: &Ctx<'_>, model: &Model, key: &ProfileKey) -> Vec<Arc<Service>> {
    let mut services = Vec::new();
    for (label, value) in key.labels.pairs() {
        let pair = (key.namespace.clone(), label.clone(), value.clone());
        let selecting = cx.fetch(model.services_by_selector, &pair);
        services.extend(selecting.filter(|(_, one)| one.selector.select(&key.labels)).map(|(_, one)| one.clone()));
    }
    services
}
