//! How far apart commits are.
//!
//! What one commit costs is mostly what follows from it: a message to each
//! client. With few of them that is nothing, and a change should not wait. With
//! a thousand, two commits cost twice what one of both changes does. So commits
//! are as far apart as leaves half of the machine to others, and at most a fixed
//! window.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// When a commit is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// At once after a quiet moment, else at most once in this time, and sooner
    /// while commits cost little.
    Window(Duration),
    /// When nothing has come for `quiet`, or after `most`: istiod's debounce,
    /// for those who set it.
    Debounce {
        /// The quiet time.
        quiet: Duration,
        /// The longest wait.
        most: Duration,
    },
}

/// Of the machine's time, so many times what commits cost goes by from one to
/// the next.
const SPARE: u32 = 2;

/// What commits cost, with all that follows from them: the CPU that this process
/// uses from one to the next. Signing and answering are in it too; while there
/// is much of that, changes should wait as well.
pub(super) struct Cost {
    cores: u32,
    /// The last commit, and the CPU that had been used when it began.
    last: Option<(Instant, Duration)>,
    /// Of one commit, as of late.
    each: Option<Duration>,
}

impl Cost {
    pub(super) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get().try_into().unwrap_or(1));
        Self { cores, last: None, each: None }
    }

    /// Notes that a commit begins.
    pub(super) fn begin(&mut self) {
        let used = clock_gettime(ClockId::ProcessCPUTime);
        let used = Duration::new(used.tv_sec.try_into().unwrap_or(0), used.tv_nsec.try_into().unwrap_or(0));
        self.note(Instant::now(), used);
    }

    fn note(&mut self, now: Instant, used: Duration) {
        if let Some((_, before)) = self.last {
            let spent = used.saturating_sub(before);
            // A commit that costs much is followed by a change that is seen late,
            // not by many that wait.
            self.each = Some(self.each.map_or(spent, |each| (each * 3 + spent) / 4));
        }
        self.last = Some((now, used));
    }

    /// How long after a commit the next is made at the earliest.
    pub(super) fn apart(&self, window: Duration) -> Duration {
        self.each.map_or(window, |each| (each * SPARE / self.cores).min(window))
    }
}

#[cfg(test)]
mod tests;
