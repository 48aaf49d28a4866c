//! What Prometheus' client libraries tell of every process, as far as the system
//! tells it: what `/proc` does not say is left out.
//! <https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>

use std::fmt::Error;
use std::fs;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::gauge;

/// When the process began.
pub(super) struct Began {
    at: Instant,
    since_1970: Duration,
}

impl Began {
    /// It has just begun.
    pub(super) fn now() -> Self {
        Self { at: Instant::now(), since_1970: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() }
    }

    /// How long it runs.
    pub(super) fn uptime(&self) -> Duration {
        self.at.elapsed()
    }

    /// Writes the metrics.
    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let spent = clock_gettime(ClockId::ProcessCPUTime);
        let seconds = spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9;
        let help = "Total user and system CPU time spent in seconds";
        ConstCounter::new(seconds).encode(encoder.encode_descriptor(
            "process_cpu_seconds",
            help,
            None,
            MetricType::Counter,
        )?)?;
        let help = "Start time of the process since unix epoch in seconds";
        gauge(encoder, "process_start_time_seconds", help, self.since_1970.as_secs_f64())?;
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        if let Some(bytes) = size(&status, "VmRSS:") {
            gauge(encoder, "process_resident_memory_bytes", "Resident memory size in bytes", bytes)?;
        }
        if let Some(bytes) = size(&status, "VmSize:") {
            gauge(encoder, "process_virtual_memory_bytes", "Virtual memory size in bytes", bytes)?;
        }
        if let Ok(files) = fs::read_dir("/proc/self/fd") {
            // One of them is the folder, open to be counted.
            let open = files.count().saturating_sub(1);
            gauge(encoder, "process_open_fds", "Number of open file descriptors", open as f64)?;
        }
        if let Some(most) = getrlimit(Resource::Nofile).current {
            gauge(encoder, "process_max_fds", "Maximum number of open file descriptors", most as f64)?;
        }
        Ok(())
    }
}

/// A size that the status of a process has, in bytes.
fn size(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024.0)
}
