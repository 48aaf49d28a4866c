//! Cases that were checked on istiod: objects in, where calls go out. They are
//! beside the repository, if at all; `FAIRWAY_CASES` names their folder.

use super::simulation::{Call, Told};
use super::*;

/// The suites that are about what is served; all of their checks must pass.
const SUITES: [&str; 5] =
    ["TestDisablePortTranslation", "TestHTTPGateway", "TestGatewayConflicts", "TestGatewayServices", "TestIngress"];

fn file() -> Option<String> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/cases");
    let path = std::env::var("FAIRWAY_CASES").unwrap_or_else(|_| beside.to_owned()) + "/route-simulation.jsonl";
    match std::fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(error) => {
            println!("not run: the cases of istiod are not at {path}: {error}");
            None
        }
    }
}

fn case_objects(text: &str) -> Vec<Object> {
    let object = |document| match document {
        Document::Object(object) => Some(object),
        _ => None,
    };
    let mut objects: Vec<_> = read(text).into_iter().filter_map(object).collect();
    for object in &mut objects {
        if object.kind().info().namespaced && object.meta().namespace.is_empty() {
            object.meta_mut().namespace = "default".into();
        }
    }
    objects
}

fn case_proxy(proxy: &Json) -> Scope {
    let labels = proxy["labels"].as_object().into_iter().flatten();
    let labels: Vec<_> = labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    let namespace = proxy["metadata"]["NAMESPACE"].as_str().unwrap_or("default");
    let address = proxy["ips"][0].as_str().unwrap_or("1.1.1.1");
    let text = format!("# Proxy: router {namespace}/{}\n# Address: {address}", labels.join(","));
    proxy_of(&text)
}

fn proxy_of(text: &str) -> Scope {
    super::proxy(text).expect("it names one")
}

fn call_of(call: &Json) -> Call {
    let text = |field: &str| call[field].as_str().map(str::to_owned);
    let http = call["protocol"].as_str().unwrap_or("http").starts_with("http");
    let tls = call["tls"].as_str().unwrap_or("plaintext");
    let host = text("host");
    let alpn = match (tls, call["protocol"].as_str()) {
        ("tls", Some("http2")) => "h2",
        ("tls", Some("http")) => "http/1.1",
        ("mtls", _) => "istio",
        _ => "",
    };
    Call {
        port: call["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or_default(),
        sni: (tls != "plaintext").then(|| text("sni").or_else(|| host.clone()).unwrap_or_default()),
        host: host.filter(|_| http),
        path: text("path").unwrap_or_else(|| "/".to_owned()),
        alpn: text("alpn").unwrap_or_else(|| alpn.to_owned()),
    }
}

/// What is not as wanted.
fn wrong(call: &Json, told: &Told) -> Vec<String> {
    let outcome = told.call(&call_of(&call["call"]));
    let wanted = &call["want"];
    let fields = [
        ("listener", &outcome.listener),
        ("route_config", &outcome.route_config),
        ("virtual_host", &outcome.virtual_host),
        ("route", &outcome.route),
        ("cluster", &outcome.cluster),
    ];
    let strict = wanted["strict"] == true;
    let mut wrong: Vec<_> = fields
        .into_iter()
        .filter(|(name, got)| match wanted[*name].as_str() {
            Some(wanted) => wanted != **got,
            None => strict && !got.is_empty(),
        })
        .map(|(name, got)| format!("{name}: want {}, got {got:?}", wanted[name]))
        .collect();
    if wanted["error"].as_str().unwrap_or_default() != outcome.error {
        wrong.push(format!("error: want {}, got {:?}", wanted["error"], outcome.error));
    }
    wrong
}

#[test]
fn calls_go_where_istiod_sends_them() {
    let Some(text) = file() else { return };
    let (mut checks, mut all_wrong) = (0, Vec::new());
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let case: Json = serde_json::from_str(line).expect("a case in each line");
        let suite = case["suite"].as_str().unwrap_or_default();
        if !SUITES.contains(&suite) {
            continue;
        }
        let proxy = case_proxy(&case["proxy"]);
        let given = Given { proxy: Some(proxy.clone()), ..Given::new("") };
        let mut world = World::new(&given);
        let texts = ["config", "kube_config"].map(|field| case[field].as_str().unwrap_or_default());
        world.apply(texts.into_iter().flat_map(case_objects).map(Change::Put));
        let told = Told::of(&world.views, &proxy);
        for call in case["calls"].as_array().into_iter().flatten() {
            checks += 1;
            let wrong = wrong(call, &told);
            if !wrong.is_empty() {
                all_wrong.push(format!("{} {}: {}", case["test"], call["name"], wrong.join("; ")));
            }
        }
    }
    println!("{checks} checks of istiod's cases");
    assert!(checks > 0, "the suites are in the file");
    assert!(all_wrong.is_empty(), "{}", all_wrong.join("\n"));
}
