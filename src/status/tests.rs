//! Objects in, conditions out. Each bad object keeps to itself: what is beside
//! it is said to be good.

mod words;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::api::Change;
use crate::api::kinds::DecodeError;
use crate::model::Settings;
use crate::source::documents::{Document, read};
use crate::translation::Translation;

/// A namespace with a waypoint, and services `a` and `b` that use it.
const MESH: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: x, labels: {istio.io/use-waypoint: w}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: istio-waypoint}
spec: {controllerName: istio.io/mesh-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: w, namespace: x}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
status: {addresses: [{type: IPAddress, value: 10.0.0.9}]}
---
apiVersion: v1
kind: Service
metadata: {name: a, namespace: x}
spec: {clusterIP: 10.0.0.1, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: b, namespace: x}
spec: {clusterIP: 10.0.0.2, ports: [{name: http, port: 80}]}
---
";

struct World {
    translation: Translation,
}

impl World {
    fn new(yaml: &str) -> Self {
        let mut world = Self { translation: Translation::new(Arc::<Settings>::default()) };
        world.put(MESH);
        world.put(yaml);
        world
    }

    fn put(&mut self, yaml: &str) {
        for document in read(yaml) {
            match document {
                Document::Object(object) => self.translation.apply(Change::Put(object)),
                other => panic!("{other:?}"),
            }
        }
        self.translation.commit();
    }

    fn status(&self, kind: Kind, name: &str) -> Option<Status> {
        let graph = &self.translation.graph;
        let key = ObjectKey::new("x", name);
        let facts = self.translation.facts.objects.iter().find(|(of, _)| *of == kind);
        let facts = facts.and_then(|(_, facts)| graph.get(*facts, &key)).map(|facts| &**facts);
        status(kind, facts, about(&graph.diagnostics(), &(kind, key)))
    }

    /// Conditions as lines of type, status, reason and message, by type.
    fn lines(&self, kind: Kind, name: &str) -> BTreeMap<&'static str, String> {
        let conditions = match self.status(kind, name).map(|status| status.conditions) {
            None => Vec::new(),
            Some(Conditions::OfObject(conditions)) => conditions,
            Some(Conditions::Addresses(addresses)) => panic!("no conditions: {addresses:?}"),
            Some(Conditions::OfAncestors(ancestors)) => ancestors.into_iter().flat_map(|one| one.conditions).collect(),
            Some(Conditions::OfParents(parents)) => match <[_; 1]>::try_from(parents) {
                Ok([(_, conditions)]) => conditions,
                Err(parents) => panic!("not one parent: {parents:?}"),
            },
        };
        let line = |one: Condition| (one.kind, format!("{} {}: {}", one.holds, one.reason, one.message));
        conditions.into_iter().map(line).collect()
    }

    #[track_caller]
    fn says(&self, kind: Kind, name: &str, condition: &str, expected: &str) {
        let lines = self.lines(kind, name);
        assert_eq!(lines.get(condition).map(String::as_str), Some(expected), "{lines:?}");
    }
}

const FINE: &str = "true Accepted: No problems found";

fn virtual_service(name: &str, host: &str, http: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: x}}\n\
         spec: {{hosts: [{host}], http: {http}}}\n---\n"
    )
}

fn http_route(name: &str, parent: &str, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: x}}\n\
         spec: {{parentRefs: [{{{parent}}}], rules: {rules}}}\n---\n"
    )
}

const SERVICE_A: &str = "group: \"\", kind: Service, name: a";

