//! What processes cost, from `/proc`.

use std::collections::HashMap;
use std::fs::read_to_string;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;

/// The kernel's ticks per second, which are the same on all architectures we
/// know.
const TICKS: f64 = 100.0;

/// The CPU time of a process: what its threads say, to the nanosecond, or the
/// sum that the process says, in ticks, which has the threads that have ended.
/// Both are at most the truth, so the larger one counts.
pub struct Meter {
    pid: u32,
    threads: HashMap<String, u64>,
}

impl Meter {
    /// A meter for a process, or for this one.
    pub fn new(pid: u32) -> Self {
        Self { pid, threads: HashMap::new() }
    }

    /// What the process has used so far.
    pub fn read(&mut self) -> anyhow::Result<Duration> {
        let folder = PathBuf::from(format!("/proc/{}/task", self.pid));
        for thread in std::fs::read_dir(&folder).with_context(|| format!("process {} is gone", self.pid))? {
            let thread = thread?;
            // The thread may have ended meanwhile.
            let Ok(text) = read_to_string(thread.path().join("schedstat")) else { continue };
            let used = text.split_whitespace().next().and_then(|field| field.parse().ok()).unwrap_or(0);
            self.threads.insert(thread.file_name().to_string_lossy().into_owned(), used);
        }
        let threads = Duration::from_nanos(self.threads.values().sum());
        Ok(threads.max(Duration::from_secs_f64(ticks(&self.pid.to_string(), 2))))
    }
}

/// Bytes that a process occupies.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Resident set size.
    pub rss: f64,
    /// Its share of what it shares with others counted once.
    pub pss: f64,
    /// The largest resident set size since the last reset.
    pub peak: f64,
}

/// The memory of a process.
pub fn memory(pid: u32) -> anyhow::Result<Memory> {
    let status = read_to_string(format!("/proc/{pid}/status"))?;
    let rollup = read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let field = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        kilobytes.map(|value| value * 1024.0).with_context(|| format!("no {name} of process {pid}"))
    };
    Ok(Memory { rss: field(&status, "VmRSS")?, pss: field(&rollup, "Pss")?, peak: field(&status, "VmHWM")? })
}

/// Makes the present size the peak.
pub fn reset_peak(pid: u32) -> anyhow::Result<()> {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").with_context(|| format!("cannot reset peak of {pid}"))
}

/// How busy the machine is with other things.
pub struct Neighbours {
    since: std::time::Instant,
    busy: f64,
    own: f64,
}

impl Neighbours {
    /// Begins to look.
    pub fn watch() -> Self {
        Self { since: std::time::Instant::now(), busy: machine(), own: own() }
    }

    /// How many cores were used by others since. Processes that this one
    /// started count as its own, once they have ended.
    pub fn cores(&self) -> f64 {
        let used = (machine() - self.busy) - (own() - self.own);
        (used / self.since.elapsed().as_secs_f64()).max(0.0)
    }
}

/// CPU seconds that were not idle.
fn machine() -> f64 {
    let text = read_to_string("/proc/stat").unwrap_or_default();
    let fields = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
    // Fields 3 and 4 are idle and waiting; guests are counted as users already.
    let busy = fields.take(8).enumerate().filter(|(at, _)| !matches!(at, 3 | 4));
    busy.filter_map(|(_, field)| field.parse::<f64>().ok()).sum::<f64>() / TICKS
}

/// CPU seconds of this process and of those it has waited for.
fn own() -> f64 {
    ticks("self", 4)
}

/// CPU seconds of a process: user and system, and as many of its children.
fn ticks(pid: &str, fields: usize) -> f64 {
    let text = read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may contain spaces.
    let after = text.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default().split_whitespace();
    after.skip(11).take(fields).filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / TICKS
}

/// The load averages.
pub fn load() -> String {
    let text = read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// The model of the processor.
pub fn model() -> String {
    let text = read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    line.map_or_else(|| "unknown".into(), |(_, name)| name.trim().to_string())
}
