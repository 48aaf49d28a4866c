//! `make stage`: a cluster in which pods run, with Fairway as its control plane,
//! for a person with kubectl. It runs until it is told to end.
#![allow(clippy::unwrap_used, reason = "whatever fails here fails the stage")]
#![allow(clippy::large_futures, reason = "it runs once")]

use std::os::unix::fs::PermissionsExt;
use std::process::ExitCode;

use fairway_integration_tests::stage::{Stage, enter, image_names};
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
        let folder = stage.folder();
        let kubeconfig = stage.cluster.kubeconfig();
        let kubectl = cluster::tool("FAIRWAY_KUBECTL", ".cache/bin/kubectl");
        let bin = kubectl.parent().unwrap().display();
        let environment = format!("env KUBECONFIG={} PATH={bin}:\"$PATH\"", kubeconfig.display());
        let exec = format!(
            "sh -c 'pod=$1; shift; process=$(cat {}/$pod*/*/process | head -n 1); \
             exec nsenter --target $process --net --mount --pid --uts --root --wd \"$@\"' exec",
            folder.display()
        );
        for (name, program) in [("kubectl", "kubectl"), ("shell", "${SHELL:-/bin/sh}"), ("exec", &exec)] {
            let path = folder.join(name);
            std::fs::write(&path, enter::from_outside(&format!("{environment} {program}"))).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        println!(
            "\nIt is there. In another terminal, as root:\n\n\
               {folder}/kubectl get pods --all-namespaces\n\
               {folder}/kubectl apply -f {examples}/bookinfo.yaml\n\
               {folder}/exec default.sleep curl -sS http://productpage:9080/\n\
               {folder}/shell\n\n\
             The last is a shell on the network of the nodes, with KUBECONFIG set. exec takes the\n\
             beginning of NAMESPACE.POD; that of kubectl would need a kubelet's own server.\n\
             What happens is written to {folder}/log, what pods print to the folders beside it.\n\
             Images: {images}. Ctrl-C ends it.\n",
            folder = folder.display(),
            examples = cluster::repository().join("integration-tests/stage/walkthrough").display(),
            images = image_names().join(", "),
        );
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = running => {}
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}