#[test]
fn a_regex_that_re2_refuses() {
    let world = World::new(
        &(virtual_service("bad", "a", "[{match: [{uri: {regex: \"a(?=b)\"}}], route: [{destination: {host: a}}]}]")
            + &virtual_service(
                "good",
                "b",
                "[{match: [{uri: {regex: \"a.*b\"}}], route: [{destination: {host: b}}]}]",
            )
            + &http_route(
                "route",
                SERVICE_A,
                "[{matches: [{path: {type: RegularExpression, value: \"/(a\"}}], backendRefs: [{name: b, port: 80}]}]",
            )),
    );
    let lines = world.lines(Kind::VirtualService, "bad");
    assert!(lines["Accepted"].starts_with("false "), "{lines:?}");
    assert!(lines["Accepted"].contains("spec.http[0].match[0].uri"), "{lines:?}");
    world.says(Kind::VirtualService, "good", "Accepted", FINE);
    let lines = world.lines(Kind::HTTPRoute, "route");
    assert!(lines["Accepted"].starts_with("false UnsupportedValue: spec.rules[0].matches[0].path"), "{lines:?}");
    world.says(Kind::HTTPRoute, "route", "ResolvedRefs", "true ResolvedRefs: All references resolved");
}

/// It has no status yet, whatever the one before it had.
#[test]
fn an_object_that_was_made_again_is_another_one() {
    let route = |uid: &str| {
        let meta = format!("metadata: {{uid: {uid}, generation: 1, ");
        http_route("route", SERVICE_A, "[{backendRefs: [{name: b, port: 80}]}]").replace("metadata: {", &meta)
    };
    let mut world = World::new(&route("one"));
    let before = world.status(Kind::HTTPRoute, "route").expect("a route has a status");
    world.put(&route("two"));
    let after = world.status(Kind::HTTPRoute, "route").expect("a route has a status");
    assert_eq!((&before.conditions, before.generation), (&after.conditions, after.generation));
    assert_ne!(before, after);
}

#[test]
fn weights_that_do_not_sum() {
    let weights = |one: i64, other: i64| {
        format!(
            "[{{route: [{{destination: {{host: a}}, weight: {one}}}, {{destination: {{host: b}}, weight: {other}}}]}}]"
        )
    };
    let world = World::new(
        &(virtual_service("zero", "a", &weights(0, 0))
            + &virtual_service("negative", "a.example.com", &weights(-1, 1))
            + &virtual_service("overflow", "b.example.com", &weights(2_147_483_647, -1))
            + &virtual_service("good", "b", &weights(1, 2))),
    );
    let zero = world.lines(Kind::VirtualService, "zero");
    assert!(zero["Accepted"].starts_with("false InvalidValue: spec.http[0].route: a rule needs"), "{zero:?}");
    for (name, at) in [("negative", 0), ("overflow", 1)] {
        let lines = world.lines(Kind::VirtualService, name);
        let expected = format!("false InvalidValue: spec.http[0].route[{at}].weight: not a weight");
        assert!(lines["Accepted"].starts_with(&expected), "{lines:?}");
    }
    world.says(Kind::VirtualService, "good", "Accepted", FINE);
}

#[test]
fn a_subset_that_is_not_there() {
    let subset = |name: &str| format!("[{{route: [{{destination: {{host: a, subset: {name}}}}}]}}]");
    let mut world =
        World::new(&(virtual_service("bad", "a", &subset("v3")) + &virtual_service("good", "b", &subset("v1"))));
    let rule = |subsets: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: a, namespace: x}}\n\
             spec: {{host: a, subsets: [{subsets}]}}\n"
        )
    };
    world.put(&rule("{name: v1, labels: {v: \"1\"}}"));
    let expected = "false ReferencedResourceNotFound: spec.http[0].route[0].destination.subset: no DestinationRule for \
                    a.x.svc.cluster.local that counts here has a subset v3";
    world.says(Kind::VirtualService, "bad", "Accepted", expected);
    world.says(Kind::VirtualService, "good", "Accepted", FINE);
    world.put(&rule("{name: v1, labels: {v: \"1\"}}, {name: v3, labels: {v: \"3\"}}"));
    world.says(Kind::VirtualService, "bad", "Accepted", FINE);
}

