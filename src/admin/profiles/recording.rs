//! What the process is busy with: its stacks, 100 times for each second of CPU.
//!
//! A timer of the process sends SIGPROF, and a handler writes down the stack of
//! whoever was interrupted. A handler may not allocate, wait for a lock or touch
//! memory that is not there, and this one is in a process that serves a mesh. So:
//!
//! - **Not libgcc's unwinder**, pprof-rs's default. It trusts what it reads: a
//!   stack that it misunderstands ends in a read of a wrong address, which has
//!   killed processes of many of its users, on amd64 and arm64, and with a list of
//!   libraries not to begin in as well.
//! - **Not frame pointers.** They are safe, as each address is asked of the kernel
//!   before it is read, but all that is compiled here would have to keep them, and
//!   the function that was interrupted is missing from its stack.
//! - **framehop**: it reads tables that are copied before the first sample, asks the
//!   kernel for each address as well, and knows the stacks of libc and OpenSSL,
//!   which keep no frame pointers. With pprof-rs 0.15 itself it would set itself
//!   up, with allocations, in the first signal; Grafana's fork, which has what
//!   was mended since, does that before, and leaves SIGPROF ignored at the end, so
//!   that a late one does not end the process.
//! - **No list of libraries** besides libgcc: with that list nothing would be seen
//!   of system calls, copies and cryptography. What is still called in libgcc is a
//!   look-up of a function's beginning; from glibc 2.35 and GCC 12 on (Debian 12)
//!   that takes no lock. Before, it must not interrupt itself, hence the entry.
//! - **Samples are kept in memory that is there**, and in a file of tmpfs if there
//!   are too many, as the container's own file system is read-only. The empty file
//!   stays when the process ends.
//!
//! On arm64 the fork begins at the address that the interrupted function returns to:
//! what is innermost is the caller's.
//!
//! The sampler keeps one address for each sequence of functions, so lines and
//! inlined functions would be those of whichever sample came first. It is read and
//! begun again once in a while: with many firsts they are as often right as the
//! samples are.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ffi::c_void;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, Instant, SystemTime};

use pprof::{ProfilerGuard, ProfilerGuardBuilder};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::{Semaphore, SemaphorePermit, TryAcquireError};

use super::format::{Frame, Sampled, Stack};

