//! What bulletins about Istio's control plane were about, where gateways and
//! what they are told are concerned. `docs/bulletins.md` has the whole list;
//! other tests of it are beside what they are about.

use super::gateways::{Edge, gateway, virtual_service};
use super::simulation::Call;
use super::*;

/// A service of a namespace, with further metadata.
fn service(key: &str, more: &str) -> String {
    let (namespace, name) = key.split_once('/').expect("namespace and name");
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}{more}}}\n\
         spec: {{clusterIP: 10.96.0.1, ports: [{{name: http, port: 80}}]}}\n"
    )
}

/// The listeners that are sent, as JSON.
fn listeners(world: &World) -> Vec<Json> {
    let all = world.sent().into_iter().filter(|((ty, _), _)| *ty == ResourceType::Listener);
    let shown = |((ty, _), resource): ((ResourceType, String), Resource)| {
        describe::to_json(ty.type_url(), &resource.message(ty)).expect("it is of its type")
    };
    all.map(shown).collect()
}

/// The values of a field, wherever it is.
fn values<'a>(json: &'a Json, field: &str, found: &mut Vec<&'a Json>) {
    match json {
        Json::Object(fields) => fields.iter().for_each(|(name, value)| {
            found.extend((name == field).then_some(value));
            values(value, field, found);
        }),
        Json::Array(list) => list.iter().for_each(|value| values(value, field, found)),
        _ => {}
    }
}

/// A client used to choose any cluster of the gateway by the name that it gave
/// in TLS, also those that end mutual TLS or have none.
#[test]
fn cve_2021_31921_auto_passthrough_leads_to_exported_services_only() {
    let passing = gateway(
        "a/gw",
        1,
        "{port: {number: 15443, name: tls, protocol: TLS}, hosts: ['*.local', far.com], tls: {mode: AUTO_PASSTHROUGH}}",
    );
    let exported = |to: &str| format!(", annotations: {{networking.istio.io/exportTo: '{to}'}}");
    let entry = |host: &str, more: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {host}, namespace: a}}\n\
             spec: {{hosts: [{host}], resolution: DNS, ports: [{{name: http, number: 80, protocol: HTTP}}]{more}}}\n"
        )
    };
    let mut text = passing + &service("a/open", "") + &service("a/listed", &exported("b, istio-system"));
    text += &(service("a/own", &exported(".")) + &service("a/hidden", &exported("~")));
    text += &entry("far.com", "");
    text += &entry("inside.local", ", location: MESH_INTERNAL, exportTo: ['*']");
    text += &entry("kept.local", ", location: MESH_INTERNAL, exportTo: ['.']");
    let mut edge = Edge::new(&text);
    let to = |edge: &Edge, name: &str, alpn: &str| {
        let call = Call { port: 15443, sni: Some(name.into()), alpn: alpn.into(), ..Call::default() };
        let outcome = edge.call(&call);
        format!("{}{}", outcome.cluster, outcome.error)
    };
    let name = |service: &str| format!("outbound_.80_._.{service}");
    let local = |service: &str| name(&format!("{service}.a.svc.cluster.local"));
    for reached in [local("open"), local("listed"), name("inside.local")] {
        assert_eq!(to(&edge, &reached, "istio"), reached);
        assert_eq!(to(&edge, &reached, "h2"), "ErrNoFilterChain", "it may not be of the mesh");
    }
    for kept in [local("own"), local("hidden"), name("kept.local"), name("far.com")] {
        assert_eq!(to(&edge, &kept, "istio"), "ErrNoFilterChain", "{kept}");
    }
    // Other clusters of the gateway's, and names of services, are none to choose.
    edge.apply(&(gateway("a/web", 1, HTTP) + &virtual_service("a/vs", "web", "a.com", "open.a.svc.cluster.local")));
    for other in ["outbound|80||open.a.svc.cluster.local", "open.a.svc.cluster.local", "prometheus_stats", ""] {
        assert_eq!(to(&edge, other, "istio"), "ErrNoFilterChain", "{other}");
    }
    let mesh = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n\
                data: {mesh: 'defaultServiceExportTo: [\".\"]'}\n";
    edge.apply(mesh);
    assert_eq!(to(&edge, &local("open"), "istio"), "ErrNoFilterChain", "the mesh says so");
    assert_eq!(to(&edge, &local("listed"), "istio"), local("listed"));
}

const HTTP: &str = "{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}";

