//! What a gateway is deployed as, and where it is reached.

use super::*;

#[test]
fn a_gateway_is_what_istiods_is() {
    let mut gateway = edge(json!([
        { "name": "http", "port": 80, "protocol": "HTTP", "hostname": "a.example.com" },
        { "name": "http-too", "port": 80, "protocol": "HTTP", "hostname": "b.example.com" },
        { "name": "with.dots", "port": 443, "protocol": "TLS", "tls": { "mode": "Passthrough" } },
        { "name": "with-dots", "port": 8443, "protocol": "TLS", "tls": { "mode": "Passthrough" } },
    ]));
    gateway["metadata"]["labels"] = json!({ "team": "a", "topology.istio.io/network": "n1" });
    let mut world = edge_world(gateway);
    world.installation.values = json!({ "global": {
        "network": "n2", "proxy": { "resources": { "requests": { "cpu": "300m" } } },
        "waypoint": { "resources": { "requests": { "cpu": "7" } }, "tolerations": [{ "key": "no" }] },
    } });
    let writes = apply(&settings(), &mut world);
    let expected = ["ServiceAccount ns/w-istio", "Deployment ns/w-istio", "Service ns/w-istio"];
    assert_eq!(names(&writes)[..3], expected);
    for write in &writes[..3] {
        let labels = json!({
            "team": "a",
            "topology.istio.io/network": "n1",
            "istio.io/dataplane-mode": "none",
            "gateway.istio.io/managed": "istio.io-gateway-controller",
            "gateway.networking.k8s.io/gateway-name": "w",
            "gateway.networking.k8s.io/gateway-class-name": "istio",
        });
        assert_eq!(write.body["metadata"]["labels"], labels);
        assert_eq!(write.body["metadata"]["annotations"], Value::Null);
    }
    let spec = &writes[1].body["spec"];
    assert_eq!(spec["selector"]["matchLabels"], json!({ "gateway.networking.k8s.io/gateway-name": "w" }));
    let labels = &spec["template"]["metadata"]["labels"];
    assert_eq!(labels["service.istio.io/canonical-name"], "w-istio");
    let pod = &spec["template"]["spec"];
    assert_eq!(pod["serviceAccountName"], "w-istio");
    assert_eq!(pod["securityContext"]["sysctls"][0]["name"], "net.ipv4.ip_unprivileged_port_start");
    assert_eq!(pod["tolerations"], Value::Null, "those are of waypoints");
    let container = &pod["containers"][0];
    assert_eq!(
        container["args"].as_array().expect("arguments")[..3],
        [json!("proxy"), json!("router"), json!("--domain")]
    );
    assert!(!container["args"].to_string().contains("serviceCluster"));
    assert_eq!(container["resources"], json!({ "requests": { "cpu": "300m" } }));
    assert!(!container["ports"].to_string().contains("15008"));
    let variable = |name: &str| {
        let environment = container["env"].as_array().expect("variables");
        environment.iter().find(|one| one["name"] == name).map(|one| one["value"].clone())
    };
    assert_eq!(variable("ISTIO_META_NETWORK"), Some(json!("n1")));
    assert_eq!(variable("ISTIO_META_REQUESTED_NETWORK_VIEW"), Some(json!("n1")));
    assert_eq!(variable("ISTIO_META_WORKLOAD_NAME"), Some(json!("w-istio")));
    let volumes = |list: &Value| {
        let mut names: Vec<_> = list.as_array().expect("a list").iter().map(|one| one["name"].to_string()).collect();
        names.sort();
        names
    };
    assert_eq!(volumes(&pod["volumes"]), volumes(&container["volumeMounts"]));
    let service = &writes[2].body["spec"];
    assert_eq!(service["type"], "LoadBalancer");
    let ports = service["ports"].as_array().expect("ports");
    let ports: Vec<_> =
        ports.iter().map(|one| (one["name"].as_str(), one["port"].as_u64(), one["appProtocol"].as_str())).collect();
    let expected = [
        (Some("status-port"), Some(15021), Some("tcp")),
        (Some("http"), Some(80), Some("http")),
        (Some("with-dots"), Some(443), Some("tls")),
        (Some("with-dots-8443"), Some(8443), Some("tls")),
    ];
    assert_eq!(ports, expected);
}

