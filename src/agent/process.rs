//! Envoy as a child process that cannot be left behind.
//!
//! The agent does not start Envoy itself but this program, which asks the
//! kernel for a signal at its parent's death and then becomes Envoy. The
//! request stays in force when a program is replaced by another, so even an
//! agent that is killed leaves no Envoy that nobody renews certificates for.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};

use crate::config::agent::ExecProxy;

/// How Envoy is run.
#[derive(Clone, Debug)]
pub struct Envoy {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// The program that becomes Envoy; without one, Envoy is started as it is.
    pub launcher: Option<PathBuf>,
}

/// What arguments are made of.
#[derive(Clone, Debug)]
pub struct Arguments {
    /// The bootstrap.
    pub bootstrap: PathBuf,
    /// A text that is merged into it.
    pub bootstrap_override: Option<String>,
    /// `--proxyLogLevel`.
    pub log_level: String,
    /// `--proxyComponentLogLevel`.
    pub component_log_level: String,
    /// Worker threads, unless Envoy is to choose.
    pub concurrency: Option<u32>,
    /// Over which time connections are drained.
    pub drain: Duration,
    /// Whether the proxy only has IPv6.
    pub ipv6: bool,
    /// How often access logs are written.
    pub file_flush_interval: Duration,
    /// How much of an access log is written at once, if it is said.
    pub file_flush_min_size_kb: u32,
}

impl Arguments {
    /// Envoy's command line.
    pub fn command_line(&self) -> Vec<String> {
        let (level, components) = log_levels(&self.log_level, &self.component_log_level);
        let mut line: Vec<String> = vec![
            "-c".into(),
            self.bootstrap.display().to_string(),
            "--drain-time-s".into(),
            self.drain.as_secs().to_string(),
            // Clients are told as soon as the drain begins.
            "--drain-strategy".into(),
            "immediate".into(),
            "--local-address-ip-version".into(),
            if self.ipv6 { "v6" } else { "v4" }.into(),
            "--file-flush-interval-msec".into(),
            self.file_flush_interval.as_millis().to_string(),
            "--disable-hot-restart".into(),
            "--allow-unknown-static-fields".into(),
            "--skip-deprecated-logs".into(),
        ];
        let mut option = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                line.extend([name.to_string(), value]);
            }
        };
        option("-l", Some(level).filter(|level| !level.is_empty()));
        option("--component-log-level", Some(components).filter(|levels| !levels.is_empty()));
        option("--concurrency", self.concurrency.filter(|threads| *threads > 0).map(|threads| threads.to_string()));
        let size = self.file_flush_min_size_kb;
        option("--file-flush-min-size-kb", (size > 0).then(|| size.to_string()));
        option("--config-yaml", self.bootstrap_override.clone());
        line
    }
}

/// `info,upstream:debug` is Istio's way to write what are two options of
/// Envoy. Scopes there beat the older flag.
fn log_levels(levels: &str, components: &str) -> (String, String) {
    let parts = levels.split(',').map(str::trim).filter(|part| !part.is_empty());
    let (scoped, plain): (Vec<_>, Vec<_>) = parts.partition(|part| part.contains(':'));
    let components = if scoped.is_empty() { components.to_string() } else { scoped.join(",") };
    (plain.last().copied().unwrap_or_default().to_string(), components)
}

impl Envoy {
    /// Starts it. It ends with what is returned, and with the thread that
    /// calls, which therefore must be the main one.
    pub fn start(&self) -> anyhow::Result<Running> {
        let mut command = match &self.launcher {
            Some(launcher) => {
                let mut command = Command::new(launcher);
                command.arg("exec-proxy").arg(std::process::id().to_string()).arg("--").arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        // A group of its own: Ctrl-C in a terminal is for the agent, which
        // drains first.
        let child = command.args(&self.arguments).process_group(0).kill_on_drop(true).spawn();
        let child = child.with_context(|| format!("cannot start {}", self.program.display()))?;
        Ok(Running { child })
    }
}

/// An Envoy that runs.
pub struct Running {
    child: Child,
}

impl Running {
    /// Its process id, until it was seen to end.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        self.child.wait().await.context("cannot wait for Envoy")
    }

    /// Asks it to end, and ends it if it has not after some time.
    pub async fn stop(&mut self, kill_after: Duration) -> anyhow::Result<ExitStatus> {
        // An id that was waited for may be another's, but it is not told then.
        let pid = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(pid) = pid {
            rustix::process::kill_process(pid, Signal::TERM).context("cannot signal Envoy")?;
        }
        match tokio::time::timeout(kill_after, self.ended()).await {
            Ok(ended) => ended,
            Err(_) => {
                tracing::warn!(after = ?kill_after, "Envoy does not end, and is killed");
                self.child.start_kill().context("cannot kill Envoy")?;
                self.ended().await
            }
        }
    }
}

/// The exit code of a process that does what another did, as shells have it.
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// Replaces this process by Envoy, which then ends with the agent. Returns
/// only if that fails.
pub fn become_proxy(arguments: &ExecProxy) -> anyhow::Error {
    let become_it = || -> anyhow::Result<()> {
        let Some((program, arguments_of_it)) = arguments.command.split_first() else { bail!("nothing to run") };
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
            .context("cannot ask to end with the agent")?;
        // It may have died before the request; then nobody would be told.
        if std::os::unix::process::parent_id() != arguments.parent {
            bail!("the agent has ended");
        }
        let error = std::process::Command::new(program).args(arguments_of_it).exec();
        Err(error).with_context(|| format!("cannot run {program}"))
    };
    become_it().err().unwrap_or_else(|| anyhow::anyhow!("nothing was run"))
}
