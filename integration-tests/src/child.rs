//! Processes that end with the test that started them.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use crate::runner;

/// How long a process may take to end when asked to.
const STOP: Duration = Duration::from_secs(15);

/// A child process and the file with what it printed.
pub struct Child {
    name: String,
    process: Mutex<std::process::Child>,
    log: PathBuf,
}

impl Child {
    /// Starts a process. Its output is appended to a log, which is shown if
    /// the test fails.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Self {
        let file = std::fs::File::options().create(true).append(true).open(log).unwrap();
        let process = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            // Ctrl-C in a terminal is for the tests, which end their children
            // in order.
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} did not start: {error}"));
        Self { name: name.into(), process: Mutex::new(process), log: log.into() }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.lock().unwrap().id()
    }

    /// The file it prints to.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Everything it printed.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.process.lock().unwrap().try_wait().unwrap()
    }

    /// Panics if it has ended.
    pub fn assert_running(&self) {
        if let Some(status) = self.ended() {
            panic!("{} ended, {status}:\n{}", self.name, runner::tail(&self.log, 30));
        }
    }

    /// Sends a signal, such as `TERM`.
    pub fn signal(&self, signal: &str) {
        let mut process = self.process.lock().unwrap();
        // A process that was waited for may have left its id to another.
        if process.try_wait().unwrap().is_none() {
            let kill = Command::new("kill").args(["-s", signal, &process.id().to_string()]).status();
            assert!(kill.is_ok_and(|status| status.success()), "cannot signal {}", self.name);
        }
    }

    /// Waits for its end.
    pub async fn wait(&self) -> ExitStatus {
        let deadline = Instant::now() + STOP;
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(Instant::now() < deadline, "{} did not end within {STOP:?}", self.name);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asks it to end and waits.
    pub async fn terminate(&self) -> ExitStatus {
        self.signal("TERM");
        self.wait().await
    }

    /// Ends it at once.
    pub async fn kill(&self) -> ExitStatus {
        self.signal("KILL");
        self.wait().await
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let process = self.process.get_mut().unwrap();
        if matches!(process.try_wait(), Ok(None)) {
            // It is ours, and cannot have ended without our knowing.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Whether a process ended by itself with this code.
pub fn exited_with(status: ExitStatus, code: i32) -> bool {
    status.code() == Some(code) && status.signal().is_none()
}

/// A loopback address that nothing listens on. Ports come from below the
/// range of outgoing connections, and none is handed out twice.
pub fn free_address() -> SocketAddr {
    const FIRST: u16 = 11_000;
    const LAST: u16 = 31_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Tests that run at the same time start at different places.
    let _ = NEXT.compare_exchange(
        0,
        FIRST + (std::process::id() % u32::from(LAST - FIRST)) as u16,
        Ordering::Relaxed,
        Ordering::Relaxed,
    );
    loop {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        if port >= LAST {
            NEXT.store(FIRST, Ordering::Relaxed);
            continue;
        }
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}