#[test]
fn a_host_that_is_not_there() {
    let mut world = World::new(
        &(virtual_service("bad", "a", "[{route: [{destination: {host: c}}]}]")
            + &http_route("route", SERVICE_A, "[{backendRefs: [{name: b, port: 80}, {name: c, port: 80}]}]")
            + "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: c, namespace: x}\n\
               spec: {host: c}\n"),
    );
    let missing = "there is no service c.x.svc.cluster.local";
    let expected = format!("false ReferencedResourceNotFound: spec.http[0].route[0].destination.host: {missing}");
    world.says(Kind::VirtualService, "bad", "Accepted", &expected);
    let expected = format!("false ReferencedResourceNotFound: spec.host: {missing}");
    world.says(Kind::DestinationRule, "c", "Accepted", &expected);
    let expected = format!("false BackendNotFound: spec.rules[0].backendRefs[1]: {missing}; its share gets an error");
    world.says(Kind::HTTPRoute, "route", "ResolvedRefs", &expected);
    world.says(Kind::HTTPRoute, "route", "Accepted", "true Accepted: Route was valid");
    world.put(
        "apiVersion: v1\nkind: Service\nmetadata: {name: c, namespace: x}\n\
         spec: {clusterIP: 10.0.0.3, ports: [{port: 80}]}\n",
    );
    world.says(Kind::VirtualService, "bad", "Accepted", FINE);
    world.says(Kind::DestinationRule, "c", "Accepted", FINE);
    world.says(Kind::HTTPRoute, "route", "ResolvedRefs", "true ResolvedRefs: All references resolved");
}

#[test]
fn a_reference_to_another_namespace_without_a_grant() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: c, namespace: y}\n\
                   spec: {clusterIP: 10.0.0.3, ports: [{port: 80}]}\n---\n";
    let route = http_route("route", SERVICE_A, "[{backendRefs: [{name: c, namespace: y, port: 80}]}]");
    let mut world = World::new(&(service.to_owned() + &route));
    let expected = "false RefNotPermitted: spec.rules[0].backendRefs[0]: no ReferenceGrant lets this route refer to \
                    Service y/c; its share gets an error";
    world.says(Kind::HTTPRoute, "route", "ResolvedRefs", expected);
    let grant = |kind: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {{name: g, namespace: y}}\n\
             spec: {{from: [{{group: gateway.networking.k8s.io, kind: {kind}, namespace: x}}], \
             to: [{{group: \"\", kind: Service}}]}}\n"
        )
    };
    world.put(&grant("GRPCRoute"));
    world.says(Kind::HTTPRoute, "route", "ResolvedRefs", expected);
    world.put(&grant("HTTPRoute"));
    world.says(Kind::HTTPRoute, "route", "ResolvedRefs", "true ResolvedRefs: All references resolved");
}

#[test]
fn hosts_that_conflict() {
    let at = |yaml: String, year: u32| {
        yaml.replace("namespace: x}", &format!("namespace: x, creationTimestamp: \"{year}-01-01T00:00:00Z\"}}"))
    };
    let all = "[{route: [{destination: {host: b}}]}]";
    let some = "[{match: [{uri: {prefix: /some}}], route: [{destination: {host: b}}]}]";
    let entry = |name: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: x}}\n\
             spec: {{hosts: [e.example.com], ports: [{{name: http, number: 80, protocol: HTTP}}]}}\n---\n"
        )
    };
    let world = World::new(
        &(at(virtual_service("older", "a", all), 2020)
            + &at(virtual_service("newer", "a", some), 2021)
            + &at(virtual_service("other", "b", some), 2021)
            + &at(entry("first"), 2020)
            + &at(entry("second"), 2021)),
    );
    world.says(Kind::VirtualService, "older", "Accepted", FINE);
    world.says(Kind::VirtualService, "other", "Accepted", FINE);
    let expected =
        "false ConflictingHosts: spec.hosts[0]: VirtualService x/older is older and has a rule for all requests to a";
    world.says(Kind::VirtualService, "newer", "Accepted", expected);
    let expected = "false ConflictingHosts: spec.hosts[0]: e.example.com is the host of ServiceEntry x/first; this one \
                    does not count";
    world.says(Kind::ServiceEntry, "second", "Accepted", expected);
    assert_eq!(world.lines(Kind::ServiceEntry, "first").get("Accepted"), None);
    let bound = "true WaypointAccepted: Successfully attached to waypoint x/w";
    world.says(Kind::ServiceEntry, "first", WAYPOINT_BOUND, bound);
    world.says(Kind::Service, "a", WAYPOINT_BOUND, bound);
}

