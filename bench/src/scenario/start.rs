//! From exec to the first client that has everything.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Deserialize;

use super::{AGREE, Bench, SYNC, Who};
use crate::check::Checker;
use crate::client::{Credentials, Hello};
use crate::kube::Kube;
use crate::options::{Driver, Options};
use crate::plane::Plane;
use crate::process::{Meter, memory};
use crate::report::{Budget, Budgets, Sample};

pub const LIMIT: &str = "one thread that merely decodes the same bytes: YAML to JSON values, or the API server's JSON \
                         to what a mesh looks at";
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
    let Who::Plane(launch) = who else {
        sample.add("server CPU until then", bench.recorded.decoding, "s");
        return Ok(Some(sample));
    };
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
    bench.recorded.decoding = match (world.folder(), world.api()) {
        (Some(folder), _) => decode_folder(folder)?,
        (_, Some(kube)) => decode_lists(kube).await?,
        _ => f64::NAN,
    };
    bench.keep(world);
    Ok(Some(sample))
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

/// Seconds for decoding the lists that the API server gives.
async fn decode_lists(kube: &Kube) -> anyhow::Result<f64> {
    let mut spent = Duration::ZERO;
    for kind in ["pods", "services", "nodes", "namespaces"] {
        let text = kube.get(&format!("/api/v1/{kind}?resourceVersion=0")).await?;
        let started = Instant::now();
        let list: List<'_> = serde_json::from_str(&text)?;
        spent += started.elapsed();
        std::hint::black_box(&list);
    }
    Ok(spent.as_secs_f64())
}

/// What a mesh looks at, borrowed where it can be.
#[derive(Deserialize)]
struct List<'a> {
    #[serde(borrow, rename = "items")]
    _items: Vec<Item<'a>>,
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow, rename = "metadata")]
    _metadata: Metadata<'a>,
    #[serde(borrow, default, rename = "spec")]
    _spec: Spec<'a>,
    #[serde(borrow, default, rename = "status")]
    _status: Status<'a>,
}

#[derive(Deserialize)]
struct Metadata<'a> {
    #[serde(rename = "name")]
    _name: &'a str,
    #[serde(default, rename = "namespace")]
    _namespace: &'a str,
    #[serde(default, rename = "uid")]
    _uid: &'a str,
    #[serde(borrow, default, rename = "labels")]
    _labels: Map<'a>,
    #[serde(borrow, default, rename = "annotations")]
    _annotations: Map<'a>,
}

type Map<'a> = std::collections::HashMap<&'a str, std::borrow::Cow<'a, str>>;

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Spec<'a> {
    #[serde(rename = "nodeName")]
    _node_name: &'a str,
    #[serde(rename = "serviceAccountName")]
    _service_account_name: &'a str,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status<'a> {
    #[serde(borrow, rename = "phase")]
    _phase: std::borrow::Cow<'a, str>,
    #[serde(borrow, rename = "podIPs")]
    _addresses: Vec<Address<'a>>,
    #[serde(borrow, rename = "conditions")]
    _conditions: Vec<Condition<'a>>,
}

#[derive(Deserialize)]
struct Address<'a> {
    #[serde(rename = "ip")]
    _ip: &'a str,
}

#[derive(Deserialize)]
struct Condition<'a> {
    #[serde(rename = "type")]
    _type: &'a str,
    #[serde(rename = "status")]
    _status: &'a str,
}