#[test]
fn a_gateway_is_reached_at_its_load_balancer() {
    let (settings, mut world) = (settings(), edge_world(edge(http())));
    apply(&settings, &mut world);
    apply(&settings, &mut world);
    let (status, reason, message) = condition(&world, "Programmed");
    assert_eq!((status, reason), ("False", "AddressNotAssigned"), "{message}");
    assert_eq!(world.gateways[&key()]["status"]["addresses"], Value::Null);
    balance(
        &mut world,
        "w-istio",
        json!([{ "ip": "192.0.2.2" }, { "hostname": "lb.example.com" }, { "ip": "192.0.2.1" }]),
    );
    apply(&settings, &mut world);
    assert_eq!(condition(&world, "Programmed").1, "Pending", "there is an address, and nobody who answers");
    let addresses = json!([
        { "type": "IPAddress", "value": "192.0.2.1" },
        { "type": "IPAddress", "value": "192.0.2.2" },
        { "type": "Hostname", "value": "lb.example.com" },
    ]);
    assert_eq!(world.gateways[&key()]["status"]["addresses"], addresses);
    world.proxies = proxies(1, 1, None);
    apply(&settings, &mut world);
    let message = "Resource programmed, assigned to service(s) w-istio.ns.svc.cluster.local:80";
    assert_eq!(condition(&world, "Programmed"), ("True", "Programmed", message));
    assert_eq!(condition(&world, "ResolvedRefs").0, "True");
    assert!(apply(&settings, &mut world).is_empty());
    // One that goes is no longer listed, the last one neither.
    balance(&mut world, "w-istio", json!([{ "ip": "192.0.2.1" }]));
    assert_eq!(names(&apply(&settings, &mut world)), ["Gateway ns/w"]);
    let left = json!([{ "type": "IPAddress", "value": "192.0.2.1" }]);
    assert_eq!(world.gateways[&key()]["status"]["addresses"], left);
    balance(&mut world, "w-istio", json!([]));
    apply(&settings, &mut world);
    assert_eq!(world.gateways[&key()]["status"]["addresses"], Value::Null);
    assert_eq!(condition(&world, "Programmed").1, "AddressNotAssigned");
}

#[test]
fn the_type_of_the_service_can_be_chosen() {
    let addresses = |annotations: Value| {
        let mut gateway = edge(http());
        gateway["metadata"]["annotations"] = annotations;
        let mut world = edge_world(gateway);
        apply(&settings(), &mut world);
        apply(&settings(), &mut world);
        world.gateways[&key()]["status"]["addresses"].clone()
    };
    let host = json!({ "type": "Hostname", "value": "w-istio.ns.svc.cluster.local" });
    let ip = json!({ "type": "IPAddress", "value": "10.0.0.1" });
    let cluster = "networking.istio.io/service-type";
    let of_type = "networking.istio.io/address-type";
    assert_eq!(addresses(json!({ cluster: "ClusterIP" })), json!([host]));
    assert_eq!(addresses(json!({ cluster: "ClusterIP", of_type: "IPAddress" })), json!([ip]));
}

#[test]
fn an_address_can_be_asked_for() {
    let mut gateway = edge(http());
    gateway["spec"]["addresses"] = json!([{ "type": "IPAddress", "value": "192.0.2.9" }]);
    let mut world = edge_world(gateway.clone());
    let writes = apply(&settings(), &mut world);
    assert_eq!(writes[2].body["spec"]["loadBalancerIP"], "192.0.2.9");
    // Any address will do.
    gateway["spec"]["addresses"] = json!([{ "type": "IPAddress" }, { "type": "Hostname" }]);
    let mut world = edge_world(gateway);
    let writes = apply(&settings(), &mut world);
    assert_eq!(writes[2].body["spec"]["loadBalancerIP"], Value::Null);
}

#[test]
fn a_gateway_may_be_somebody_elses_service() {
    let mut gateway = edge(http());
    gateway["spec"]["addresses"] = json!([{ "type": "Hostname", "value": "mine.ns.svc.cluster.local" }]);
    let (settings, mut world) = (settings(), edge_world(gateway.clone()));
    let mine = Reference::new(Resource::Service, "ns", "mine");
    let look_up = plan(&settings, &mut world, &key(), NOW);
    assert_eq!(look_up, Plan { look_up: vec![mine.clone()], writes: vec![] });
    world.objects.insert(mine.clone(), None);
    assert_eq!(names(&apply(&settings, &mut world)), ["Gateway ns/w", "Gateway ns/w"], "nothing is made");
    let (status, reason, message) = condition(&world, "Programmed");
    assert_eq!((status, reason), ("False", "AddressNotUsable"), "{message}");
    let service =
        |port: u16| json!({ "spec": { "type": "ClusterIP", "clusterIPs": ["10.1.1.1"], "ports": [{ "port": port }] } });
    world.objects.insert(mine.clone(), Some(service(8080)));
    apply(&settings, &mut world);
    let (_, reason, message) = condition(&world, "Programmed");
    assert_eq!(reason, "AddressNotUsable");
    assert!(message.contains("Service ns/mine has no port 80"), "{message}");
    world.objects.insert(mine, Some(service(80)));
    apply(&settings, &mut world);
    assert_eq!(condition(&world, "Programmed").0, "True");
    let expected = json!([{ "type": "Hostname", "value": "mine.ns.svc.cluster.local" }]);
    assert_eq!(world.gateways[&key()]["status"]["addresses"], expected);
    assert!(apply(&settings, &mut world).is_empty());

    gateway["spec"]["addresses"] =
        json!([{ "type": "Hostname", "value": "mine" }, { "type": "example.com/named", "value": "x" }]);
    world.gateways.insert(key(), gateway);
    apply(&settings, &mut world);
    assert_eq!(condition(&world, "Accepted").1, "UnsupportedAddress");
}
