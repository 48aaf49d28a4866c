//! What is said of listeners, and who adds some.

use super::*;

#[test]
fn listeners_that_no_waypoint_has_are_refused() {
    let mut gateway = gateway("istio-waypoint");
    gateway["spec"]["listeners"] = json!([
        { "name": "mesh", "port": 15008, "protocol": "HBONE" },
        { "name": "elsewhere", "port": 15009, "protocol": "HBONE" },
        { "name": "udp", "port": 53, "protocol": "UDP" },
    ]);
    let mut world = world(gateway);
    apply(&settings(), &mut world);
    assert_eq!(condition(&world, "Accepted"), ("True", "ListenersNotValid", "Invalid listeners: elsewhere, udp"));
    let reasons: Vec<_> = world.gateways[&key()]["status"]["listeners"]
        .as_array()
        .expect("listeners")
        .iter()
        .map(|one| one["conditions"][0]["reason"].as_str().expect("a reason").to_owned())
        .collect();
    assert_eq!(reasons, ["Accepted", "PortUnavailable", "UnsupportedProtocol"]);
}

#[test]
fn listeners_say_what_is_wrong_with_them() {
    let listeners = json!([
        { "name": "good", "port": 80, "protocol": "HTTP" },
        { "name": "again", "port": 80, "protocol": "HTTP" },
        { "name": "other", "port": 80, "protocol": "TCP" },
        { "name": "udp", "port": 53, "protocol": "UDP" },
        { "name": "hbone", "port": 15008, "protocol": "HBONE" },
        { "name": "kinds", "port": 81, "protocol": "HTTP", "allowedRoutes": { "kinds": [{ "kind": "HTTPRoute" }, { "kind": "TCPRoute" }] } },
        { "name": "elsewhere", "port": 443, "protocol": "HTTPS", "tls": { "certificateRefs": [{ "name": "s", "namespace": "other" }] } },
        { "name": "nothing", "port": 444, "protocol": "HTTPS" },
    ]);
    let mut world = edge_world(edge(listeners));
    apply(&settings(), &mut world);
    let status = world.gateways[&key()]["status"].clone();
    let lines: Vec<String> = status["listeners"]
        .as_array()
        .expect("listeners")
        .iter()
        .map(|one| {
            let said = one["conditions"].as_array().expect("conditions").iter();
            let said: Vec<_> = said
                .map(|one| {
                    format!("{}={}", one["type"].as_str().expect("a type"), one["reason"].as_str().expect("a reason"))
                })
                .collect();
            format!("{} {}", one["name"].as_str().expect("a name"), said.join(" "))
        })
        .collect();
    let expected = [
        "good Accepted=Accepted Conflicted=NoConflicts Programmed=Pending ResolvedRefs=ResolvedRefs",
        "again Accepted=HostnameConflict Conflicted=HostnameConflict Programmed=HostnameConflict ResolvedRefs=ResolvedRefs",
        "other Accepted=ProtocolConflict Conflicted=ProtocolConflict Programmed=ProtocolConflict ResolvedRefs=ResolvedRefs",
        "udp Accepted=UnsupportedProtocol Conflicted=NoConflicts Programmed=Invalid ResolvedRefs=ResolvedRefs",
        "hbone Accepted=UnsupportedProtocol Conflicted=NoConflicts Programmed=Invalid ResolvedRefs=ResolvedRefs",
        "kinds Accepted=Accepted Conflicted=NoConflicts Programmed=Pending ResolvedRefs=InvalidRouteKinds",
        "elsewhere Accepted=Accepted Conflicted=NoConflicts Programmed=Invalid ResolvedRefs=RefNotPermitted",
        "nothing Accepted=Accepted Conflicted=NoConflicts Programmed=Pending ResolvedRefs=ResolvedRefs",
    ];
    assert_eq!(lines, expected);
    let kinds = |at: usize| status["listeners"][at]["supportedKinds"].to_string();
    assert!(kinds(0).contains("HTTPRoute") && kinds(0).contains("GRPCRoute"));
    assert!(kinds(5).contains("HTTPRoute") && !kinds(5).contains("GRPCRoute"));
    let (accepted, reason, message) = condition(&world, "Accepted");
    assert_eq!((accepted, reason), ("True", "ListenersNotValid"));
    assert_eq!(message, "Invalid listeners: again, other, udp, hbone, elsewhere");
    let ports: Vec<_> =
        apply(&settings(), &mut edge_world(edge(json!([{ "name": "u", "port": 53, "protocol": "UDP" }]))))
            .iter()
            .filter(|write| write.object.resource == Resource::Gateway && write.manner == Manner::ApplyStatus)
            .flat_map(|write| write.body["status"]["conditions"].as_array().cloned().unwrap_or_default())
            .map(|one| {
                format!("{} {}", one["type"].as_str().expect("a type"), one["reason"].as_str().expect("a reason"))
            })
            .collect();
    assert_eq!(ports, ["Accepted ListenersNotValid", "Programmed Invalid", "ResolvedRefs ResolvedRefs"]);
}

