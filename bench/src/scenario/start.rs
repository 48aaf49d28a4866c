//! From exec to the first client that has everything.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use serde::Deserialize;

use super::{AGREE, Bench, SYNC, Who};
use crate::check::Checker;
use crate::client::{Credentials, Hello};
use crate::kube::Kube;
use crate::options::{Driver, Options};
use crate::plane::Plane;
use crate::process::{Meter, memory};
use crate::progress::say;
use crate::report::{Budget, Budgets, Sample};
use crate::world::World;

pub const LIMIT: &str = "for CPU, one thread that reads the same objects: YAML to JSON values, or lists of JSON off the \
                         wire to what a mesh looks at; for the time with an API server, a client that lists its pods \
                         as protobuf, which costs that server least, and does not look at them";
const PODS: usize = 20_000;
/// Budgets for this many pods at most are those of the larger size.
const LARGE: usize = 50_000;

pub fn setting(driver: Driver, options: &Options) -> String {
    let from = match options.driver.unwrap_or(driver) {
        Driver::Files => "files",
        Driver::Kube => "a kube-apiserver",
    };
    format!("{} pods from {from}; CPU and peak until the first client is complete", options.pods.unwrap_or(PODS))
}

pub fn budgets(driver: Driver, options: &Options) -> Budgets {
    let (cpu, first) = ("server CPU until then", "exec to first client complete");
    match (options.driver.unwrap_or(driver), options.pods.unwrap_or(PODS)) {
        (Driver::Files, ..=PODS) => vec![(first, Budget::AtMost(3.0))],
        (Driver::Files, _) => vec![],
        (Driver::Kube, pods) => {
            let mut budgets = vec![(cpu, Budget::TimesLimit(2.0))];
            if pods <= LARGE {
                let most = if pods <= PODS { [1.5, 1.0, 120.0] } else { [3.0, 2.5, 250.0] };
                budgets.extend([first, cpu, "peak RSS"].into_iter().zip(most.map(Budget::AtMost)));
            }
            budgets
        }
    }
}

pub async fn run(driver: Driver, bench: &mut Bench, who: Who<'_>) -> anyhow::Result<Option<Sample>> {
    let mut sample = Sample::default();
    let Who::Plane(launch) = who else { return Ok(Some(bench.recorded.limit.clone())) };
    let size = bench.options.size(PODS, false);
    let world = bench.world(driver, size).await?;
    let mut plane = Plane::start(launch, &world.objects(), bench.work())?;
    let ready = plane.ready().await?;
    let target = world.target(&plane, false).await?;
    let credentials = Credentials::new(0, world.mesh.ztunnel(0), None);
    let hello = Hello::empty(world.addresses(), size.policies());
    let checker = Checker::start(&target, &credentials, &hello);
    checker.synced(SYNC).await?;
    sample.add("exec to ready", (ready - plane.started).as_secs_f64(), "s");
    sample.add("exec to first client complete", plane.started.elapsed().as_secs_f64(), "s");
    sample.add("server CPU until then", Meter::new(plane.pid()).read()?.as_secs_f64(), "s");
    sample.add("peak RSS", memory(plane.pid())?.peak / 1e6, "MB");
    checker.agrees(&world, AGREE).await?;
    drop(checker);
    plane.stop().await;
    bench.recorded.limit = limit(&world).await?;
    bench.keep(world);
    Ok(Some(sample))
}

async fn limit(world: &World) -> anyhow::Result<Sample> {
    let mut limit = Sample::default();
    if let Some(folder) = world.folder() {
        limit.add("server CPU until then", decode_folder(folder)?, "s");
    }
    if let Some(kube) = world.api() {
        let (wall, list) = kube.list("pods", "application/vnd.kubernetes.protobuf").await?;
        say(&format!(
            "  the API server needs {:.1} s to list pods as {:.0} MB of protobuf",
            wall,
            list.len() as f64 / 1e6
        ));
        limit.add("exec to first client complete", wall, "s");
        limit.add("server CPU until then", read_lists(kube).await?, "s");
    }
    Ok(limit)
}

/// Seconds for reading files and making JSON values of them.
fn decode_folder(folder: &Path) -> anyhow::Result<f64> {
    let mut meter = Meter::new(std::process::id());
    let used = meter.read()?;
    for folder in [folder.to_owned(), folder.join("hot")] {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                continue;
            }
            for document in std::fs::read_to_string(&path)?.split("---\n") {
                let value: serde_json::Value = serde_saphyr::from_str_with_options(document, options())
                    .with_context(|| format!("{}", path.display()))?;
                std::hint::black_box(value);
            }
        }
    }
    Ok((meter.read()? - used).as_secs_f64())
}

/// Without limits, as control planes read.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! { budget: None, emit_comments: false }
}

/// Seconds of CPU for reading the lists that the API server gives, TLS
/// included, and keeping of each object what a mesh looks at.
async fn read_lists(kube: &Kube) -> anyhow::Result<f64> {
    let mut meter = Meter::new(std::process::id());
    let used = meter.read()?;
    for kind in ["pods", "services", "nodes", "namespaces"] {
        let (_, json) = kube.list(kind, "application/json").await?;
        let list: List = serde_json::from_slice(&json)?;
        std::hint::black_box(&list);
    }
    Ok((meter.read()? - used).as_secs_f64())
}

/// What a mesh looks at. It is owned: nobody keeps the list to borrow from.
#[derive(Deserialize)]
struct List {
    #[serde(rename = "items")]
    _items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    #[serde(rename = "metadata")]
    _metadata: Metadata,
    #[serde(default, rename = "spec")]
    _spec: Spec,
    #[serde(default, rename = "status")]
    _status: Status,
}

type Map = BTreeMap<String, String>;

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    #[serde(rename = "name")]
    _name: String,
    #[serde(rename = "namespace")]
    _namespace: String,
    #[serde(rename = "uid")]
    _uid: String,
    #[serde(rename = "resourceVersion")]
    _resource_version: String,
    #[serde(rename = "creationTimestamp")]
    _created: String,
    #[serde(rename = "labels")]
    _labels: Map,
    #[serde(rename = "annotations")]
    _annotations: Map,
    #[serde(rename = "ownerReferences")]
    _owners: Vec<Owner>,
}

#[derive(Deserialize)]
struct Owner {
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(rename = "name")]
    _name: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    #[serde(rename = "nodeName")]
    _node_name: String,
    #[serde(rename = "serviceAccountName")]
    _service_account_name: String,
    #[serde(rename = "containers")]
    _containers: Vec<Container>,
    #[serde(rename = "selector")]
    _selector: Map,
    #[serde(rename = "clusterIPs")]
    _addresses: Vec<String>,
}

#[derive(Deserialize)]
struct Container {
    #[serde(default, rename = "ports")]
    _ports: Vec<Port>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Port {
    #[serde(rename = "name")]
    _name: String,
    #[serde(rename = "containerPort")]
    _container_port: u16,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    #[serde(rename = "phase")]
    _phase: String,
    #[serde(rename = "podIPs")]
    _addresses: Vec<Address>,
    #[serde(rename = "conditions")]
    _conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Address {
    #[serde(rename = "ip")]
    _ip: String,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    _type: String,
    #[serde(rename = "status")]
    _status: String,
}
