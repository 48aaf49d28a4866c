//! What is going on, on stderr: a bar on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// How wide a bar is.
const WIDTH: usize = 30;
/// How often it is drawn.
const EVERY: Duration = Duration::from_millis(100);

/// Says something.
pub fn say(text: &str) {
    eprintln!("{} {text}", jiff::Timestamp::now().strftime("%H:%M:%S"));
}

/// A long step.
pub struct Progress {
    what: String,
    total: usize,
    terminal: bool,
    drawn: Option<Instant>,
}

impl Progress {
    /// A step that begins, and how much there is to do.
    pub fn start(what: impl Into<String>, total: usize) -> Self {
        let (what, terminal) = (what.into(), std::io::stderr().is_terminal());
        if !terminal {
            say(&format!("  {what} ({total})"));
        }
        Self { what, total, terminal, drawn: None }
    }

    /// How much is done.
    pub fn at(&mut self, done: usize) {
        if !self.terminal || (done < self.total && self.drawn.is_some_and(|drawn| drawn.elapsed() < EVERY)) {
            return;
        }
        self.drawn = Some(Instant::now());
        let mut stderr = std::io::stderr().lock();
        // A terminal that is gone is no reason to stop measuring.
        let _ = write!(stderr, "\r  {} {} {done}/{}\x1b[K", bar(done, self.total), self.what, self.total);
        let _ = stderr.flush();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal && self.drawn.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

fn bar(done: usize, total: usize) -> String {
    let full = (done * WIDTH).checked_div(total).unwrap_or(WIDTH).min(WIDTH);
    format!("[{}{}]", "#".repeat(full), ".".repeat(WIDTH - full))
}

#[cfg(test)]
mod tests;