#[test]
fn canaries_that_cannot_be_used_are_said_and_the_waypoint_stays() {
    let service = |name: &str, canary: &str, weight: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: x\n  labels: {{istio.io/use-waypoint-canary: {canary}}}\n  \
             annotations: {{istio.io/use-waypoint-canary-weight: '{weight}'}}\nspec: {{clusterIP: 10.0.1.1, ports: [{{port: 80}}]}}\n"
        )
    };
    let second = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: second, namespace: x}\n\
                  spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}\n\
                  status: {addresses: [{type: IPAddress, value: 10.0.0.8}]}\n";
    let world = World::new(
        &(second.to_owned()
            + &service("fine", "second", "7")
            + &service("unclear", "second", "some")
            + &service("same", "w", "7")
            + &service("gone", "nobody", "7")),
    );
    let bound = "true WaypointAccepted: Successfully attached to waypoint x/w";
    world.says(Kind::Service, "fine", WAYPOINT_BOUND, bound);
    for (name, why) in [
        ("unclear", "canary waypoint \"x/second\" has an invalid weight; must be an integer in [0,100]"),
        ("same", "canary waypoint \"x/w\" must differ from the primary waypoint"),
        ("gone", "waypoint \"x/nobody\" is not ready"),
    ] {
        world.says(Kind::Service, name, WAYPOINT_BOUND, &format!("{bound}. Canary waypoint not attached: {why}"));
    }
}

#[test]
fn parents_of_routes() {
    let rules = "[{backendRefs: [{name: b, port: 80}]}]";
    let world = World::new(
        &(http_route("good", &format!("{SERVICE_A}, port: 80"), rules)
            + &http_route("missing", "group: \"\", kind: Service, name: c", rules)
            + &http_route("port", &format!("{SERVICE_A}, port: 81"), rules)
            + &http_route("section", &format!("{SERVICE_A}, sectionName: http"), rules)
            + &http_route("no-section", &format!("{SERVICE_A}, sectionName: grpc"), rules)
            + &http_route("waypoint", "name: w", rules)
            + &http_route("edge", "name: edge", rules)),
    );
    for name in ["good", "section"] {
        world.says(Kind::HTTPRoute, name, "Accepted", "true Accepted: Route was valid");
        world.says(Kind::HTTPRoute, name, "ResolvedWaypoints", "true ResolvedWaypoints: All waypoints resolved");
    }
    for (name, expected) in [
        ("missing", "false NoMatchingParent: parent Service x/c was not found"),
        ("port", "false NoMatchingParent: x/a has no port 81"),
        ("no-section", "false NoMatchingParent: x/a has no port named grpc"),
        (
            "waypoint",
            "false NotAllowedByListeners: a waypoint's listener has no routes: those of the services that use it count",
        ),
    ] {
        world.says(Kind::HTTPRoute, name, "Accepted", expected);
    }
    assert_eq!(world.status(Kind::HTTPRoute, "edge"), None, "whoever implements that Gateway speaks");
}

#[test]
fn one_bad_rule_of_a_route_is_not_all_of_it() {
    let rules =
        "[{filters: [{type: Unheard}], backendRefs: [{name: b, port: 80}]}, {backendRefs: [{name: b, port: 80}]}]";
    let world = World::new(&http_route("route", SERVICE_A, rules));
    world.says(Kind::HTTPRoute, "route", "Accepted", "true Accepted: Route was valid");
    let lines = world.lines(Kind::HTTPRoute, "route");
    let expected =
        "true UnsupportedValue: Dropped Rule or part of one: spec.rules[0].filters[0].type: a filter of type";
    assert!(lines["PartiallyInvalid"].starts_with(expected), "{lines:?}");
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: x}}\n\
         spec: {spec}\n---\n"
    )
}

