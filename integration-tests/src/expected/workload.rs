//! Workloads: pods, WorkloadEntries, endpoints of ServiceEntries and of slices
//! that are not pods.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::Value;

use super::service::{Port, Service, Target, hostname};
use super::{CLUSTER, Objects, Workload, list, map, name, namespace, policy, selects, sorted, text};

type Services = BTreeMap<String, Service>;

pub(super) fn workloads(objects: &Objects, services: &Services) -> BTreeMap<String, Workload> {
    let mut workloads = BTreeMap::new();
    for pod in &objects.pods {
        workloads.extend(of_pod(objects, services, pod));
    }
    for entry in &objects.workload_entries {
        workloads.extend(of_workload_entry(objects, services, entry));
    }
    for entry in &objects.service_entries {
        workloads.extend(of_service_entry(objects, services, entry));
    }
    for slice in &objects.slices {
        workloads.extend(of_slice(services, slice));
    }
    workloads
}

fn hbone(object: &Value, labels: &BTreeMap<String, String>) -> bool {
    let annotations = map(object, "/metadata/annotations");
    annotations.get("ambient.istio.io/redirection").is_some_and(|value| value == "enabled")
        || labels.get("networking.istio.io/tunnel").is_some_and(|value| value.contains("http"))
}

fn of_pod(objects: &Objects, services: &Services, pod: &Value) -> Option<(String, Workload)> {
    if matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") {
        return None;
    }
    let addresses: Vec<_> = list(pod, "/status/podIPs").iter().map(|ip| text(ip, "/ip").to_string()).collect();
    if addresses.is_empty() || addresses.iter().any(|address| address.parse::<IpAddr>().is_err()) {
        return None;
    }
    let labels = map(pod, "/metadata/labels");
    let mut behind = BTreeMap::new();
    for (key, service) in services.iter().filter(|(_, service)| service.namespace == namespace(pod)) {
        if (!service.selector.is_empty() && selects(&service.selector, &labels))
            || (service.selector.is_empty() && service.entry.is_none() && sliced(objects, key, pod))
        {
            let target = |port: &Port| match (&port.target, &service.entry) {
                (Target::Name(name), _) => container_port(pod, name, &port.transport),
                (Target::Number(number), None) => Some(*number),
                (Target::Number(number), Some(_)) => {
                    Some(container_port(pod, &port.name, &port.transport).unwrap_or(*number))
                }
            };
            behind.insert(key.clone(), ports(service, target));
        }
    }
    let conditions = list(pod, "/status/conditions");
    let ready = conditions.iter().any(|one| text(one, "/type") == "Ready" && text(one, "/status") == "True");
    let node = text(pod, "/spec/nodeName");
    let workload = Workload {
        addresses,
        hostname: String::new(),
        service_account: text(pod, "/spec/serviceAccountName").into(),
        node: node.into(),
        locality: objects.nodes.iter().find(|one| name(one) == node).map_or("//".into(), locality_of_node),
        hbone: hbone(pod, &labels),
        healthy: ready && pod.pointer("/metadata/deletionTimestamp").is_none(),
        host_network: pod.pointer("/spec/hostNetwork").is_some_and(|value| value == true),
        services: behind,
        policies: policy::of_workload(objects, namespace(pod), &labels),
    };
    Some((format!("{CLUSTER}//Pod/{}/{}", namespace(pod), name(pod)), workload))
}

fn locality_of_node(node: &Value) -> String {
    let labels = map(node, "/metadata/labels");
    let label = |key: &str| labels.get(key).cloned().unwrap_or_default();
    let [region, zone] = ["topology.kubernetes.io/region", "topology.kubernetes.io/zone"].map(label);
    format!("{region}/{zone}/{}", label("topology.istio.io/subzone"))
}

/// Whether a slice of a service without selector points to the pod.
fn sliced(objects: &Objects, service: &str, pod: &Value) -> bool {
    let of_service = |slice: &&Value| {
        let labels = map(slice, "/metadata/labels");
        let name = labels.get("kubernetes.io/service-name").cloned().unwrap_or_default();
        format!("{}/{}", namespace(slice), hostname(&name, namespace(slice))) == service
    };
    let refers = |endpoint: &Value| {
        let target = &endpoint["targetRef"];
        text(target, "/kind") == "Pod"
            && text(target, "/namespace") == namespace(pod)
            && text(target, "/name") == name(pod)
            && matches!(text(target, "/uid"), "") | (text(target, "/uid") == text(pod, "/metadata/uid"))
    };
    objects.slices.iter().filter(of_service).any(|slice| list(slice, "/endpoints").iter().any(refers))
}

fn ports(service: &Service, target: impl Fn(&Port) -> Option<u32>) -> Vec<(u32, u32)> {
    sorted(service.ports.iter().filter_map(|port| Some((port.number, target(port)?))))
}

fn container_port(pod: &Value, wanted: &str, transport: &str) -> Option<u32> {
    let sidecars = list(pod, "/spec/initContainers").iter().filter(|one| text(one, "/restartPolicy") == "Always");
    let mut ports = list(pod, "/spec/containers").iter().chain(sidecars).flat_map(|one| list(one, "/ports"));
    let port = ports.find(|port| text(port, "/name") == wanted && text(port, "/protocol") == transport)?;
    port["containerPort"].as_u64().map(|port| port as u32)
}

