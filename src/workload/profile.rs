//! What the pods of one namespace with the same labels have in common, which
//! is nearly everything but their names and addresses. A change of a policy or
//! a service is looked at once for each of these, not for each pod.

use std::sync::Arc;

use fairway_proto::workload as proto;

use crate::api::ObjectKey;
use crate::graph::{Collection, Ctx, Graph, Index};
use crate::model::Model;
use crate::model::endpoint_slice::Slice;
use crate::model::selection::{Group, PodGroup};
use crate::model::service::Service;
use crate::model::waypoint::{Unattached, Waypoint};

use super::{application_tunnel, network_gateway, policies, trust_domain, waypoint_address};

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
    /// The same for those of some service accounts.
    pub(super) of_accounts: Vec<(Arc<str>, proto::GatewayAddress)>,
    /// Why they have not the waypoint that was asked for.
    pub(super) unattached: Option<Box<Unattached>>,
}

/// The profiles of all pods in namespaces that are discovered; `slices` are
/// those that someone wrote by hand.
pub(super) fn profiles(
    graph: &mut Graph,
    model: &Model,
    slices: Index<Arc<str>, ObjectKey, Slice>,
) -> Collection<PodGroup, Profile> {
    let model_of = model.clone();
    graph.derive("pod_profiles", model.selection.groups, move |cx, key, group| {
        [(key.clone(), profile(cx, &model_of, slices, key, group))]
    })
}

fn profile(
    cx: &Ctx<'_>,
    model: &Model,
    slices: Index<Arc<str>, ObjectKey, Slice>,
    key: &PodGroup,
    group: &Group,
) -> Profile {
    let scope = model.scope();
    let PodGroup { namespace, labels } = key;
    let network = scope.network(cx);
    let (waypoint, unattached) = match group.waypoint.as_deref() {
        None => (None, None),
        Some(Ok(key)) => {
            let waypoint = cx.get(model.waypoints, key);
            (waypoint.map(|waypoint| waypoint_address(cx, scope, &key.namespace, waypoint)), None)
        }
        Some(Err(unattached)) => (None, Some(Box::new(unattached.clone()))),
    };
    let of_account = |(account, key, waypoint): (&Arc<str>, &ObjectKey, &Waypoint)| {
        (account.clone(), waypoint_address(cx, scope, &key.namespace, waypoint))
    };
    Profile {
        network: network.to_string(),
        network_gateway: network_gateway(cx, model, network),
        trust_domain: trust_domain(cx, scope),
        services: group.services.clone(),
        hand_written: cx.fetch(slices, namespace).next().is_some(),
        policies: policies(cx, model, namespace, labels),
        application_tunnel: application_tunnel(cx, model, namespace, labels),
        waypoint,
        of_accounts: model.account_waypoints(cx, namespace, labels).into_iter().map(of_account).collect(),
        unattached,
    }
}
