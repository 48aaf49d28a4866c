//! What becomes of requests for a port of a service at a waypoint.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3::Route;

use crate::api::virtual_service::{Destination as ApiDestination, PortSelector};
use crate::envoy::destination::Destination;
use crate::envoy::name::Handling;
use crate::envoy::route::{self, Clients};
use crate::envoy::routing::{self, At};
use crate::graph::Ctx;
use crate::model::Model;
use crate::model::service::{Port, Service};
use crate::model::virtual_service::{HttpRoutes, Place};

use super::Served;

/// The routes of one port of a service at one waypoint are worked out here.
pub(super) struct Routing<'a> {
    pub(super) cx: &'a Ctx<'a>,
    pub(super) model: &'a Model,
    pub(super) key: &'a Served,
    pub(super) service: &'a Service,
    pub(super) port: &'a Port,
    /// Destinations that the waypoint does not serve by itself.
    pub(super) references: &'a RefCell<BTreeSet<Destination>>,
}

impl<'a> Routing<'a> {
    /// What is the same wherever requests arrive.
    pub(super) fn rules(&self) -> routing::Routing<'a> {
        let Self { cx, model, key, service, port, references } = *self;
        routing::Routing { cx, model, scope: &key.scope, at: At::Service { service, port }, references }
    }

    pub(super) fn client(&self) -> &'a Arc<str> {
        self.key.scope.namespace()
    }

    pub(super) fn place(&self) -> Place<'_> {
        Place { client: self.client(), service: self.service, port: self.port.number }
    }

    /// The routes for HTTP. Without any rule, everything goes to the service.
    pub(super) fn http(&self) -> Vec<Route> {
        let Self { cx, model, service, port, .. } = *self;
        let virtual_services = model.routes.virtual_services(cx, model.scope(), self.client(), service);
        let mut routes = Vec::new();
        let mut any = false;
        for one in virtual_services.iter().filter(|one| route::applies(&Clients::Mesh, port.number, &one.spec.http)) {
            any = true;
            routes.extend(self.rules().of_virtual_service(one));
            if routes.last().is_some_and(ends) {
                return routes;
            }
        }
        let HttpRoutes { http, grpc } = model.routes.http(cx, model.scope(), self.place());
        if !http.is_empty() || !grpc.is_empty() {
            any = true;
            routes.extend(self.rules().of_gateway_api(&http, &grpc, &service.meta.name));
        }
        if any {
            return routes;
        }
        let own = ApiDestination {
            host: service.key.hostname.clone(),
            port: Some(PortSelector { number: port.number.into() }),
            ..ApiDestination::default()
        };
        let operation = format!("{}:{}/*", service.key.hostname, port.number);
        let retry = model.scope().mesh(cx).default_http_retry_policy.as_ref();
        let cluster = self.rules().cluster(&own, self.client(), Handling::Http);
        vec![route::default_route(&cluster, &operation, retry)]
    }
}

/// Whether nothing after a route can match.
fn ends(route: &Route) -> bool {
    route.r#match.as_ref().is_some_and(route::is_catch_all)
}