/// Where something outside Kubernetes listens.
fn entry_ports(service: &Service, spec: &Value) -> Vec<(u32, u32)> {
    let own = |name: &str| spec["ports"].get(name).and_then(Value::as_u64).map(|port| port as u32);
    ports(service, |port| match &port.target {
        Target::Name(name) => own(name),
        Target::Number(number) => Some(own(&port.name).unwrap_or(*number)),
    })
}

fn of_workload_entry(objects: &Objects, services: &Services, entry: &Value) -> Option<(String, Workload)> {
    let mut labels = map(entry, "/spec/labels");
    labels.extend(map(entry, "/metadata/labels"));
    let spec = &entry["spec"];
    let behind = services
        .iter()
        .filter(|(_, service)| service.namespace == namespace(entry))
        .filter(|(_, service)| !service.selector.is_empty() && selects(&service.selector, &labels))
        .map(|(key, service)| (key.clone(), entry_ports(service, spec)));
    let workload = Workload {
        hbone: hbone(entry, &labels),
        services: behind.collect(),
        policies: policy::of_workload(objects, namespace(entry), &labels),
        ..outside(spec)
    };
    Some((format!("{CLUSTER}/networking.istio.io/WorkloadEntry/{}/{}", namespace(entry), name(entry)), workload))
}

fn of_service_entry(objects: &Objects, services: &Services, entry: &Value) -> Vec<(String, Workload)> {
    let this = (namespace(entry).to_string(), name(entry).to_string());
    let mine: Vec<_> = services.iter().filter(|(_, service)| service.entry.as_ref() == Some(&this)).collect();
    let labels = map(entry, "/metadata/labels");
    let policies = policy::of_workload(objects, namespace(entry), &labels);
    let row = |spec: &Value, behind: &[&(&String, &Service)]| {
        let services = behind.iter().map(|(key, service)| ((*key).clone(), entry_ports(service, spec)));
        let workload = Workload {
            hbone: hbone(entry, &labels),
            services: services.collect(),
            policies: policies.clone(),
            ..outside(spec)
        };
        let uid = format!(
            "{CLUSTER}/networking.istio.io/ServiceEntry/{}/{}/{}",
            namespace(entry),
            name(entry),
            text(spec, "/address")
        );
        (uid, workload)
    };
    let endpoints = list(entry, "/spec/endpoints");
    if !endpoints.is_empty() && !mine.is_empty() {
        return endpoints.iter().map(|endpoint| row(endpoint, &mine.iter().collect::<Vec<_>>())).collect();
    }
    let resolved = matches!(text(entry, "/spec/resolution"), "DNS" | "DYNAMIC_DNS" | "DNS_ROUND_ROBIN");
    if endpoints.is_empty() && resolved && entry.pointer("/spec/workloadSelector").is_none() {
        let host = |key: &str| key.split_once('/').unwrap().1.to_string();
        return mine.iter().map(|one| row(&serde_json::json!({ "address": host(one.0) }), &[one])).collect();
    }
    vec![]
}

/// What WorkloadEntries and endpoints of ServiceEntries have in common.
fn outside(spec: &Value) -> Workload {
    let address = text(spec, "/address");
    let is_ip = address.parse::<IpAddr>().is_ok();
    let mut locality = text(spec, "/locality").split('/').chain(std::iter::repeat(""));
    let mut part = || locality.next().unwrap_or_default();
    Workload {
        addresses: if is_ip { vec![address.into()] } else { vec![] },
        hostname: if is_ip { String::new() } else { address.into() },
        service_account: text(spec, "/serviceAccount").into(),
        locality: format!("{}/{}/{}", part(), part(), part()),
        healthy: true,
        ..Workload::default()
    }
}

fn of_slice(services: &Services, slice: &Value) -> Vec<(String, Workload)> {
    let labels = map(slice, "/metadata/labels");
    let service = labels.get("kubernetes.io/service-name").map(|name| hostname(name, namespace(slice)));
    let key = format!("{}/{}", namespace(slice), service.unwrap_or_default());
    let service = services.get(&key).filter(|service| service.entry.is_none());
    let Some(service) = service.filter(|_| text(slice, "/addressType") != "FQDN") else { return vec![] };
    let tcp = list(slice, "/ports").iter().filter(|port| matches!(text(port, "/protocol"), "" | "TCP"));
    let mapped: Vec<_> = sorted(tcp.filter_map(|port| {
        let service_port = service.ports.iter().find(|one| one.name == text(port, "/name"))?;
        Some((service_port.number, port["port"].as_u64()? as u32))
    }));
    let mut seen = BTreeSet::new();
    let endpoints = list(slice, "/endpoints").iter().filter(|one| text(one, "/targetRef/kind") != "Pod");
    let mut rows = vec![];
    for endpoint in endpoints {
        let addresses: Vec<String> =
            list(endpoint, "/addresses").iter().filter_map(Value::as_str).map(String::from).collect();
        let Some(first) = addresses.first().cloned().filter(|first| seen.insert(first.clone())) else { continue };
        let workload = Workload {
            addresses,
            locality: "//".into(),
            healthy: endpoint.pointer("/conditions/ready").is_none_or(|ready| ready == true),
            host_network: true,
            services: [(key.clone(), mapped.clone())].into(),
            ..Workload::default()
        };
        let uid = format!("{CLUSTER}/discovery.k8s.io/EndpointSlice/{}/{}/{first}", namespace(slice), name(slice));
        rows.push((uid, workload));
    }
    rows
}