/// Whoever owns a certificate is told when something is the matter with it, and
/// not again with each status that is written.
#[test]
fn what_listeners_refer_to_is_complained_about_once() {
    let listeners = json!([
        { "name": "good", "port": 80, "protocol": "HTTP" },
        { "name": "one", "port": 443, "protocol": "HTTPS", "hostname": "a.com", "tls": { "certificateRefs": [{ "name": "s", "namespace": "other" }] } },
        { "name": "two", "port": 443, "protocol": "HTTPS", "hostname": "b.com", "tls": { "certificateRefs": [{ "name": "t", "namespace": "other" }] } },
        { "name": "three", "port": 443, "protocol": "HTTPS", "hostname": "c.com", "tls": { "certificateRefs": [{ "kind": "ConfigMap", "name": "s" }] } },
    ]);
    let mut world = edge_world(edge(listeners));
    let complaints = |world: &World, before: &Value| {
        let facts = &world.facts[&ObjectKey::new("ns", "w")];
        crate::controller::gateway::status::complaints(before, &facts.checked.listeners)
    };
    apply(&settings(), &mut world);
    let first = complaints(&world, &Value::Null);
    assert_eq!(first.keys().collect::<Vec<_>>(), [&"InvalidCertificateRef", &"RefNotPermitted"]);
    let both = &first["RefNotPermitted"];
    assert!(
        both.contains("listener one: ") && both.contains("; listener two: ") && both.contains("Secret other/t"),
        "{both}"
    );
    let mut status = world.gateways[&key()]["status"].clone();
    assert!(complaints(&world, &status).is_empty(), "{status}");
    status["listeners"][2]["conditions"] = json!([]);
    let again = complaints(&world, &status);
    assert_eq!(again.len(), 1);
    assert!(again["RefNotPermitted"].starts_with("listener two: "), "{again:?}");
}

/// What adds a listener to the Gateway.
fn set(namespace: &str, name: &str, listeners: Value) -> ((String, String), Value) {
    let object = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "ListenerSet",
        "metadata": { "name": name, "namespace": namespace, "generation": 2 },
        "spec": { "parentRef": { "name": "w", "namespace": "ns" }, "listeners": listeners },
    });
    ((namespace.to_owned(), name.to_owned()), object)
}

#[test]
fn listeners_are_added_if_the_gateway_lets_them() {
    let mut gateway = edge(http());
    gateway["spec"]["allowedListeners"] = json!({ "namespaces": { "from": "Same" } });
    let (settings, mut world) = (settings(), edge_world(gateway.clone()));
    world.listener_sets.extend([
        set("ns", "a", json!([{ "name": "more", "port": 8080, "protocol": "HTTP" }, { "name": "taken", "port": 80, "protocol": "HTTP" }])),
        set("ns", "b", json!([{ "name": "late", "port": 8080, "protocol": "HTTP" }])),
        set("elsewhere", "c", json!([{ "name": "x", "port": 9090, "protocol": "HTTP" }])),
    ]);
    let writes = apply(&settings, &mut world);
    let ports = writes[2].body["spec"]["ports"].as_array().expect("ports");
    let ports: Vec<_> = ports.iter().filter_map(|one| one["port"].as_u64()).collect();
    assert_eq!(ports, [15021, 80, 8080], "one of another namespace does not count");
    balance(&mut world, "w-istio", json!([{ "ip": "192.0.2.1" }]));
    world.proxies = proxies(1, 1, None);
    apply(&settings, &mut world);
    assert!(apply(&settings, &mut world).is_empty());
    assert_eq!(world.gateways[&key()]["status"]["attachedListenerSets"], 1);
    let said = |namespace: &str, name: &str| {
        let status = &world.listener_sets[&(namespace.to_owned(), name.to_owned())]["status"];
        let conditions = status["conditions"].as_array().expect("conditions").iter();
        assert!(conditions.clone().all(|one| one["observedGeneration"] == 2), "{status}");
        let said: Vec<_> = conditions
            .map(|one| {
                format!("{}={}", one["type"].as_str().unwrap_or_default(), one["reason"].as_str().unwrap_or_default())
            })
            .collect();
        (said.join(" "), status["listeners"].as_array().map_or(0, Vec::len))
    };
    assert_eq!(said("ns", "a"), ("Accepted=Accepted Programmed=Programmed".to_owned(), 2));
    assert_eq!(said("ns", "b"), ("Accepted=ListenersNotValid Programmed=ListenersNotValid".to_owned(), 1));
    assert_eq!(said("elsewhere", "c"), ("Accepted=NotAllowed Programmed=NotAllowed".to_owned(), 0));

    gateway["spec"]["allowedListeners"] = Value::Null;
    world.gateways.insert(key(), gateway);
    apply(&settings, &mut world);
    let status = &world.listener_sets[&("ns".to_owned(), "a".to_owned())]["status"];
    assert_eq!(status["conditions"][0]["reason"], "NotAllowed", "nobody may, if it is not said who may");
}

#[test]
fn what_was_judged_is_what_there_is() {
    let mut world = edge_world(edge(http()));
    world.facts = facts(&world, &[]);
    world.gateways.get_mut(&key()).expect("it is there")["metadata"]["generation"] = json!(4);
    assert_eq!(crate::controller::gateway::plan(&settings(), &world, &key(), NOW), Plan::default());
}