#[test]
fn authorization_policies() {
    let target = |kind: &str, name: &str| {
        let group = if kind == "Gateway" { "gateway.networking.k8s.io" } else { "\"\"" };
        format!("{{group: {group}, kind: {kind}, name: {name}}}")
    };
    let to = |targets: &[String]| {
        format!("{{targetRefs: [{}], rules: [{{to: [{{operation: {{methods: [GET]}}}}]}}]}}", targets.join(", "))
    };
    let (a, c, w) = (target("Service", "a"), target("Service", "c"), target("Gateway", "w"));
    let world = World::new(
        &(policy("bound", &to(std::slice::from_ref(&a)))
            + &policy("gateway", &to(&[w]))
            + &policy("missing", &to(std::slice::from_ref(&c)))
            + &policy("some", &to(&[a, c]))
            + &policy(
                "class",
                &to(&["{group: gateway.networking.k8s.io, kind: GatewayClass, name: istio-waypoint}".into()]),
            )
            + &policy(
                "ztunnel",
                "{selector: {matchLabels: {app: a}}, rules: [{from: [{source: {namespaces: [y]}}]}]}",
            )
            + &policy("audit", "{action: AUDIT, rules: [{}]}")
            + &policy("layer-7", "{rules: [{to: [{operation: {methods: [GET]}}]}]}")
            + &policy("unknown", "{action: PERHAPS, targetRefs: [{kind: Service, name: a}]}")),
    );
    for (name, condition, expected) in [
        ("bound", "WaypointAccepted", "true Accepted: bound to x/w"),
        ("gateway", "WaypointAccepted", "true Accepted: bound to x/w"),
        ("missing", "WaypointAccepted", "false TargetNotFound: Service x/c was not found"),
        ("some", "WaypointAccepted", "true PartiallyInvalid: Invalid targetRefs: Service.core:x/c"),
        (
            "class",
            "WaypointAccepted",
            "false Invalid: AuthorizationPolicy must be in the root namespace `istio-system` when referencing a \
             GatewayClass",
        ),
        ("ztunnel", "ZtunnelAccepted", "true Accepted: attached to ztunnel"),
        (
            "audit",
            "ZtunnelAccepted",
            "false UnsupportedValue: spec.action: ztunnel does not support AUDIT; the policy has no effect without a \
             waypoint",
        ),
    ] {
        world.says(Kind::AuthorizationPolicy, name, condition, expected);
    }
    let lines = world.lines(Kind::AuthorizationPolicy, "layer-7");
    assert!(lines["ZtunnelAccepted"].starts_with("true UnsupportedValue: spec.rules[0]"), "{lines:?}");
    let lines = world.lines(Kind::AuthorizationPolicy, "unknown");
    assert!(lines["WaypointAccepted"].starts_with("true PartiallyInvalid: bound to x/w; spec.action:"), "{lines:?}");
}

#[test]
fn what_cannot_be_read() {
    let mut world = World::new(&virtual_service("turns-bad", "a", "[{route: [{destination: {host: a}}]}]"));
    let error = || DecodeError { field: "spec.http".into(), reason: "not a list".into() };
    for name in ["turns-bad", "always-bad"] {
        world.translation.apply(Change::Unreadable(Kind::VirtualService, ObjectKey::new("x", name), Some(error())));
    }
    world.translation.commit();
    for name in ["turns-bad", "always-bad"] {
        let expected =
            "false Unreadable: spec.http: cannot be read: not a list; its last good state stays, if there was one";
        world.says(Kind::VirtualService, name, "Accepted", expected);
    }
    for name in ["turns-bad", "always-bad"] {
        world.translation.apply(Change::Unreadable(Kind::VirtualService, ObjectKey::new("x", name), None));
    }
    world.translation.commit();
    world.says(Kind::VirtualService, "turns-bad", "Accepted", FINE);
    assert_eq!(world.status(Kind::VirtualService, "always-bad"), None);
}

