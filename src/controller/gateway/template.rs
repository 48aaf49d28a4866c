//! What is made for a Gateway: a ServiceAccount, a Deployment and a Service, and
//! what scales and protects its pods if a user says how,
//! with the names, labels, environment and volumes that Istio's proxy image and
//! Istio's tools expect. The reference is the documentation of waypoints and of
//! gateways, and what istiod's own templates make of the same values.
//! <https://istio.io/latest/docs/ambient/usage/waypoint/>,
//! <https://istio.io/latest/docs/tasks/traffic-management/ingress/gateway-api/#automated-deployment>

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::MANAGED;
use crate::api::gateway::Gateway;
use crate::controller::resource::{Reference, Resource};

use super::World;
use super::class::{Controller, Template};
use super::overlay::Overlays;
use super::settings::{Settings, filled};

/// Names the Gateway on everything made for it.
pub const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
const CLASS_NAME: &str = "gateway.networking.k8s.io/gateway-class-name";
const NAME_OVERRIDE: &str = "gateway.istio.io/name-override";
const SERVICE_ACCOUNT: &str = "gateway.istio.io/service-account";
const SERVICE_TYPE: &str = "networking.istio.io/service-type";
const NETWORK: &str = "topology.istio.io/network";
const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";
/// Where waypoints take HBONE.
pub const HBONE: u16 = 15008;
const STATUS: u16 = 15021;
/// What is made only if an overlay says how.
pub const OPTIONAL: [Resource; 2] = [Resource::HorizontalPodAutoscaler, Resource::PodDisruptionBudget];

/// What the objects of a Gateway are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The Deployment and the Service.
    pub deployment: String,
    /// The ServiceAccount.
    pub service_account: String,
}

impl Names {
    /// The names for a Gateway: its own, for a gateway with the class behind
    /// it, unless annotations say something else.
    pub fn of(gateway: &Gateway, template: Template) -> Self {
        let own = match template {
            Template::Waypoint => gateway.meta.name.to_string(),
            Template::Gateway => format!("{}-{}", gateway.meta.name, gateway.spec.gateway_class_name),
        };
        let name = |annotation| gateway.meta.annotation(annotation).filter(|name| !name.is_empty());
        let or_own = |name: Option<&str>| name.unwrap_or(&own).to_owned();
        Self { deployment: or_own(name(NAME_OVERRIDE)), service_account: or_own(name(SERVICE_ACCOUNT)) }
    }
}

/// A Gateway for which objects are made.
pub struct Input<'a> {
    /// The Gateway.
    pub gateway: &'a Gateway,
    /// The same as the API server has it.
    pub object: &'a Value,
    /// The controller of its class.
    pub controller: &'static Controller,
    /// What is made for it.
    pub template: Template,
    /// The listeners that others add to it.
    pub added: Vec<Port>,
    /// The address that its load balancer is to have.
    pub ip: Option<&'a str>,
}

/// A port of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The name of the listener.
    pub name: String,
    /// The port.
    pub number: u16,
    /// The protocol of the listener.
    pub protocol: String,
}

/// The objects of a Gateway, in the order of their making; the reason if what
/// a user adds to them cannot be added.
pub fn objects(
    world: &World,
    settings: &Settings,
    input: &Input<'_>,
    overlays: &Overlays,
) -> Result<Vec<(Reference, Value)>, String> {
    let names = Names::of(input.gateway, input.template);
    let mut objects = vec![
        (Resource::ServiceAccount, &names.service_account, None),
        (Resource::Deployment, &names.deployment, Some(deployment(world, settings, input, &names))),
        (Resource::Service, &names.deployment, Some(service(input))),
    ];
    // These have no defaults that would be of use.
    let scaler = json!({
        "scaleTargetRef": {
            "apiVersion": Resource::Deployment.api_version(),
            "kind": Resource::Deployment.kind(),
            "name": names.deployment,
        },
        "maxReplicas": 1,
    });
    let budget = json!({ "selector": { "matchLabels": { GATEWAY_NAME: &*input.gateway.meta.name } } });
    for (resource, spec) in OPTIONAL.into_iter().zip([scaler, budget]).filter(|(one, _)| overlays.has(*one)) {
        objects.push((resource, &names.deployment, Some(spec)));
    }
    let namespace = &*input.gateway.meta.namespace;
    let object = |(resource, name, spec): (Resource, &String, Option<Value>)| {
        let mut annotations = own_annotations(input);
        if resource == Resource::Service && input.template == Template::Waypoint {
            // Traffic to a waypoint need not leave its zone.
            let key = "networking.istio.io/traffic-distribution";
            annotations.entry(key.into()).or_insert_with(|| "PreferClose".into());
        }
        let mut body = json!({
            "apiVersion": resource.api_version(),
            "kind": resource.kind(),
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": labels(world, input),
                "ownerReferences": [{
                    "apiVersion": Resource::Gateway.api_version(),
                    "kind": Resource::Gateway.kind(),
                    "name": &*input.gateway.meta.name,
                    "uid": input.object["metadata"]["uid"],
                    "controller": true,
                }],
            },
        });
        if !annotations.is_empty() {
            body["metadata"]["annotations"] = json!(annotations);
        }
        if let Some(spec) = spec {
            body["spec"] = spec;
        }
        overlays.apply(resource, &mut body)?;
        Ok((Reference::new(resource, namespace, name.clone()), body))
    };
    objects.into_iter().map(object).collect()
}

