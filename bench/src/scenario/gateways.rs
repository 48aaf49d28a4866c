//! What objects of gateways cost in memory, kind by kind: several numbers of one
//! and none of what is not needed, and the slope of the line through them.

use fairway_bench::gateway::{Edge, Size};
use tokio::time::sleep;

use super::envoys::Stage;
use super::gateway::{GATEWAYS, NAMESPACES};
use super::{Bench, SETTLE, SYNC, Who};
use crate::envoy::Wants;
use crate::options::Options;
use crate::process::memory;
use crate::progress::say;
use crate::report::{Budgets, Sample};
use crate::stats::slope;

pub const LIMIT: &str = "the bytes that gateways are sent for one";
const SERVICES: usize = 100;
/// Parts of the largest number.
const PARTS: [usize; 3] = [4, 2, 1];

/// A kind: what its slope is called, how many there are at most, and the world
/// with so many of it.
type Kind = (&'static str, usize, fn(usize) -> Size);

const NONE: Size = Size { gateways: GATEWAYS, namespaces: NAMESPACES, routes: GATEWAYS, services: 1, secrets: 0 };
const KINDS: [Kind; 3] = [
    ("RSS per HTTPRoute of a host", 20_000, |routes| Size { routes, services: SERVICES, ..NONE }),
    ("RSS per listener with a Secret", 600, |secrets| Size { secrets, ..NONE }),
    ("RSS per service with a pod and ten routes", 1_000, |services| Size {
        services,
        routes: services * GATEWAYS,
        ..NONE
    }),
];

pub fn setting((): (), _: &Options) -> String {
    let kinds = KINDS.map(|(name, most, _)| format!("{} ({most})", name.trim_start_matches("RSS per ")));
    format!(
        "{GATEWAYS} gateways, all of them connected with TLS; a quarter, half and all of so many of one kind: {}",
        kinds.join(", ")
    )
}

pub fn budgets((): (), _: &Options) -> Budgets {
    Vec::new()
}

pub async fn run((): (), bench: &mut Bench, who: Who<'_>) -> anyhow::Result<Option<Sample>> {
    let Who::Plane(launch) = who else { return Ok(Some(std::mem::take(&mut bench.recorded.limit))) };
    let (mut found, mut limit) = (Sample::default(), Sample::default());
    for (name, most, size) in KINDS {
        let (mut steady, mut wire) = (Vec::new(), Vec::new());
        for count in PARTS.map(|part| most / part) {
            let stage = Stage::start(bench, launch, Edge::new(size(count)), true).await?;
            let clients = Wants::clients(&stage.wants, &stage.target, GATEWAYS);
            clients.synced(SYNC).await?;
            sleep(SETTLE).await;
            let now = memory(stage.plane.pid())?;
            say(&format!("  {name}: {count}, RSS {:.1} MB", now.rss / 1e6));
            steady.push((count as f64, now.rss));
            wire.push((count as f64, clients.tally.bytes.get() as f64));
            clients.stop().await;
            stage.plane.stop().await;
        }
        found.add(name, slope(&steady) / 1024.0, "KiB");
        limit.add(name, slope(&wire) / 1024.0, "KiB");
    }
    bench.recorded.limit = limit;
    Ok(Some(found))
}
