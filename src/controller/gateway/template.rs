//! What is made for a Gateway: a ServiceAccount, a Deployment and a Service, and
//! what scales and protects its pods if a user says how,
//! with the names, labels, environment and volumes that Istio's proxy image and
//! Istio's tools expect. The reference is the documentation of waypoints and
//! what istiod's own templates make of the same values.
//! <https://istio.io/latest/docs/ambient/usage/waypoint/>

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::MANAGED;
use crate::api::gateway::Gateway;
use crate::controller::resource::{Reference, Resource};

use super::World;
use super::class::Controller;
use super::overlay::Overlays;
use super::settings::{Settings, filled};

/// Names the Gateway on everything made for it.
pub const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
const CLASS_NAME: &str = "gateway.networking.k8s.io/gateway-class-name";
const NAME_OVERRIDE: &str = "gateway.istio.io/name-override";
const SERVICE_ACCOUNT: &str = "gateway.istio.io/service-account";
const SERVICE_TYPE: &str = "networking.istio.io/service-type";
const NETWORK: &str = "topology.istio.io/network";
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
    /// The names for a waypoint: the Gateway's own, unless annotations say
    /// something else.
    pub fn of(gateway: &Gateway) -> Self {
        let name = |annotation| gateway.meta.annotation(annotation).filter(|name| !name.is_empty());
        let or_own = |name: Option<&str>| name.unwrap_or(&gateway.meta.name).to_owned();
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
}