/// Labels of everything made for a Gateway.
fn labels(world: &World, input: &Input<'_>) -> BTreeMap<String, String> {
    let mut labels = own_labels(input);
    match input.template {
        Template::Waypoint => {
            let network = world.installation.text(&["network"]);
            if let Some(network) = network.filter(|_| input.gateway.meta.label(NETWORK).is_none()) {
                labels.insert(NETWORK.into(), network.into());
            }
        }
        // A gateway's traffic is not captured, unless its user says that it is.
        Template::Gateway if input.gateway.meta.label(DATAPLANE_MODE).is_none() => {
            labels.entry(DATAPLANE_MODE.into()).or_insert_with(|| "none".into());
        }
        Template::Gateway => {}
    }
    labels.insert(GATEWAY_NAME.into(), input.gateway.meta.name.to_string());
    labels.insert(CLASS_NAME.into(), input.gateway.spec.gateway_class_name.to_string());
    labels.insert(MANAGED.into(), input.controller.label.into());
    labels
}

/// The labels of `spec.infrastructure`; without them, those of the Gateway.
fn own_labels(input: &Input<'_>) -> BTreeMap<String, String> {
    let infrastructure = input.gateway.spec.infrastructure.as_ref().and_then(|one| one.labels.as_ref());
    users(infrastructure.unwrap_or(&input.gateway.meta.labels).iter())
}

/// The annotations of `spec.infrastructure`; without them, those of the
/// Gateway.
fn own_annotations(input: &Input<'_>) -> BTreeMap<String, String> {
    if let Some(annotations) = input.gateway.spec.infrastructure.as_ref().and_then(|one| one.annotations.as_ref()) {
        return users(annotations.iter());
    }
    let own = input.object["metadata"]["annotations"].as_object();
    users(own.into_iter().flatten().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?))))
}

