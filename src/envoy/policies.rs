//! The filters that guard what a proxy passes on, and what goes with them.

use std::cell::RefCell;
use std::collections::BTreeSet;

use envoy_types::pb::envoy::config::listener::v3::Filter;
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::Cors;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::HttpFault;
use envoy_types::pb::envoy::extensions::filters::http::grpc_stats::v3::FilterConfig;
use envoy_types::pb::envoy::extensions::filters::http::grpc_stats::v3::filter_config::PerMethodStatSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use envoy_types::pb::google::protobuf::BoolValue;

use crate::api::Labels;
use crate::api::request_authentication::JwtRule;
use crate::envoy::Scoped;
use crate::envoy::authorization::provider::Provider;
use crate::envoy::authorization::{self, Identity};
use crate::envoy::listener::http_filter;
use crate::envoy::name::Handling;
use crate::envoy::request_authentication::{self, Keys};
use crate::envoy::telemetry::Collector;
use crate::graph::Ctx;
use crate::model::service::{Service, ServiceKey};
use crate::model::workload_policy::GatewayProxy;
use crate::model::{Model, key_set};
use crate::proxy::Scope;

use super::destination::Destination;
use super::{class, gateway};

/// The filters of policies: of a service, or of all that a proxy passes on.
pub(super) struct Policies {
    http: Vec<HttpFilter>,
    /// For connections that are passed on as they are.
    pub(super) network: Vec<Filter>,
}

impl Policies {
    /// Those for a service. Authorizers that are asked become `references`.
    pub(super) fn of(
        cx: &Ctx<'_>,
        model: &Model,
        scope: &Scope,
        service: Option<&Service>,
        references: &RefCell<BTreeSet<Destination>>,
    ) -> Self {
        Self::with(cx, model, scope, (service, Identity::Certificate), references)
    }

    /// Those of a gateway, for clients with certificates by anybody.
    pub(super) fn unverified(
        cx: &Ctx<'_>,
        model: &Model,
        scope: &Scope,
        references: &RefCell<BTreeSet<Destination>>,
    ) -> Self {
        Self::with(cx, model, scope, (None, Identity::Unverified), references)
    }

    fn with(
        cx: &Ctx<'_>,
        model: &Model,
        scope: &Scope,
        (service, at_gateway): (Option<&Service>, Identity),
        references: &RefCell<BTreeSet<Destination>>,
    ) -> Self {
        let mesh = model.scope().mesh(cx);
        let (policies, tokens, identity) = match scope {
            Scope::Waypoint(_) => {
                let (gateway, class) = (gateway(scope), class(cx, model, scope));
                let policies = model.attached_policies.enforced(cx, model.scope(), &gateway, &class, service);
                let tokens = model.attached_authentications.enforced(cx, model.scope(), &gateway, &class, service);
                (policies, tokens, Identity::FilterState)
            }
            Scope::Gateway(_) => proxy(cx, model, scope, |proxy| {
                let policies = model.gateway_policies.of_gateway(cx, model.scope(), proxy);
                let tokens = model.gateway_authentications.of_gateway(cx, model.scope(), proxy);
                (policies, tokens, at_gateway)
            }),
        };
        let domains: Vec<_> = std::iter::once(&mesh.trust_domain).chain(&mesh.trust_domain_aliases).cloned().collect();
        let providers: Vec<_> = mesh.extension_providers.iter().filter_map(Provider::new).collect();
        let cluster = |service: &str, port: u16| {
            collector(cx, model, scope, service, port, references).map(|collector| collector.cluster)
        };
        let request = authorization::Request {
            trust_domains: &domains,
            identity,
            knows_address: scope.capabilities().network_ip,
            providers: &providers,
            cluster: &cluster,
        };
        let http = authorization::http_filters(&request, &policies);
        let network = authorization::network_filters(&request, &policies);
        let keys = |rule: &JwtRule| match model.key_sets.keys(cx, model.scope(), model.canonical, rule) {
            key_set::Keys::AtService(service, port) => {
                Keys::Remote { cluster: outbound(scope, service, port, references) }
            }
            key_set::Keys::Known(keys) => Keys::Local(keys.to_string()),
            key_set::Keys::Missing(why) => Keys::Missing(why.to_string()),
        };
        let request = request_authentication::Request { keys: &keys, clear_route_cache: true };
        let (token, problems) = request_authentication::filter(&request, &tokens);
        for found in http.problems.into_iter().chain(problems) {
            cx.diagnose(found);
        }
        Self {
            http: http.custom.into_iter().chain(token).chain(http.rules).collect(),
            network: network.custom.into_iter().chain(network.rules).collect(),
        }
    }

    /// All HTTP filters of a chain, in order: `last` before the router, which is
    /// given.
    pub(super) fn http_filters(&self, last: Vec<HttpFilter>, router: HttpFilter) -> Vec<HttpFilter> {
        let grpc = FilterConfig {
            emit_filter_state: true,
            per_method_stat_specifier: Some(PerMethodStatSpecifier::StatsForAllMethods(BoolValue { value: false })),
            ..Default::default()
        };
        let standard = [
            http_filter("envoy.filters.http.grpc_stats", &grpc),
            http_filter("envoy.filters.http.fault", &HttpFault::default()),
            http_filter("envoy.filters.http.cors", &Cors::default()),
        ];
        self.http.iter().cloned().chain(standard).chain(last).chain([router]).collect()
    }
}

/// A gateway as policies choose it.
pub(super) fn proxy<T>(cx: &Ctx<'_>, model: &Model, scope: &Scope, then: impl FnOnce(GatewayProxy<'_>) -> T) -> T {
    let labels: Labels = scope.place().labels.iter().map(|(key, value)| (&**key, &**value)).collect();
    let (gateway, class) = (gateway(scope), class(cx, model, scope));
    let gateway = Some(&gateway).filter(|gateway| !gateway.name.is_empty());
    then(GatewayProxy { namespace: scope.namespace(), labels: &labels, gateway, class: &class })
}

/// Where a service that the proxy itself calls is reached: an authorizer, a
/// collector of logs. It becomes one of `references`.
pub(super) fn collector(
    cx: &Ctx<'_>,
    model: &Model,
    scope: &Scope,
    service: &str,
    port: u16,
    references: &RefCell<BTreeSet<Destination>>,
) -> Option<Collector> {
    let key = called(cx, model, service)?;
    let hostname = key.hostname.to_string();
    Some(Collector { cluster: outbound(scope, key, port, references), hostname })
}

/// The cluster of a port of a service, which becomes one of `references`.
fn outbound(scope: &Scope, service: ServiceKey, port: u16, references: &RefCell<BTreeSet<Destination>>) -> String {
    let (scope, handling) = (scope.clone(), Handling::Outbound);
    let destination = Destination { scope, service, port, handling, subset: "".into() };
    let name = destination.name();
    references.borrow_mut().insert(destination);
    name
}

/// A service that is given as `hostname` or `namespace/hostname`.
pub fn called(cx: &Ctx<'_>, model: &Model, service: &str) -> Option<ServiceKey> {
    match service.split_once('/') {
        Some((namespace, hostname)) => {
            let key = ServiceKey { namespace: namespace.into(), hostname: hostname.into() };
            cx.get(model.services, &key).map(|_| key)
        }
        None => cx.get(model.canonical, &service.into()).cloned(),
    }
}
