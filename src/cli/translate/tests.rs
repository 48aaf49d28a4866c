use super::*;

const MESH: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: wp, namespace: ns}
spec:
  gatewayClassName: istio-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
status: {addresses: [{type: IPAddress, value: 10.96.0.9}]}
---
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: ns, labels: {istio.io/use-waypoint: wp}}
spec: {clusterIP: 10.96.0.1, selector: {app: echo}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: other, namespace: ns}
spec: {clusterIP: 10.96.0.2, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: echo, namespace: ns}
spec: {hosts: [echo], http: [{match: [{uri: {regex: "("}}], route: [{destination: {host: echo}}]}]}
"#;

fn shown(proxy: &str, explain: bool) -> anyhow::Result<(String, String)> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("mesh.yaml"), MESH).unwrap();
    let flags = Translate {
        filename: folder.path().to_owned(),
        proxy: proxy.to_owned(),
        explain,
        istio_proxy: false,
        domain: "cluster.local".to_owned(),
    };
    translate(&flags)
}

#[test]
fn a_waypoint_is_shown_what_it_serves_and_nothing_else() {
    let (text, findings) = shown("waypoint:ns/wp", false).unwrap();
    let names: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("name: ")).collect();
    let cluster = "inbound-vip|80|http|echo.ns.svc.cluster.local";
    assert_eq!(
        names,
        [
            "connect_originate",
            "encap",
            cluster,
            "main_internal",
            cluster,
            "connect_originate",
            "connect_terminate",
            "main_internal"
        ]
    );
    assert!(!text.contains("other.ns"), "{text}");
    assert!(
        findings.contains("VirtualService ns/echo") && findings.contains("spec.http[0].match[0].uri"),
        "{findings}"
    );
}

#[test]
fn objects_behind_a_resource_are_named() {
    let (text, _) = shown("waypoint:ns/wp", true).unwrap();
    assert!(text.contains("services ns/echo"), "{text}");
}

#[test]
fn ztunnels_are_shown_addresses() {
    let (text, _) = shown("ztunnel", false).unwrap();
    assert!(text.contains("istio.workload.Address") && text.contains("name: ns/echo.ns.svc.cluster.local"), "{text}");
}

#[test]
fn a_proxy_that_is_none_is_refused() {
    for proxy in ["", "waypoint", "waypoint:ns", "waypoint:/wp", "waypoint:ns/", "sidecar:ns/x"] {
        assert!(shown(proxy, false).unwrap_err().to_string().contains("--proxy"), "{proxy}");
    }
}