/// What of these is for others to read, not for the API or for us.
fn users<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> BTreeMap<String, String> {
    let ours =
        [NAME_OVERRIDE, SERVICE_ACCOUNT, super::CONTROLLER_VERSION, "kubectl.kubernetes.io/last-applied-configuration"];
    let theirs = pairs.filter(|(key, _)| !key.starts_with("gateway.networking.k8s.io/") && !ours.contains(key));
    theirs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn service(input: &Input<'_>) -> Value {
    let mut ports = vec![json!({ "name": "status-port", "port": STATUS, "protocol": "TCP", "appProtocol": "tcp" })];
    let (mut numbers, mut names) = (BTreeSet::from([STATUS]), BTreeSet::from(["status-port".to_owned()]));
    let own = input.gateway.spec.listeners.iter().map(|one| (one.port, &*one.name, &*one.protocol));
    let added = input.added.iter().map(|one| (one.number, one.name.as_str(), one.protocol.as_str()));
    let hbone = (input.template == Template::Waypoint).then_some((HBONE, "mesh", "HBONE"));
    for (number, name, protocol) in own.chain(added).chain(hbone) {
        if number == 0 || !numbers.insert(number) {
            continue;
        }
        let name = port_name(name, number, &names);
        names.insert(name.clone());
        let protocol = if protocol.contains('/') { "tcp".into() } else { protocol.to_lowercase() };
        ports.push(json!({ "name": name, "port": number, "protocol": "TCP", "appProtocol": protocol }));
    }
    let default = match input.template {
        Template::Waypoint => "ClusterIP",
        Template::Gateway => "LoadBalancer",
    };
    let kind = input.gateway.meta.annotation(SERVICE_TYPE).unwrap_or(default);
    let mut service = json!({
        "type": kind,
        "ipFamilyPolicy": "PreferDualStack",
        "ports": ports,
        "selector": { GATEWAY_NAME: &*input.gateway.meta.name },
    });
    if let Some(ip) = input.ip.filter(|_| kind == "LoadBalancer") {
        service["loadBalancerIP"] = json!(ip);
    }
    service
}

/// The name of a Service's port: the listener's, as far as a port can have it.
/// Ports have no dots, and names of 63 characters at most, of which no two are
/// equal.
fn port_name(listener: &str, number: u16, taken: &BTreeSet<String>) -> String {
    const LONGEST: usize = 63;
    let shortened = |text: &str, room: usize| text[..text.floor_char_boundary(room)].to_owned();
    let name = match shortened(&listener.replace('.', "-"), LONGEST) {
        name if name.is_empty() => "port".to_owned(),
        name => name,
    };
    let mut suffix = if name == "port" { format!("-{number}") } else { String::new() };
    loop {
        let candidate = shortened(&name, LONGEST.saturating_sub(suffix.len())) + &suffix;
        if !taken.contains(&candidate) || suffix.len() >= LONGEST {
            return candidate;
        }
        suffix = if suffix.is_empty() { format!("-{number}") } else { suffix + "x" };
    }
}

fn deployment(world: &World, settings: &Settings, input: &Input<'_>, names: &Names) -> Value {
    let mut annotations = own_annotations(input);
    for (key, value) in [
        ("istio.io/rev", if settings.revision.is_empty() { "default" } else { &settings.revision }),
        ("prometheus.io/path", "/stats/prometheus"),
        ("prometheus.io/port", "15020"),
        ("prometheus.io/scrape", "true"),
    ] {
        annotations.insert(key.into(), value.into());
    }
    let mut labels = labels(world, input);
    for (key, value) in [
        ("sidecar.istio.io/inject", "false"),
        (DATAPLANE_MODE, "none"),
        ("service.istio.io/canonical-name", names.deployment.as_str()),
        ("service.istio.io/canonical-revision", "latest"),
    ] {
        labels.entry(key.into()).or_insert_with(|| value.into());
    }
    let mut pod = json!({
        "serviceAccountName": names.service_account,
        "containers": [container(world, settings, input, names)],
        "volumes": volumes(settings, input.template),
    });
    match input.template {
        Template::Waypoint => {
            for name in ["affinity", "topologySpreadConstraints", "nodeSelector", "tolerations"] {
                if let Some(value) = world.installation.of_waypoints(name) {
                    pod[name] = value;
                }
            }
        }
        Template::Gateway => pod["securityContext"] = pod_security(world),
    }
    if let Some(secrets) = world.installation.global(&["imagePullSecrets"]).as_array().filter(|list| !list.is_empty()) {
        pod["imagePullSecrets"] =
            secrets.iter().filter(|one| one.is_string()).map(|name| json!({ "name": name })).collect();
    }
    json!({
        "selector": { "matchLabels": { GATEWAY_NAME: &*input.gateway.meta.name } },
        "template": { "metadata": { "labels": labels, "annotations": annotations }, "spec": pod },
    })
}

/// What a gateway's pod may do: listen on ports such as 80 without being root.
fn pod_security(world: &World) -> Value {
    let gateways = &world.installation.values["gateways"];
    if let Some(context) = filled(&gateways["securityContext"]) {
        return context;
    }
    let mut context = json!({ "sysctls": [{ "name": "net.ipv4.ip_unprivileged_port_start", "value": "0" }] });
    if let Some(profile) = filled(&gateways["seccompProfile"]) {
        context["seccompProfile"] = profile;
    }
    context
}

fn container(world: &World, settings: &Settings, input: &Input<'_>, names: &Names) -> Value {
    let installation = &world.installation;
    let annotation = |name, path: &[&str], default: &str| {
        let own = input.gateway.meta.annotation(name).map(ToOwned::to_owned);
        own.or_else(|| installation.text(path).map(ToOwned::to_owned)).unwrap_or_else(|| default.to_owned())
    };
    let own_image = input.gateway.meta.annotation("sidecar.istio.io/proxyImage").filter(|image| image.contains('/'));
    let probe = |failures: u32, period: u32| {
        json!({
            "failureThreshold": failures,
            "httpGet": { "path": "/healthz/ready", "port": STATUS, "scheme": "HTTP" },
            "periodSeconds": period,
            "successThreshold": 1,
            "timeoutSeconds": 1,
        })
    };
    let mut startup = probe(30, 1);
    startup["initialDelaySeconds"] = json!(1);
    let mut security = json!({
        "privileged": false,
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "runAsNonRoot": true,
        "capabilities": { "drop": ["ALL"] },
    });
    if installation.text(&["platform"]) != Some("openshift") {
        security["runAsUser"] = json!(1337);
        security["runAsGroup"] = json!(1337);
    }
    let profile = filled(&installation.values["gateways"]["seccompProfile"]);
    if let Some(profile) = profile.filter(|_| input.template == Template::Waypoint) {
        security["seccompProfile"] = profile;
    }
    let resources = match input.template {
        Template::Waypoint => installation.of_waypoints("resources"),
        Template::Gateway => filled(installation.global(&["proxy", "resources"])),
    };
    let resources = resources.unwrap_or_else(
        || json!({ "requests": { "cpu": "100m", "memory": "128Mi" }, "limits": { "cpu": "2", "memory": "1Gi" } }),
    );
    let port = |number: u16, name: &str| json!({ "containerPort": number, "name": name, "protocol": "TCP" });
    let mut arguments = vec![
        json!("proxy"),
        json!(input.template.role()),
        json!("--domain"),
        json!(format!("$(POD_NAMESPACE).svc.{}", settings.domain)),
    ];
    if input.template == Template::Waypoint {
        arguments.extend([json!("--serviceCluster"), json!(format!("{}.$(POD_NAMESPACE)", names.service_account))]);
    }
    arguments.extend([
        json!("--proxyLogLevel"),
        json!(annotation("sidecar.istio.io/logLevel", &["proxy", "logLevel"], "warning")),
        json!("--proxyComponentLogLevel"),
        json!(annotation("sidecar.istio.io/componentLogLevel", &["proxy", "componentLogLevel"], "misc:error")),
        json!("--log_output_level"),
        json!(annotation("sidecar.istio.io/agentLogLevel", &["logging", "level"], "default:info")),
    ]);
    if installation.global(&["logAsJson"]) == true {
        arguments.push(json!("--log_as_json"));
    }
    if let Some(path) = installation.text(&["proxy", "outlierLogPath"]) {
        arguments.push(json!(format!("--outlierLogPath={path}")));
    }
    let mut ports = vec![port(15020, "metrics"), port(STATUS, "status-port"), port(15090, "http-envoy-prom")];
    if input.template == Template::Waypoint {
        ports.push(port(HBONE, "hbone"));
    }
    let mut container = json!({
        "name": "istio-proxy",
        "image": own_image.map_or_else(|| installation.image(settings), ToOwned::to_owned),
        "args": arguments,
        "env": environment(world, settings, input, names),
        "ports": ports,
        "resources": resources,
        "startupProbe": startup,
        "readinessProbe": probe(4, 15),
        "securityContext": security,
        "volumeMounts": mounts(input.template),
    });
    if let Some(policy) = installation.text(&["imagePullPolicy"]) {
        container["imagePullPolicy"] = json!(policy);
    }
    container
}

fn environment(world: &World, settings: &Settings, input: &Input<'_>, names: &Names) -> Vec<Value> {
    let installation = &world.installation;
    let namespace = &*input.gateway.meta.namespace;
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let limit = |name: &str, resource: &str| json!({ "name": name, "valueFrom": { "resourceFieldRef": { "resource": resource, "divisor": "1" } } });
    let value = |name: &str, value: &str| json!({ "name": name, "value": value });
    let provider = installation.text(&["pilotCertProvider"]).unwrap_or("istiod");
    let mut environment = vec![
        field("ISTIO_META_NODE_NAME", "spec.nodeName"),
        value("PILOT_CERT_PROVIDER", provider),
        value("CA_ADDR", &installation.ca_address(settings)),
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("INSTANCE_IP", "status.podIP"),
        field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
        field("HOST_IP", "status.hostIP"),
        limit("ISTIO_CPU_LIMIT", "limits.cpu"),
    ];
    let config = installation.proxy_config(settings);
    environment.push(value("PROXY_CONFIG", &config.to_string()));
    let metadata = config["proxyMetadata"].as_object();
    for (name, text) in metadata.into_iter().flatten().filter_map(|(name, text)| Some((name, text.as_str()?))) {
        if !environment.iter().any(|one| one["name"] == name.as_str()) {
            environment.push(value(name, text));
        }
    }
    environment.push(limit("GOMEMLIMIT", "limits.memory"));
    environment.push(value("ISTIO_META_CLUSTER_ID", &settings.cluster));
    let labels = labels(world, input);
    let network = labels.get(NETWORK).map(String::as_str);
    match input.template {
        Template::Waypoint => {
            environment.push(field("ISTIO_META_SERVICE_ACCOUNT", "spec.serviceAccountName"));
            environment.push(limit("GOMAXPROCS", "limits.cpu"));
        }
        Template::Gateway => {
            environment.push(value("ISTIO_META_POD_PORTS", "[]"));
            environment.push(value("ISTIO_META_APP_CONTAINERS", ""));
            environment.extend(network.map(|network| value("ISTIO_META_REQUESTED_NETWORK_VIEW", network)));
        }
    }
    let network = network.or_else(|| installation.text(&["network"]));
    environment.extend(network.map(|network| value("ISTIO_META_NETWORK", network)));
    environment.push(value("ISTIO_META_INTERCEPTION_MODE", "REDIRECT"));
    environment.push(value("ISTIO_META_WORKLOAD_NAME", &names.deployment));
    let owner = format!("kubernetes://apis/apps/v1/namespaces/{namespace}/deployments/{}", names.deployment);
    environment.push(value("ISTIO_META_OWNER", &owner));
    let mesh = installation.text(&["meshID"]).or_else(|| installation.trust_domain());
    environment.extend(mesh.map(|mesh| value("ISTIO_META_MESH_ID", mesh)));
    environment.extend(installation.trust_domain().map(|domain| value("TRUST_DOMAIN", domain)));
    environment
}

/// Volumes that are there for what a gateway's user may mount in their place.
const OF_GATEWAYS: [(&str, &str); 2] = [
    ("credential-socket", "/var/run/secrets/credential-uds"),
    ("workload-certs", "/var/run/secrets/workload-spiffe-credentials"),
];

fn mounts(template: Template) -> Value {
    let mut mounts = vec![
        ("workload-socket", "/var/run/secrets/workload-spiffe-uds"),
        ("istiod-ca-cert", "/var/run/secrets/istio"),
        ("istio-data", "/var/lib/istio/data"),
        ("istio-envoy", "/etc/istio/proxy"),
        ("istio-token", "/var/run/secrets/tokens"),
        ("istio-podinfo", "/etc/istio/pod"),
    ];
    if template == Template::Gateway {
        mounts.extend(OF_GATEWAYS);
    }
    mounts.into_iter().map(|(name, path)| json!({ "mountPath": path, "name": name })).collect()
}

fn volumes(settings: &Settings, template: Template) -> Value {
    let label = |path: &str| json!({ "path": path, "fieldRef": { "fieldPath": format!("metadata.{path}") } });
    let mut volumes = vec![
        json!({ "name": "workload-socket", "emptyDir": {} }),
        json!({ "name": "istio-envoy", "emptyDir": { "medium": "Memory" } }),
        json!({ "name": "istio-data", "emptyDir": {} }),
        json!({ "name": "istio-podinfo", "downwardAPI": { "items": [label("labels"), label("annotations")] } }),
        json!({ "name": "istio-token", "projected": { "sources": [{ "serviceAccountToken": {
            "audience": "istio-ca", "expirationSeconds": 43200, "path": "istio-token",
        } }] } }),
        json!({ "name": "istiod-ca-cert", "configMap": { "name": settings.root_config_map } }),
    ];
    if template == Template::Gateway {
        volumes.extend(OF_GATEWAYS.map(|(name, _)| json!({ "name": name, "emptyDir": {} })));
    }
    Value::Array(volumes)
}