/// The objects of a waypoint, in the order of their making; the reason if what
/// a user adds to them cannot be added.
pub fn waypoint(
    world: &World,
    settings: &Settings,
    input: &Input<'_>,
    overlays: &Overlays,
) -> Result<Vec<(Reference, Value)>, String> {
    let names = Names::of(input.gateway);
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
        if resource == Resource::Service {
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
    let network = world.installation.text(&["network"]);
    if let Some(network) = network.filter(|_| input.gateway.meta.label(NETWORK).is_none()) {
        labels.insert(NETWORK.into(), network.into());
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
    let listeners = input.gateway.spec.listeners.iter();
    let listed = listeners.map(|one| (one.port, &*one.name, &*one.protocol)).chain([(HBONE, "mesh", "HBONE")]);
    for (number, name, protocol) in listed {
        if number == 0 || !numbers.insert(number) {
            continue;
        }
        // A listener's name may be one that a port cannot have.
        let fits = name.len() <= 63 && !name.contains('.') && !name.is_empty();
        let name = if fits { name.to_owned() } else { format!("port-{number}") };
        let name = if names.insert(name.clone()) { name } else { format!("port-{number}") };
        names.insert(name.clone());
        let protocol = if protocol.contains('/') { "tcp".into() } else { protocol.to_lowercase() };
        ports.push(json!({ "name": name, "port": number, "protocol": "TCP", "appProtocol": protocol }));
    }
    json!({
        "type": input.gateway.meta.annotation(SERVICE_TYPE).unwrap_or("ClusterIP"),
        "ipFamilyPolicy": "PreferDualStack",
        "ports": ports,
        "selector": { GATEWAY_NAME: &*input.gateway.meta.name },
    })
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
        ("istio.io/dataplane-mode", "none"),
        ("service.istio.io/canonical-name", names.deployment.as_str()),
        ("service.istio.io/canonical-revision", "latest"),
    ] {
        labels.entry(key.into()).or_insert_with(|| value.into());
    }
    let mut pod = json!({
        "serviceAccountName": names.service_account,
        "containers": [container(world, settings, input, names)],
        "volumes": volumes(settings),
    });
    for name in ["affinity", "topologySpreadConstraints", "nodeSelector", "tolerations"] {
        if let Some(value) = world.installation.of_waypoints(name) {
            pod[name] = value;
        }
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
    if let Some(profile) = filled(&installation.values["gateways"]["seccompProfile"]) {
        security["seccompProfile"] = profile;
    }
    let resources = installation.of_waypoints("resources").unwrap_or_else(
        || json!({ "requests": { "cpu": "100m", "memory": "128Mi" }, "limits": { "cpu": "2", "memory": "1Gi" } }),
    );
    let port = |number: u16, name: &str| json!({ "containerPort": number, "name": name, "protocol": "TCP" });
    let mut arguments = vec![
        json!("proxy"),
        json!("waypoint"),
        json!("--domain"),
        json!(format!("$(POD_NAMESPACE).svc.{}", settings.domain)),
        json!("--serviceCluster"),
        json!(format!("{}.$(POD_NAMESPACE)", names.service_account)),
        json!("--proxyLogLevel"),
        json!(annotation("sidecar.istio.io/logLevel", &["proxy", "logLevel"], "warning")),
        json!("--proxyComponentLogLevel"),
        json!(annotation("sidecar.istio.io/componentLogLevel", &["proxy", "componentLogLevel"], "misc:error")),
        json!("--log_output_level"),
        json!(annotation("sidecar.istio.io/agentLogLevel", &["logging", "level"], "default:info")),
    ];
    if installation.global(&["logAsJson"]) == true {
        arguments.push(json!("--log_as_json"));
    }
    if let Some(path) = installation.text(&["proxy", "outlierLogPath"]) {
        arguments.push(json!(format!("--outlierLogPath={path}")));
    }
    let mut container = json!({
        "name": "istio-proxy",
        "image": own_image.map_or_else(|| installation.image(settings), ToOwned::to_owned),
        "args": arguments,
        "env": environment(world, settings, input, names),
        "ports": [
            port(15020, "metrics"), port(STATUS, "status-port"), port(15090, "http-envoy-prom"), port(HBONE, "hbone"),
        ],
        "resources": resources,
        "startupProbe": startup,
        "readinessProbe": probe(4, 15),
        "securityContext": security,
        "volumeMounts": [
            { "mountPath": "/var/run/secrets/workload-spiffe-uds", "name": "workload-socket" },
            { "mountPath": "/var/run/secrets/istio", "name": "istiod-ca-cert" },
            { "mountPath": "/var/lib/istio/data", "name": "istio-data" },
            { "mountPath": "/etc/istio/proxy", "name": "istio-envoy" },
            { "mountPath": "/var/run/secrets/tokens", "name": "istio-token" },
            { "mountPath": "/etc/istio/pod", "name": "istio-podinfo" },
        ],
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
        field("ISTIO_META_SERVICE_ACCOUNT", "spec.serviceAccountName"),
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
    environment.push(limit("GOMAXPROCS", "limits.cpu"));
    environment.push(value("ISTIO_META_CLUSTER_ID", &settings.cluster));
    if let Some(network) = labels(world, input).get(NETWORK) {
        environment.push(value("ISTIO_META_NETWORK", network));
    }
    environment.push(value("ISTIO_META_INTERCEPTION_MODE", "REDIRECT"));
    environment.push(value("ISTIO_META_WORKLOAD_NAME", &names.deployment));
    let owner = format!("kubernetes://apis/apps/v1/namespaces/{namespace}/deployments/{}", names.deployment);
    environment.push(value("ISTIO_META_OWNER", &owner));
    let mesh = installation.text(&["meshID"]).or_else(|| installation.trust_domain());
    environment.extend(mesh.map(|mesh| value("ISTIO_META_MESH_ID", mesh)));
    environment.extend(installation.trust_domain().map(|domain| value("TRUST_DOMAIN", domain)));
    environment
}

fn volumes(settings: &Settings) -> Value {
    let label = |path: &str| json!({ "path": path, "fieldRef": { "fieldPath": format!("metadata.{path}") } });
    json!([
        { "name": "workload-socket", "emptyDir": {} },
        { "name": "istio-envoy", "emptyDir": { "medium": "Memory" } },
        { "name": "istio-data", "emptyDir": {} },
        { "name": "istio-podinfo", "downwardAPI": { "items": [label("labels"), label("annotations")] } },
        { "name": "istio-token", "projected": { "sources": [{ "serviceAccountToken": {
            "audience": "istio-ca", "expirationSeconds": 43200, "path": "istio-token",
        } }] } },
        { "name": "istiod-ca-cert", "configMap": { "name": settings.root_config_map } },
    ])
}
