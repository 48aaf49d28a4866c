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
    shown_of(MESH, proxy, explain)
}

fn shown_of(mesh: &str, proxy: &str, explain: bool) -> anyhow::Result<(String, String)> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("mesh.yaml"), mesh).unwrap();
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

/// Secrets are for the account that the proxies of a Gateway have, which its
/// user may choose.
#[test]
fn a_gateway_is_shown_that_it_has_its_certificate() {
    let (certificate, key) = crate::model::secret::testing::pair("a.example.com");
    let encoded = |text: &str| openssl::base64::encode_block(text.as_bytes()).replace('\n', "");
    let secret = format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: s, namespace: far}}\ndata: {{tls.crt: {}, tls.key: {}}}\n",
        encoded(&certificate),
        encoded(&key)
    );
    let gateway = |class: &str, annotations: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: g, namespace: edge, annotations: {{{annotations}}}}}\n\
             spec:\n  gatewayClassName: {class}\n  listeners:\n  - {{name: l, port: 443, protocol: HTTPS, tls: {{certificateRefs: [{{name: s, namespace: far}}]}}}}\n"
        )
    };
    let others = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: edge}\n\
                  spec: {controllerName: istio.io/gateway-controller}\n---\napiVersion: gateway.networking.k8s.io/v1\n\
                  kind: ReferenceGrant\nmetadata: {name: grant, namespace: far}\n\
                  spec: {from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: edge}], to: [{group: '', kind: Secret}]}\n";
    for gateway in
        [gateway("istio", ""), gateway("edge", ""), gateway("istio", "gateway.istio.io/service-account: chosen")]
    {
        let (text, findings) = shown_of(&(secret.clone() + &gateway + others), "router:edge/g", false).unwrap();
        assert!(text.contains("kubernetes-gateway://far/s"), "{text}{findings}");
        assert!(text.contains("[redacted]"), "{gateway}{findings}");
    }
}

/// A name that was mistyped would else look like a Gateway without services.
#[test]
fn a_gateway_that_is_not_there_is_an_error() {
    for proxy in ["waypoint:ns/nosuch", "router:ns/nosuch"] {
        let error = shown(proxy, false).unwrap_err().to_string();
        assert!(error.starts_with("there is no Gateway ns/nosuch"), "{proxy}: {error}");
        // Perhaps because it cannot be read.
        assert!(error.contains("VirtualService ns/echo"), "{proxy}: {error}");
    }
    assert!(shown("router:ns/istio=of-nobody", false).is_ok(), "pods of a Gateway of Istio's, perhaps");
}

#[test]
fn a_folder_that_is_not_there_is_said_once() {
    let flags = Translate {
        filename: "of/nobody".into(),
        proxy: "ztunnel".to_owned(),
        explain: false,
        istio_proxy: false,
        domain: "cluster.local".to_owned(),
    };
    let error = format!("{:#}", translate(&flags).unwrap_err());
    assert_eq!(error.matches("No such file").count(), 1, "{error}");
    assert_eq!(error.matches("of/nobody").count(), 1, "{error}");
}
