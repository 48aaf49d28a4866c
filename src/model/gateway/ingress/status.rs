//! What Ingresses say of where they are reached.

use crate::api::ObjectKey;
use crate::api::core::LoadBalancerIngress;
use crate::graph::Ctx;
use crate::model::Scope;

/// The addresses of the Service in front of the proxies that Ingresses are for,
/// in order: the name of one of type `ExternalName`, else those of its load
/// balancer and those that it has from elsewhere.
pub fn addresses(cx: &Ctx<'_>, scope: &Scope) -> Vec<LoadBalancerIngress> {
    let service = &scope.mesh(cx).ingress_service;
    let key = ObjectKey { namespace: scope.settings.ingress_namespace.clone(), name: service.clone() };
    let Some(service) = cx.get(scope.inputs.services, &key) else { return Vec::new() };
    let hostname = |name: &std::sync::Arc<str>| LoadBalancerIngress { hostname: name.clone(), ..Default::default() };
    if &*service.spec.kind == "ExternalName" {
        return vec![hostname(&service.spec.external_name)];
    }
    // Of an entry with both, the IP address counts.
    let balancer = service.status.load_balancer.ingress.iter().map(|one| match one.ip.is_empty() {
        true => hostname(&one.hostname),
        false => LoadBalancerIngress { ip: one.ip.clone(), ..Default::default() },
    });
    let external =
        service.spec.external_ips.iter().map(|ip| LoadBalancerIngress { ip: ip.clone(), ..Default::default() });
    let mut all: Vec<_> = balancer.chain(external).collect();
    all.sort();
    all.dedup();
    all
}