#[test]
fn nothing_is_said_of_what_is_not_ours() {
    let of_canary = virtual_service("canary", "a", "[{route: [{destination: {host: c}}]}]")
        .replace("namespace: x}", "namespace: x, labels: {istio.io/rev: canary}}");
    let world = World::new(&of_canary);
    assert_eq!(world.status(Kind::VirtualService, "canary"), None);
    assert_eq!(world.status(Kind::Service, "c"), None);
}

#[test]
fn gateways_are_there_or_not() {
    let at = |gateways: &str| {
        virtual_service("edge", "a", "[{match: [{sourceLabels: {a: b}}], route: [{destination: {host: a}}]}]")
            .replace("spec: {", &format!("spec: {{gateways: [{gateways}], "))
    };
    let gateway = "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: x}\n\
                   spec: {servers: [{port: {number: 80, protocol: HTTP}, hosts: ['*']}, {hosts: ['*']}]}\n";
    let world = World::new(&(at("edge") + gateway));
    world.says(Kind::VirtualService, "edge", "Accepted", FINE);
    let wrong = "false InvalidValue: spec.servers[1].port: a server needs a port with a number; the server is left out";
    world.says(Kind::IstioGateway, "edge", "Accepted", wrong);
    let world = World::new(&(at("other/edge") + gateway));
    let missing = "false ReferencedResourceNotFound: spec.gateways[0]: there is no Gateway other/edge of Istio's";
    world.says(Kind::VirtualService, "edge", "Accepted", missing);
}

/// What is served all the same is accepted, and says what is the matter with it.
#[test]
fn a_warning_is_no_refusal() {
    let world = World::new(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: x}\n\
         spec: {servers: [{port: {number: 80, protocol: HTTP}, hosts: ['*']}]}\n",
    );
    let (_, facts) = world.translation.facts.objects.iter().find(|(of, _)| *of == Kind::IstioGateway).expect("facts");
    let facts = world.translation.graph.get(*facts, &ObjectKey::new("x", "edge")).expect("it is there");
    let found = |reason, severity| {
        let key = (Kind::IstioGateway, ObjectKey::new("x", "edge"));
        Diagnostic { severity, reason, ..diagnostic(&key, "m") }
    };
    let accepted =
        |found: &[Diagnostic]| match status(Kind::IstioGateway, Some(facts), found).expect("a status").conditions {
            Conditions::OfObject(conditions) => (conditions[0].holds, conditions[0].reason),
            other => panic!("{other:?}"),
        };
    let warning = found("CertificateExpires", Severity::Warning);
    assert_eq!(accepted(&[]), (true, "Accepted"));
    assert_eq!(accepted(std::slice::from_ref(&warning)), (true, "CertificateExpires"));
    assert_eq!(accepted(&[warning, found("KeyMismatch", Severity::Error)]), (false, "KeyMismatch"));
}

#[test]
fn what_a_proxy_rejected() {
    let mut world = World::new(
        &(virtual_service("v", "a", "[{route: [{destination: {host: a}}]}]")
            + &http_route("h", SERVICE_A, "[{backendRefs: [{name: b, port: 80}]}]")),
    );
    world.put("apiVersion: v1\nkind: Namespace\nmetadata: {name: y}\n");
    for (kind, name) in [(Kind::VirtualService, "v"), (Kind::HTTPRoute, "h")] {
        let graph = &world.translation.graph;
        let facts = world.translation.facts.objects.iter().find(|(of, _)| *of == kind).expect("it has facts").1;
        let facts = graph.get(facts, &ObjectKey::new("x", name)).expect("it is there");
        let said = rejected(kind, Some(facts), &"e".repeat(10_000)).expect("it has a status");
        let conditions = match &said.conditions {
            Conditions::OfObject(conditions) => conditions,
            Conditions::OfParents(parents) => &parents[0].1,
            Conditions::OfAncestors(ancestors) => &ancestors[0].conditions,
            Conditions::Addresses(addresses) => panic!("no conditions: {addresses:?}"),
        };
        assert_eq!(conditions.len(), 1);
        assert_eq!((conditions[0].kind, conditions[0].holds, conditions[0].reason), (PROGRAMMED, false, REJECTED));
        assert_eq!(conditions[0].message.len(), 4096);
    }
}