/// Keys that could not be fetched were replaced by some whose private half was
/// in everybody's hands.
#[test]
fn cve_2026_31837_keys_that_cannot_be_fetched_open_no_gateway() {
    let policy = "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\n\
                  metadata: {name: jwt, namespace: istio-system}\n\
                  spec: {selector: {matchLabels: {istio: ingressgateway}}, \
                  jwtRules: [{issuer: me, jwksUri: 'https://keys.example.com/jwks'}]}\n";
    let keys = |fetched: &str| {
        let proxy = "# Proxy: router istio-system/istio=ingressgateway\n";
        let edge = Edge::of(&(proxy.to_owned() + fetched), &(gateway("a/web", 1, HTTP) + policy));
        let listeners = Json::Array(listeners(&edge.world));
        let mut found = Vec::new();
        values(&listeners, "local_jwks", &mut found);
        let texts = found.iter().filter_map(|one| one["inline_string"].as_str());
        texts.map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    let source = "# Keys: https://keys.example.com/jwks";
    for failed in [String::new(), format!("{source} error: there is no answer in time")] {
        let [keys] = &keys(&failed)[..] else { panic!("one set of keys: {failed:?}") };
        assert!(keys.contains(r#""kid":"nobody""#), "{failed:?}: {keys}");
    }
    let good = r#"{"keys":[{"kty":"oct","k":"AQAB","kid":"good"}]}"#;
    // The last good ones stay.
    for fetched in [format!("{source} {good}"), format!("{source} {good} error: there is no answer in time")] {
        assert_eq!(keys(&fetched), [good], "{fetched}");
    }
}

/// Several slashes, or slashes that are escaped, got around policies for paths.
#[test]
fn cve_2021_31920_paths_at_gateways_are_what_policies_compare() {
    let manager = |normalization: &str| {
        let mesh = format!(
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\n\
             data: {{mesh: '{{pathNormalization: {{normalization: {normalization}}}}}'}}\n"
        );
        let edge = Edge::new(&(gateway("a/web", 1, HTTP) + &mesh));
        let listeners = Json::Array(listeners(&edge.world));
        let of = |field: &str| {
            let mut found = Vec::new();
            values(&listeners, field, &mut found);
            found.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        [of("normalize_path"), of("merge_slashes"), of("path_with_escaped_slashes_action")].join(" ")
    };
    let base = manager("BASE");
    assert!(base.starts_with("true "), "{base}");
    assert_eq!([manager("DEFAULT"), manager("FROM_THE_FUTURE")], [base.clone(), base]);
    assert!(manager("MERGE_SLASHES").starts_with("true true "));
    assert_eq!(manager("DECODE_AND_MERGE_SLASHES"), r#"true true "UNESCAPE_AND_FORWARD""#);
}

/// Routes of one namespace took the hosts of another's services.
#[test]
fn bulletin_2026_002_a_stranger_takes_no_host_at_a_waypoint() {
    let waypoint = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: wp, namespace: shop}\n\
                    spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}\n\
                    status: {addresses: [{type: IPAddress, value: 10.96.0.9}]}\n";
    let text = waypoint.to_owned() + &service("shop/cart", ", labels: {istio.io/use-waypoint: wp}");
    let told = |namespace: &str, hosts: &str| {
        let mut world = World::new(&Given::new("# Proxy: waypoint shop/wp"));
        let taken = virtual_service(&format!("{namespace}/vs"), "mesh", hosts, "elsewhere.example.com");
        world.apply(objects(&(text.clone() + &taken)).into_iter().map(Change::Put));
        listeners(&world).iter().any(|listener| listener.to_string().contains("elsewhere.example.com"))
    };
    for hosts in ["cart.shop.svc.cluster.local", "'*.shop.svc.cluster.local'", "'*'"] {
        assert!(!told("evil", hosts), "{hosts}");
        assert!(told("shop", hosts), "{hosts}: it is theirs");
    }
}

/// A Gateway of Istio's could select the proxies that were made for another
/// namespace's, and present certificates with their rights.
#[test]
fn strict_gateway_merging_made_proxies_serve_no_gateway_of_other_namespaces() {
    let label = "gateway.networking.k8s.io/gateway-name";
    let made = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: gw, namespace: infra}\n\
                spec: {gatewayClassName: istio, listeners: [{name: l, port: 80, protocol: HTTP}]}\n";
    let selecting = |key: &str, port: u16| {
        let server = format!("{{port: {{number: {port}, name: http, protocol: HTTP}}, hosts: ['*']}}");
        gateway(key, 9, &server).replace("istio: ingressgateway", &format!("{label}: gw"))
    };
    let text = selecting("evil/gw", 81) + &selecting("infra/own", 82);
    let listens = |text: &str| {
        let edge = Edge::of(&format!("# Proxy: router infra/{label}=gw"), text);
        [80, 81, 82].map(|port| edge.http(port, "a.com", "/").error != "ErrNoListener")
    };
    assert_eq!(listens(&(text.clone() + made)), [true, false, true]);
    assert_eq!(listens(&text), [false, true, true], "nobody made them");
}

/// The table of bulletins names tests, all of them, and no others.
#[test]
fn every_bulletin_of_the_table_has_its_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = std::fs::read_to_string(root.join("docs/bulletins.md")).expect("the table");
    let mut sources = String::new();
    for folder in ["src", "integration-tests/tests"] {
        read_sources(&root.join(folder), &mut sources);
    }
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.starts_with("| "))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let mut named = BTreeSet::new();
    for row in &rows[1..] {
        let [bulletin, _, _, tests] = &row[..] else { panic!("four columns: {row:?}") };
        let tests: Vec<_> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "{bulletin} has no test");
        for test in tests {
            assert!(sources.contains(&format!("fn {test}(")), "{bulletin}: there is no test {test}");
            named.insert(test);
        }
    }
    assert!(named.len() > 20, "the table is read");
    let functions = sources.split("fn ").skip(1).filter_map(|rest| rest.split_once('(')).map(|(name, _)| name);
    let prefixed = functions.filter(|name| name.starts_with("cve_") || name.starts_with("bulletin_"));
    let missing: Vec<_> = prefixed.filter(|name| !named.contains(name)).collect();
    assert!(missing.is_empty(), "not in the table: {missing:?}");
}

fn read_sources(folder: &Path, to: &mut String) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            read_sources(&path, to);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            *to += &std::fs::read_to_string(&path).expect("text");
        }
    }
}
