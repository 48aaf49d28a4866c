//! `make demo`: requests through a waypoint, on loopback, without a cluster.
//!
//! The control plane serves a copy of `examples/bookinfo`, a stock Envoy is
//! the waypoint, and this program is the rest of the mesh: the ztunnel in front
//! of the pods of reviews, the application in them, and `sleep`, which calls.
//! It says what it does, ends by itself, and fails if the mesh does not do what
//! the folder says.
#![allow(clippy::unwrap_used, reason = "whatever fails here fails the demo")]
#![allow(clippy::large_futures, reason = "it runs once")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use fairway_integration_tests::echo::Echo;
use fairway_integration_tests::fairway::{Fairway, Options};
use fairway_integration_tests::hbone::{Client, Server, request};
use fairway_integration_tests::identity::Identity;
use fairway_integration_tests::waypoint::{PORT, Waypoint};
use fairway_integration_tests::{cluster, envoy, runner};

const NAMESPACE: &str = "bookinfo";
/// Reviews, at the address of its Service.
const REVIEWS: &str = "127.96.10.4:9080";
const REQUESTS: usize = 200;

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

    println!("3. reviews v1, v2 and v3, each behind HBONE as a ztunnel takes it for a pod");
    let mut pods = vec![];
    for (version, address) in [("v1", [127, 244, 1, 11]), ("v2", [127, 244, 2, 12]), ("v3", [127, 244, 1, 12])] {
        let identity = Identity::of(&fairway, &state, NAMESPACE, "bookinfo-reviews").await;
        let echo = Echo::new(&format!("reviews-{version}"));
        pods.push(Server::start(SocketAddr::from((address, PORT)), identity, &echo).await);
    }

    let sleep = Identity::of(&fairway, &state, "default", "sleep").await;
    println!("4. sleep calls, as {}", sleep.name);
    let client = Client::connect(&sleep, waypoint.address).await?;
    println!("   the waypoint is {}", client.peer);

    let mut counts = BTreeMap::new();
    for _ in 0..REQUESTS {
        let answer = client.get(REVIEWS, "/reviews/0", &[("host", "reviews:9080")]).await?;
        if answer.status != 200 {
            return Err(format!("GET: {} {}", answer.status, answer.body));
        }
        *counts.entry(answer.who()).or_insert(0) += 1;
    }
    println!("   {REQUESTS} times GET /reviews/0: 200, by {counts:?}; the VirtualService says 90 and 10 %");
    let v1 = counts.get("reviews-v1").copied().unwrap_or_default();
    // Fewer or more come up once in a hundred thousand times.
    if !(158..=196).contains(&v1) || v1 + counts.get("reviews-v2").copied().unwrap_or_default() != REQUESTS {
        return Err(format!("that is not 90/10: {counts:?}"));
    }

    let answer = client.send(REVIEWS, request("DELETE", "/reviews/0", &[("host", "reviews:9080")])).await?;
    println!("   DELETE /reviews/0: {} {:?}; the AuthorizationPolicy allows GET", answer.status.as_u16(), answer.body);
    if (answer.status.as_u16(), &*answer.body) != (403, "RBAC: access denied") {
        return Err("that should be 403 \"RBAC: access denied\"".into());
    }

    let tunnels: Vec<_> = pods.iter().flat_map(Server::tunnels).collect();
    let wanted = "spiffe://cluster.local/ns/bookinfo/sa/waypoint";
    println!("5. {} tunnels to pods, all opened by {wanted}", tunnels.len());
    if tunnels.is_empty() || tunnels.iter().any(|(peer, _)| peer != wanted) {
        return Err(format!("not so: {tunnels:?}"));
    }
    waypoint.assert_nothing_rejected().await;
    println!("   Envoy rejected nothing it was told");
    Ok(())
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
