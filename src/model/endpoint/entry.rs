//! Workloads outside Kubernetes behind a service: WorkloadEntries that it
//! selects, and endpoints that a ServiceEntry lists.
//! <https://istio.io/latest/docs/reference/config/networking/service-entry/>

use std::net::IpAddr;

use crate::api::core::TargetPort;
use crate::api::istio::{WorkloadEntry, WorkloadEntrySpec};
use crate::api::{Labels, Meta};
use crate::graph::Ctx;
use crate::model::selection::entry_labels;
use crate::model::service::{Port, Service};
use crate::model::{Model, problem};

use super::{Address, Endpoint, Locality, speaks_hbone, tunnels};

/// An endpoint as an object writes it.
struct Written<'a> {
    /// The object.
    kind: &'static str,
    meta: &'a Meta,
    /// Where in it the endpoint is.
    field: String,
    spec: &'a WorkloadEntrySpec,
}

impl Model {
    /// The workload entries that a service selects.
    pub(super) fn selected_entries(&self, cx: &Ctx<'_>, service: &Service) -> Vec<Endpoint> {
        let keys = cx.fetch(self.selection.entries_of_service, &service.key).map(|(key, _)| key);
        let entries = keys.filter_map(|key| cx.get(self.inputs.workload_entries, key));
        let endpoint = |entry: &WorkloadEntry| {
            let WorkloadEntry { meta, spec, .. } = entry;
            let labels = entry_labels(entry);
            let written = Written { kind: "WorkloadEntry", meta, field: "spec".into(), spec };
            let endpoint = endpoint(cx, service, &written, &labels, tunnels(meta) || speaks_hbone(&labels))?;
            let group = meta.annotation("istio.io/autoRegistrationGroup");
            let name = group.or_else(|| labels.get("service.istio.io/workload-name"));
            Some(Endpoint { workload: name.map_or_else(|| meta.name.clone(), Into::into), ..endpoint })
        };
        entries.filter_map(endpoint).collect()
    }

    /// The endpoints that the ServiceEntry of a service lists. If it lists none
    /// and names are to be resolved, its host stands for itself.
    pub(super) fn listed(&self, cx: &Ctx<'_>, service: &Service) -> Vec<Endpoint> {
        let Some(entry) = cx.get(self.inputs.service_entries, &service.meta.key()) else { return Vec::new() };
        let (meta, spec) = (&entry.meta, &entry.spec);
        let host = &service.key.hostname;
        if spec.endpoints.is_empty() {
            let implied = service.resolution.by_dns() && spec.workload_selector.is_none() && !host.starts_with('*');
            let itself = WorkloadEntrySpec { address: host.clone(), ..WorkloadEntrySpec::default() };
            let written = Written { kind: "ServiceEntry", meta, field: "spec.hosts".into(), spec: &itself };
            let endpoint = implied.then(|| endpoint(cx, service, &written, &Labels::default(), false)).flatten();
            return endpoint.into_iter().collect();
        }
        let endpoints = spec.endpoints.iter().enumerate().filter_map(|(at, spec)| {
            let labels = spec.labels.clone().unwrap_or_default();
            let written = Written { kind: "ServiceEntry", meta, field: format!("spec.endpoints[{at}]"), spec };
            endpoint(cx, service, &written, &labels, tunnels(meta) || speaks_hbone(&labels))
        });
        endpoints.collect()
    }
}

/// `None` if the address is not one that the service can use.
fn endpoint(
    cx: &Ctx<'_>,
    service: &Service,
    Written { kind, meta, field, spec }: &Written<'_>,
    labels: &Labels,
    hbone: bool,
) -> Option<Endpoint> {
    let text = &spec.address;
    let address = match text.parse::<IpAddr>() {
        Ok(address) => Address::Ips(vec![address]),
        // It is on another network, and reached by that one's gateway.
        Err(_) if text.is_empty() => return None,
        Err(_) if service.resolution.by_dns() && !text.starts_with("unix:") => Address::Hostname(text.clone()),
        Err(_) => {
            let message = format!("{text:?} is not an IP address; the endpoint of {} is left out", service.key);
            cx.diagnose(problem(kind, meta, format!("{field}.address"), "InvalidAddress", message));
            return None;
        }
    };
    let ports = service.ports.iter().filter_map(|port| Some((port.number, entry_port(spec, port)?)));
    let locality = match spec.locality.is_empty() {
        true => Locality::of_labels(|label| labels.get(label)).unwrap_or_default(),
        false => Locality::parse(&spec.locality),
    };
    Some(Endpoint {
        address,
        ports: ports.collect(),
        labels: labels.clone(),
        healthy: true,
        draining: false,
        hbone,
        locality,
        node: "".into(),
        network: spec.network.clone(),
        weight: spec.weight.max(1),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        workload: meta.name.clone(),
    })
}

/// Where an endpoint listens for a port of a service: at the port it gives for
/// the name, else at the service's target port.
pub fn entry_port(endpoint: &WorkloadEntrySpec, port: &Port) -> Option<u16> {
    let named = |name: &str| endpoint.ports.get(name).copied().filter(|port| *port != 0);
    match &port.target {
        TargetPort::Name(name) => named(name),
        TargetPort::Number(number) => Some(named(&port.name).unwrap_or(*number)),
        TargetPort::Same => Some(named(&port.name).unwrap_or(port.number)),
    }
}
