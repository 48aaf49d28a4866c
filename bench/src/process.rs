//! What processes cost, from `/proc`.

use std::collections::HashMap;
use std::fs::read_to_string;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;

/// The kernel's ticks per second, which are the same on all architectures we
/// know.
const TICKS: f64 = 100.0;

/// The kernel counts a tick late, and threads at different times.
const COARSE: Duration = Duration::from_millis(20);

/// The CPU time of a process: what its threads say, to the nanosecond, and what
/// those had used that ended before they were asked, which the process knows in
/// ticks only.
pub struct Meter {
    pid: u32,
    threads: HashMap<String, u64>,
    ended: Duration,
}

impl Meter {
    /// A meter for a process, or for this one.
    pub fn new(pid: u32) -> Self {
        Self { pid, threads: HashMap::new(), ended: Duration::ZERO }
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
        // Only threads that were never seen can make this differ by more than
        // ticks do; what they used is not to be lost, nor counted in ticks from
        // then on.
        let all = Duration::from_secs_f64(ticks(&self.pid.to_string(), 2));
        if all > threads + self.ended + COARSE {
            self.ended = all - threads;
        }
        Ok(threads + self.ended)
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
    /// started count as its own, whether they have ended or not.
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

/// CPU seconds of this process, of those it has waited for, and of those it
/// has started that still run.
fn own() -> f64 {
    let own = std::process::id().to_string();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let names = processes.map(|process| process.file_name().to_string_lossy().into_owned());
    let children = names.filter(|name| fields(name).get(1).is_some_and(|parent| *parent == own));
    ticks("self", 4) + children.map(|child| ticks(&child, 4)).sum::<f64>()
}

/// CPU seconds of a process: user and system, and as many of its children.
fn ticks(pid: &str, count: usize) -> f64 {
    let fields = fields(pid);
    fields.iter().skip(11).take(count).filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / TICKS
}

/// What the kernel says of a process, from its state and its parent on.
fn fields(pid: &str) -> Vec<String> {
    let text = read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may contain spaces.
    let after = text.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    after.split_whitespace().map(Into::into).collect()
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