/// Samples for a second of CPU, as in Go.
const FREQUENCY: i32 = 100;
/// How long the sampler runs until it is read and begun again.
pub(super) const WINDOW: Duration = Duration::from_secs(2);
/// There is one timer for the process.
static TURN: Semaphore = Semaphore::const_new(1);
/// Memory in the form of files, also where the file system is read-only.
const MEMORY: &str = "/dev/shm";

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// Somebody else's is being taken.
    #[error("a CPU profile is being taken already")]
    Busy(#[from] TryAcquireError),
    /// Nothing can be written.
    #[error("cannot keep samples in {}: {source}", folder.display())]
    Folder {
        /// Where it was tried.
        folder: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The sampler could not be begun.
    #[error("cannot sample: {0}")]
    Begin(#[source] pprof::Error),
    /// The sampler could not be read.
    #[error("cannot read the samples: {0}")]
    Read(#[source] pprof::Error),
}

/// The right to take a profile, which one at a time has.
pub(super) fn turn() -> Result<SemaphorePermit<'static>, Error> {
    Ok(TURN.try_acquire()?)
}

/// A profile that is being taken. It ends when it is dropped: no timer and no
/// handler is left.
pub(super) struct Recording {
    sampler: ProfilerGuard<'static>,
    /// Addresses, the innermost first, by the name of the thread.
    seen: HashMap<(String, Vec<usize>), i64>,
    since: SystemTime,
    begun: Instant,
    used: Duration,
    names: LineTables,
    // Given back last.
    turn: SemaphorePermit<'static>,
}

impl Recording {
    /// Begins to sample. Blocks for some time, the first time for longer: tables
    /// are read.
    ///
    /// # Errors
    ///
    /// If there is no folder to write to, or the timer or the handler are refused.
    pub(super) fn begin(turn: SemaphorePermit<'static>) -> Result<Self, Error> {
        // Otherwise the sampler never works again.
        probe(&folder())?;
        // The sampler reads them, too.
        let names = LineTables;
        let sampler = sampler()?;
        Ok(Self {
            sampler,
            seen: HashMap::new(),
            since: SystemTime::now(),
            begun: Instant::now(),
            used: cpu_used(),
            names,
            turn,
        })
    }

    /// Takes over what was sampled, and goes on. Blocks for some milliseconds.
    ///
    /// # Errors
    ///
    /// If the samples cannot be read or the sampler does not begin again.
    pub(super) fn read(mut self) -> Result<Self, Error> {
        take(&self.sampler, &mut self.seen)?;
        let Self { sampler: before, seen, since, begun, used, names, turn } = self;
        // There is one only.
        drop(before);
        Ok(Self { sampler: sampler()?, seen, since, begun, used, names, turn })
    }

    /// Ends it. Blocks for as long as it takes to find the names of what was seen:
    /// a second of CPU or more.
    ///
    /// # Errors
    ///
    /// If the samples cannot be read.
    pub(super) fn end(mut self) -> Result<Sampled, Error> {
        take(&self.sampler, &mut self.seen)?;
        let Self { sampler, seen, since, begun, used, names: tables, turn } = self;
        let (duration, used) = (begun.elapsed(), cpu_used().saturating_sub(used));
        drop(sampler);
        let period = Duration::from_secs(1) / FREQUENCY.unsigned_abs();
        let count: i64 = seen.values().sum();
        let comment = format!(
            "fairway {}: the process used {:.2} s of CPU, of which {:.2} s were sampled",
            env!("CARGO_PKG_VERSION"),
            used.as_secs_f64(),
            count as f64 * period.as_secs_f64(),
        );
        let program = std::env::current_exe().unwrap_or_default().to_string_lossy().into_owned();
        let mut names = Names::new();
        let stacks = seen.into_iter().map(|((thread, addresses), count)| {
            let frames = names.stack(&addresses);
            Stack { thread, frames, count }
        });
        let stacks = stacks.collect();
        drop((tables, turn));
        Ok(Sampled { stacks, since, duration, program, period, comment })
    }
}

/// The line tables of the binary, in memory from the first look at them until this
/// is dropped.
struct LineTables;

impl Drop for LineTables {
    fn drop(&mut self) {
        backtrace::clear_symbol_cache();
    }
}

fn sampler() -> Result<ProfilerGuard<'static>, Error> {
    ProfilerGuardBuilder::default().frequency(FREQUENCY).blocklist(&["libgcc_s"]).build().map_err(Error::Begin)
}

/// Adds up what was sampled.
fn take(sampler: &ProfilerGuard<'_>, seen: &mut HashMap<(String, Vec<usize>), i64>) -> Result<(), Error> {
    let report = sampler.report().build_unresolved().map_err(Error::Read)?;
    for (sample, count) in report.data {
        let name = sample.thread_name.get(..sample.thread_name_length).unwrap_or_default();
        let thread = String::from_utf8_lossy(name).into_owned();
        let addresses = sample.frames.iter().map(|frame| frame.ip).collect();
        *seen.entry((thread, addresses)).or_default() += count as i64;
    }
    Ok(())
}

/// Where the sampler keeps what does not fit into its memory.
fn folder() -> PathBuf {
    static CHOSEN: Once = Once::new();
    CHOSEN.call_once(|| {
        let memory = Path::new(MEMORY);
        if memory.is_dir() && tempfile::env::override_temp_dir(memory).is_err() {
            tracing::debug!(folder = %tempfile::env::temp_dir().display(), "temporary files have a folder already");
        }
    });
    tempfile::env::temp_dir()
}

fn probe(folder: &Path) -> Result<(), Error> {
    match tempfile::NamedTempFile::new_in(folder) {
        Ok(_) => Ok(()),
        Err(source) => Err(Error::Folder { folder: folder.into(), source }),
    }
}

fn cpu_used() -> Duration {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(used.tv_sec.try_into().unwrap_or(0), used.tv_nsec.try_into().unwrap_or(0))
}

/// The names of addresses in this process.
struct Names {
    /// Code, and the file it is from.
    objects: Vec<(Range<usize>, String)>,
    known: HashMap<usize, Vec<Frame>>,
}

impl Names {
    fn new() -> Self {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        Self { objects: maps.lines().filter_map(object).collect(), known: HashMap::new() }
    }

    /// What was called, the innermost first. It ends at an address without code:
    /// the rest is not a stack.
    fn stack(&mut self, addresses: &[usize]) -> Vec<Frame> {
        let mut frames = Vec::new();
        for (depth, address) in addresses.iter().enumerate() {
            let Some((_, object)) = self.objects.iter().find(|(range, _)| range.contains(address)) else { break };
            // What is looked up is taken for where a call returns to, which may be in
            // the next function already. The innermost is the instruction itself.
            let address = address + usize::from(depth == 0);
            frames.extend_from_slice(self.known.entry(address).or_insert_with(|| functions(address, object)));
        }
        if frames.is_empty() {
            frames.push(Frame { name: "[unknown]".into(), linked: "[unknown]".into(), ..Frame::default() });
        }
        frames
    }
}

/// A line of `/proc/self/maps` that is about code.
fn object(line: &str) -> Option<(Range<usize>, String)> {
    let mut parts = line.split_ascii_whitespace();
    let (range, rights) = (parts.next()?, parts.next()?);
    let (start, end) = range.split_once('-')?;
    let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
    let path = parts.nth(3)?;
    rights.contains('x').then(|| (range, path.rsplit('/').next().unwrap_or(path).to_string()))
}

/// The functions at an address: those that are inlined there, and the one that
/// they are in.
fn functions(address: usize, object: &str) -> Vec<Frame> {
    let mut frames = Vec::new();
    backtrace::resolve(address as *mut c_void, |symbol| {
        let Some(name) = symbol.name() else { return };
        let file = symbol.filename().map(|file| file.to_string_lossy().into_owned()).unwrap_or_default();
        frames.push(Frame {
            // Without the hash.
            name: with_module(format!("{name:#}"), &file),
            linked: String::from_utf8_lossy(name.as_bytes()).into_owned(),
            line: symbol.lineno().unwrap_or(0).into(),
            file,
        });
    });
    if frames.is_empty() {
        // A library without symbols: which one it is, is much already.
        let name = format!("[{}]", object.trim_matches(['[', ']']));
        frames.push(Frame { name: name.clone(), linked: name, ..Frame::default() });
    }
    frames
}

/// The name of a function with its module. Debug information has only the last part
/// of most names, with the types that it is for, and half of all functions are called
/// `poll`; where they are is said by the file.
fn with_module(name: String, file: &str) -> String {
    let own = file.strip_prefix(concat!(env!("CARGO_MANIFEST_DIR"), "/src/")).map(|rest| ("fairway", rest));
    let module = own.or_else(|| {
        let (package, rest) = file.rsplit_once("/src/")?;
        let package = package.rsplit('/').next()?;
        // A package of a registry has its version in the name of its folder.
        let mut dashes = package.match_indices('-').map(|(at, _)| at);
        let end = dashes.find(|at| package[at + 1..].starts_with(|c: char| c.is_ascii_digit()));
        Some((&package[..end.unwrap_or(package.len())], rest))
    });
    // Types are in angle brackets; those of `<A as B>::c` are the place.
    let head = name.split_once('<').map_or(name.as_str(), |(head, _)| head);
    match module {
        Some((package, rest)) if !head.is_empty() && !head.contains("::") => {
            let package = package.replace('-', "_");
            let rest = rest.strip_suffix(".rs").unwrap_or(rest);
            let parts = rest.split('/').filter(|part| !["lib", "mod", ""].contains(part));
            std::iter::once(package.as_str()).chain(parts).chain([head]).collect::<Vec<_>>().join("::")
        }
        _ => name,
    }
}
