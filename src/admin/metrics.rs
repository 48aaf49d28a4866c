//! Metrics of the process as a whole and of the graph. Modules that serve
//! something register their own.

mod process;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::api::Kind;
use crate::source::Problems;
use crate::writer::Published;
use crate::writer::counts::{Counts, EVENTS, Reader, Trigger};
use crate::xds::resource::ResourceType;
use process::Began;

/// Registers what is read from elsewhere whenever metrics are asked for.
pub fn register(registry: &mut Registry, published: Published, problems: Problems) {
    registry.register_collector(Box::new(Process { began: Began::now(), published, problems }));
}

struct Process {
    began: Began,
    published: Published,
    problems: Problems,
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Process")
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let version = concat!(env!("CARGO_PKG_VERSION"), "-fairway");
        let labels = [("component", "pilot"), ("tag", version)];
        let mut build =
            encoder.encode_descriptor("istio_build", "Istio component build info", None, MetricType::Gauge)?;
        ConstGauge::new(1i64).encode(build.encode_family(&labels)?)?;
        let labels = [("version", version)];
        let mut info =
            encoder.encode_descriptor("pilot_info", "Pilot version and build information", None, MetricType::Gauge)?;
        ConstGauge::new(1i64).encode(info.encode_family(&labels)?)?;
        gauge(
            &mut encoder,
            "istiod_uptime_seconds",
            "Current istiod server uptime in seconds",
            self.began.uptime().as_secs_f64(),
        )?;
        self.began.encode(&mut encoder)?;
        changes(&mut encoder, &self.published.counts)?;

        let views = self.published.views.borrow().clone();
        let workloads = views.addresses.count(ResourceType::Workload);
        gauge(&mut encoder, "fairway_workloads", "Workloads in the address table", workloads as f64)?;
        let services = views.addresses.len() - workloads;
        gauge(&mut encoder, "pilot_services", "Total services known to pilot", services as f64)?;
        gauge(&mut encoder, "fairway_policies", "Policies sent to ztunnels", views.authorizations.len() as f64)?;
        gauge(
            &mut encoder,
            "fairway_source_problems",
            "Objects and watches that cannot be read",
            self.problems.list().len() as f64,
        )?;
        gauge(&mut encoder, "fairway_revision", "Commits that changed something", views.revision as f64)?;

        let stats = self.published.stats.load_full();
        let mut rows = encoder.encode_descriptor("rows", "Rows of a collection", None, MetricType::Gauge)?;
        for one in stats.iter() {
            ConstGauge::new(one.rows as i64).encode(rows.encode_family(&[("collection", one.name)])?)?;
        }
        // Counters by nature; as such their names would end in `_total`.
        let help = "Rows of a collection that were computed";
        let mut recomputed = encoder.encode_descriptor("rows_recomputed", help, None, MetricType::Gauge)?;
        for one in stats.iter() {
            ConstGauge::new(one.recomputed as i64).encode(recomputed.encode_family(&[("collection", one.name)])?)?;
        }
        let help = "Time spent bringing a collection up to date";
        let mut seconds = encoder.encode_descriptor("commit_seconds", help, None, MetricType::Gauge)?;
        for one in stats.iter() {
            ConstGauge::new(one.commit.as_secs_f64()).encode(seconds.encode_family(&[("collection", one.name)])?)?;
        }
        let help = "Transforms that panicked; their rows were kept";
        let mut panics = encoder.encode_descriptor("transform_panics", help, None, MetricType::Gauge)?;
        for one in stats.iter() {
            ConstGauge::new(one.panics as i64).encode(panics.encode_family(&[("collection", one.name)])?)?;
        }
        Ok(())
    }
}

/// What sources told, and what of it proxies were told. All of it is there from
/// the beginning, since a rate needs a number before the first change.
fn changes(encoder: &mut DescriptorEncoder<'_>, counts: &Counts) -> Result<(), std::fmt::Error> {
    let (mut registry, mut configuration) = (BTreeMap::new(), BTreeMap::new());
    for kind in Kind::ALL {
        let (table, name) = match Reader::of(*kind) {
            Reader::Registry(name) => (&mut registry, name),
            Reader::Configuration(name) => (&mut configuration, name),
            Reader::None => continue,
        };
        let sums: &mut [u64; EVENTS.len()] = table.entry(name).or_default();
        sums.iter_mut().zip(counts.objects(*kind)).for_each(|(sum, count)| *sum += count);
    }
    for (metric, help, table) in [
        ("pilot_k8s_reg_events", "Events from k8s registry", registry),
        ("pilot_k8s_cfg_events", "Events from k8s config", configuration),
    ] {
        let mut family = encoder.encode_descriptor(metric, help, None, MetricType::Gauge)?;
        for (name, sums) in table {
            for (event, sum) in EVENTS.into_iter().zip(sums) {
                let labels = [("type", name), ("event", event)];
                ConstGauge::new(sum as i64).encode(family.encode_family(&labels)?)?;
            }
        }
    }
    let help = "Total number of times a push was triggered, labeled by reason for the push";
    let mut family = encoder.encode_descriptor("pilot_push_triggers", help, None, MetricType::Gauge)?;
    for trigger in Trigger::ALL {
        let labels = [("type", trigger.label())];
        ConstGauge::new(counts.triggers(trigger) as i64).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> Result<(), std::fmt::Error> {
    ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
}
