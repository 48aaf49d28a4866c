use std::sync::Mutex;

use crate::api::{Change, Inputs, Kind, Object};

use super::*;

/// A mesh with a service `web` and a ServiceEntry `out` in `app`, for which a
/// waypoint `wp` in `infra` is asked what it enforces.
struct World {
    graph: Graph,
    inputs: Inputs,
    policies: Vec<Object>,
}

impl World {
    fn new() -> Self {
        let mut graph = Graph::new();
        let inputs = Inputs::new(&mut graph);
        Self { graph, inputs, policies: Vec::new() }
    }

    fn policy(mut self, namespace: &str, name: &str, spec: &str) -> Self {
        let created = "2024-01-01T00:00:00Z";
        let text = format!(
            "{{metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '{created}'}}, spec: {spec}}}"
        );
        self.policies.push(Object::AuthorizationPolicy(Arc::new(crate::api::yaml(&text).unwrap())));
        self
    }

    /// Checks the policies in force for traffic to the service, to the
    /// ServiceEntry, and to no service.
    #[track_caller]
    fn check(mut self, web: &[&str], out: &[&str], other: &[&str]) {
        let scope = Scope::new(&mut self.graph, self.inputs, Arc::default());
        let attached = AttachedPolicies::new(&mut self.graph, self.inputs.authorization_policies);
        let found: Arc<Mutex<Vec<Vec<String>>>> = Arc::default();
        let (found_of, scope_of) = (found.clone(), scope.clone());
        // Any row will do to have something that reads.
        let trigger = self.inputs.namespaces;
        self.graph.derive("found", trigger, move |cx, key: &ObjectKey, _| {
            let (web, out) = (service(Registry::Kubernetes, "web"), service(Registry::ServiceEntry, "out"));
            let all = [Some(&web), Some(&out), None].map(|service| {
                let waypoint = ObjectKey::new("infra", "wp");
                let policies = attached.enforced(cx, &scope_of, &waypoint, &"istio-waypoint".into(), service);
                policies.into_iter().map(|policy| policy.meta.name.to_string()).collect()
            });
            *found_of.lock().unwrap() = all.to_vec();
            Some((key.clone(), ()))
        });
        self.inputs.apply(&mut self.graph, Change::Reset(Kind::AuthorizationPolicy, self.policies));
        let namespace = crate::api::yaml("{metadata: {name: app}}").unwrap();
        self.inputs.apply(&mut self.graph, Change::Put(Object::Namespace(Arc::new(namespace))));
        self.graph.commit();
        assert_eq!(*found.lock().unwrap(), [web, out, other]);
    }
}

fn service(registry: Registry, name: &str) -> Service {
    let meta: Meta = crate::api::yaml(&format!("{{name: {name}, namespace: app}}")).unwrap();
    Service {
        registry,
        key: super::super::service::ServiceKey { namespace: "app".into(), hostname: name.into() },
        meta,
        addresses: vec![],
        ports: vec![],
        selector: Default::default(),
        resolution: crate::model::service::Resolution::Static,
        external: false,
        subject_alt_names: Default::default(),
        export_to: Default::default(),
        distribution: super::super::service::Distribution::Any,
        all_endpoints: false,
        families: Default::default(),
    }
}

fn to(kind: &str, name: &str) -> String {
    let group = match kind {
        "Service" => "",
        "ServiceEntry" => "networking.istio.io",
        _ => "gateway.networking.k8s.io",
    };
    format!("{{targetRefs: [{{group: '{group}', kind: {kind}, name: {name}}}]}}")
}

#[test]
fn a_service_is_named_in_its_own_namespace() {
    World::new()
        .policy("app", "yes", &to("Service", "web"))
        .policy("infra", "no-elsewhere", &to("Service", "web"))
        .policy("istio-system", "no-root", &to("Service", "web"))
        .policy("app", "no-name", &to("Service", "api"))
        .policy("app", "entry", &to("ServiceEntry", "out"))
        .policy("app", "no-entry", &to("ServiceEntry", "web"))
        .policy("app", "no-service", &to("Service", "out"))
        .check(&["yes"], &["entry"], &[]);
}

#[test]
fn a_waypoint_is_named_in_its_own_namespace() {
    World::new()
        .policy("infra", "yes", &to("Gateway", "wp"))
        .policy("app", "no-elsewhere", &to("Gateway", "wp"))
        .policy("istio-system", "no-root", &to("Gateway", "wp"))
        .policy("infra", "no-name", &to("Gateway", "other"))
        .check(&["yes"], &["yes"], &["yes"]);
}

#[test]
fn all_waypoints_are_named_by_class_in_the_root_namespace() {
    World::new()
        .policy("istio-system", "yes", &to("GatewayClass", "istio-waypoint"))
        .policy("istio-system", "no-class", &to("GatewayClass", "istio"))
        .policy("infra", "no-infra", &to("GatewayClass", "istio-waypoint"))
        .policy("app", "no-app", &to("GatewayClass", "istio-waypoint"))
        .check(&["yes"], &["yes"], &["yes"]);
}

#[test]
fn labels_and_other_kinds_name_no_waypoint() {
    World::new()
        .policy("infra", "selector", "{selector: {matchLabels: {gateway.networking.k8s.io/gateway-name: wp}}}")
        .policy("app", "all-of-a-namespace", "{}")
        .policy("istio-system", "all-of-the-mesh", "{}")
        .policy("app", "group", "{targetRefs: [{group: apps, kind: Service, name: web}]}")
        .policy("app", "namespace", "{targetRefs: [{kind: Service, name: web, namespace: infra}]}")
        .check(&[], &[], &[]);
}

#[test]
fn the_older_field_counts_without_the_newer() {
    World::new()
        .policy("app", "older", "{targetRef: {kind: Service, name: web}}")
        .policy("app", "core", "{targetRef: {group: core, kind: Service, name: web, namespace: app}}")
        .policy("app", "both", "{targetRef: {kind: Service, name: web}, targetRefs: [{kind: Service, name: api}]}")
        .check(&["core", "older"], &[], &[]);
}

#[test]
fn a_policy_counts_once_and_older_ones_come_first() {
    let several =
        "{targetRefs: [{kind: Service, name: web}, {group: gateway.networking.k8s.io, kind: Gateway, name: wp}]}";
    let mut world = World::new().policy("infra", "wp", several).policy("app", "web", several);
    let text = format!(
        "{{metadata: {{name: first, namespace: infra, creationTimestamp: '2020-01-01T00:00:00Z'}}, spec: {}}}",
        to("Gateway", "wp")
    );
    let first: AuthorizationPolicy = crate::api::yaml(&text).unwrap();
    world.policies.push(Object::AuthorizationPolicy(Arc::new(first)));
    world.check(&["first", "web", "wp"], &["first", "wp"], &["first", "wp"]);
}
