//! `make stage`: a cluster in which pods run, with Fairway as its control plane,
//! for a person with kubectl. It runs until it is told to end.
#![allow(clippy::unwrap_used, reason = "whatever fails here fails the stage")]
#![allow(clippy::large_futures, reason = "it runs once")]

use std::process::ExitCode;

use fairway_integration_tests::stage::{Stage, enter};
use fairway_integration_tests::{cluster, runner};
use tokio::signal::unix::{SignalKind, signal};

const MESH: &str = include_str!("../../stage/mesh.yaml");

fn main() -> ExitCode {
    enter::enter(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(run());
        let _ = std::fs::remove_dir_all(runner::folder());
        ExitCode::SUCCESS
    })
}

async fn run() {
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    let running = async {
        println!("starting a Kubernetes API, two nodes and Fairway");
        let stage = Stage::start().await;
        stage.apply(MESH).await;
        stage.ztunnels().await;
        let kubectl = cluster::tool("FAIRWAY_KUBECTL", ".cache/bin/kubectl");
        // From outside, the network of the stage is that of this process's child.
        println!(
            "\nIt is there. To use it, in another terminal:\n\n\
               sudo nsenter --net=/proc/$(pgrep -f -o '{exe}$')/ns/net bash\n\
               export KUBECONFIG={kubeconfig} PATH={path}:$PATH\n\
               kubectl get pods --all-namespaces\n\
               kubectl apply -f {examples}/bookinfo.yaml\n\n\
             What happens is in {log}, what pods print in the folders beside it.\n\
             Images: fairway.test/echo, sleep, proxy, discovery, ztunnel. Ctrl-C ends it.\n",
            exe = std::env::current_exe().unwrap().display(),
            kubeconfig = stage.cluster.kubeconfig().display(),
            path = kubectl.parent().unwrap().display(),
            examples = cluster::repository().join("integration-tests/stage/walkthrough").display(),
            log = stage.log_path().display(),
        );
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = running => {}
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}
