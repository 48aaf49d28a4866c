//! `make demo`: requests through a waypoint and a gateway, on loopback, without a
//! cluster.
//!
//! The control plane serves a copy of `examples/bookinfo`, stock Envoys are
//! the waypoint and the gateway, and this program is the rest of the mesh: the
//! ztunnel in front of the pods, the application in them, `sleep`, which calls,
//! and a browser outside. It says what it does, ends by itself, and fails if the
//! mesh does not do what the folder says.
#![allow(clippy::unwrap_used, reason = "whatever fails here fails the demo")]
#![allow(clippy::large_futures, reason = "it runs once")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use fairway_integration_tests::echo::Echo;
use fairway_integration_tests::fairway::{Fairway, Options};
use fairway_integration_tests::hbone::{Answer, Client, Http, Server, request};
use fairway_integration_tests::identity::Identity;
use fairway_integration_tests::proxy::{Proxy, Role};
use fairway_integration_tests::waypoint::{PORT, Waypoint};
use fairway_integration_tests::{cluster, envoy, runner};

const NAMESPACE: &str = "bookinfo";
/// Reviews, at the address of its Service.
const REVIEWS: &str = "127.96.10.4:9080";
const REQUESTS: usize = 200;
/// The pod of the gateway, where it listens for port 80 of its Service.
const GATEWAY: ([u8; 4], u16) = ([127, 244, 1, 40], 8080);
/// What a browser sends along.
const BROWSER: [(&str, &str); 4] = [
    ("host", "bookinfo.example.com"),
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/140.0"),
    ("accept", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"),
    ("accept-language", "en"),
];

/// Copies the example. The networks of pods and services become parts of
/// loopback: there every address exists.
fn copy(to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(cluster::repository().join("examples/bookinfo")).unwrap() {
        let from = entry.unwrap().path();
        if from.extension().is_some_and(|extension| extension == "yaml") {
            let text = std::fs::read_to_string(&from).unwrap();
            let text = text.replace("10.96.", "127.96.").replace("10.244.", "127.244.");
            std::fs::write(to.join(from.file_name().unwrap()), text).unwrap();
        }
    }
}

async fn demo() -> Result<(), String> {
    let (config, state) = (runner::folder().join("bookinfo"), runner::folder().join("state"));
    copy(&config);
    println!("1. fairway discovery, on examples/bookinfo with loopback addresses: {}", config.display());
    let fairway = Fairway::start(&Options::folder(&config, &state)).await;
    println!("   xDS and certificates at {}", fairway.secure_grpc);

    println!("2. fairway agent, which runs {} as the waypoint of reviews", envoy::binary().display());
    let waypoint = Waypoint::start(&fairway, &state, NAMESPACE, "waypoint", [127, 244, 1, 30].into()).await;
    println!("   it takes HBONE at {}, and was told how by the control plane", waypoint.address);

    println!("3. another one, as the gateway of bookinfo.example.com");
    let role = Role {
        kind: "router",
        namespace: "istio-system",
        account: "istio-ingressgateway",
        labels: serde_json::json!({ "istio": "ingressgateway" }),
    };
    let gateway = Proxy::start(&fairway, &state, role, GATEWAY.0.into()).await;
    let outside = SocketAddr::from(GATEWAY);
    println!("   it listens at {outside} for port 80 of its Service");

    println!("4. productpage, and reviews v1, v2 and v3, each behind HBONE as a ztunnel takes it for a pod");
    let pod = async |app: &str, version: &str, address: [u8; 4]| {
        let identity = Identity::of(&fairway, &state, NAMESPACE, &format!("bookinfo-{app}")).await;
        let echo = Echo::new(&format!("{app}-{version}"));
        Server::start(SocketAddr::from((address, PORT)), identity, &echo).await
    };
    let productpage = pod("productpage", "v1", [127, 244, 1, 10]).await;
    let mut reviews = vec![];
    for (version, address) in [("v1", [127, 244, 1, 11]), ("v2", [127, 244, 2, 12]), ("v3", [127, 244, 1, 12])] {
        reviews.push(pod("reviews", version, address).await);
    }

    let sleep = Identity::of(&fairway, &state, "default", "sleep").await;
    println!("5. sleep calls, as {}", sleep.name);
    let client = Client::connect(&sleep, waypoint.address).await?;
    println!("   the waypoint is {}", client.peer);

    let mut counts = BTreeMap::new();
    for _ in 0..REQUESTS {
        let answer = client.get(REVIEWS, "/reviews/0", &[("host", "reviews:9080")]).await?;
        count(&mut counts, &answer)?;
    }
    println!("   {REQUESTS} times GET /reviews/0: 200, by {counts:?}; the VirtualService says 90 and 10 %");
    divided(&counts)?;
    let answer = client.send(REVIEWS, request("DELETE", "/reviews/0", &[("host", "reviews:9080")])).await?;
    refused("DELETE /reviews/0", &answer, "the AuthorizationPolicy allows GET")?;

    println!("6. a browser calls, from outside of the mesh");
    let ask = async |method: &str, path: &str| {
        let stream = tokio::net::TcpStream::connect(outside).await.map_err(|error| error.to_string())?;
        Http::over(stream).await?.send(request(method, path, &BROWSER)).await
    };
    let mut counts = BTreeMap::new();
    for _ in 0..REQUESTS / 10 {
        count(&mut counts, &ask("GET", "/productpage").await?)?;
    }
    println!("   {} times GET /productpage: 200, by {counts:?}", REQUESTS / 10);
    if counts.len() != 1 || !counts.contains_key("productpage-v1") {
        return Err("productpage should have answered".into());
    }
    let mut counts = BTreeMap::new();
    for _ in 0..REQUESTS {
        count(&mut counts, &ask("GET", "/reviews/0").await?)?;
    }
    println!("   {REQUESTS} times GET /reviews/0: 200, by {counts:?}; the waypoint divides these too");
    divided(&counts)?;
    refused("DELETE /reviews/0", &ask("DELETE", "/reviews/0").await?, "the waypoint's policy is for these too")?;
    let answer = ask("GET", "/ratings/0").await?;
    println!("   GET /ratings/0: {}; no route leads there", answer.status.as_u16());
    if answer.status != 404 {
        return Err("that should be 404".into());
    }

    println!("7. who was there");
    let tunnels: Vec<_> = reviews.iter().flat_map(Server::tunnels).collect();
    opened_by("reviews", &tunnels, "spiffe://cluster.local/ns/bookinfo/sa/waypoint")?;
    let gateways = "spiffe://cluster.local/ns/istio-system/sa/istio-ingressgateway";
    opened_by("productpage", &productpage.tunnels(), gateways)?;
    gateway.assert_nothing_rejected().await;
    waypoint.assert_nothing_rejected().await;
    println!("   the Envoys rejected nothing they were told");
    Ok(())
}

fn count(counts: &mut BTreeMap<String, usize>, answer: &Answer) -> Result<(), String> {
    if answer.status != 200 {
        return Err(format!("GET: {} {}", answer.status, answer.body));
    }
    *counts.entry(answer.who()).or_insert(0) += 1;
    Ok(())
}

/// Whether reviews were divided as the VirtualService says.
fn divided(counts: &BTreeMap<String, usize>) -> Result<(), String> {
    let of = |version: &str| counts.get(version).copied().unwrap_or_default();
    let v1 = of("reviews-v1");
    // Fewer or more come up once in a hundred thousand times.
    match (158..=196).contains(&v1) && v1 + of("reviews-v2") == REQUESTS {
        true => Ok(()),
        false => Err(format!("that is not 90/10: {counts:?}")),
    }
}

/// Whether a policy has refused a request.
fn refused(what: &str, answer: &Answer, why: &str) -> Result<(), String> {
    println!("   {what}: {} {:?}; {why}", answer.status.as_u16(), answer.body);
    match (answer.status.as_u16(), &*answer.body) {
        (403, "RBAC: access denied") => Ok(()),
        _ => Err("that should be 403 \"RBAC: access denied\"".into()),
    }
}

/// Whether nobody else has opened tunnels to pods.
fn opened_by(pods: &str, tunnels: &[(String, String)], wanted: &str) -> Result<(), String> {
    println!("   {} tunnels to {pods}, all opened by {wanted}", tunnels.len());
    match tunnels.is_empty() || tunnels.iter().any(|(peer, _)| peer != wanted) {
        true => Err(format!("not so: {tunnels:?}")),
        false => Ok(()),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let result = tokio::select! {
        result = demo() => result,
        // What was started ends as it is dropped.
        _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
    };
    match result {
        Ok(()) => {
            let _ = std::fs::remove_dir_all(runner::folder());
            println!("all as told");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            println!("FAILED: {reason}\nlogs are in {}", runner::folder().display());
            ExitCode::FAILURE
        }
    }
}
