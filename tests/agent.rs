//! The agent as a process, with a shell script in Envoy's place and no control
//! plane: how both end.
#![allow(clippy::unwrap_used, reason = "whatever fails here fails a test")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One at a time: a script that another thread's child still has open for
/// writing cannot be run.
static ONE: Mutex<()> = Mutex::new(());

/// An agent, which is killed when a test fails.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(folder: &Path, script: &str) -> Agent {
    let envoy = folder.join("envoy");
    std::fs::write(&envoy, format!("#!/bin/sh\ncd {}\n{script}\n", folder.display())).unwrap();
    std::fs::set_permissions(&envoy, std::fs::Permissions::from_mode(0o755)).unwrap();
    let log = std::fs::File::create(folder.join("log")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_fairway"));
    command.args(["agent", "proxy", "waypoint", "--listenAddress", "127.0.0.1", "--someFlagOfPilotAgent", "x"]);
    for port in ["--adminPort", "--statusPort", "--envoyStatusPort", "--envoyPrometheusPort"] {
        command.args([port, "auto"]);
    }
    command.arg("--configPath").arg(folder.join("proxy")).arg("--binaryPath").arg(&envoy);
    command.env("PROXY_CONFIG", "{discoveryAddress: '127.0.0.1:1', terminationDrainDuration: 100ms}");
    command.env("INSTANCE_IP", "127.0.0.1").stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    Agent(command.spawn().unwrap())
}

#[track_caller]
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{what} does not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[track_caller]
fn ended(agent: &mut Agent) -> ExitStatus {
    until("the agent's end", || agent.0.try_wait().unwrap())
}

/// The process id that a script wrote.
#[track_caller]
fn pid(folder: &Path) -> u32 {
    until("the script", || std::fs::read_to_string(folder.join("pid")).ok()?.trim().parse().ok())
}

fn runs(pid: u32) -> bool {
    // A process that nobody has waited for yet is dead all the same.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_crash_of_envoy_is_the_agents() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let mut agent = start(folder.path(), "exit 7");
    assert_eq!(ended(&mut agent).code(), Some(7));
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(log.contains("someFlagOfPilotAgent") && log.contains("Envoy ended"), "{log}");
}

#[test]
fn a_signal_ends_envoy_and_then_the_agent() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let script = "trap 'touch asked; exit 3' TERM; echo $$ > pid; while :; do sleep 0.05; done";
    let mut agent = start(folder.path(), script);
    let envoy = pid(folder.path());
    let signalled = Command::new("kill").args(["-s", "TERM", &agent.0.id().to_string()]).status().unwrap();
    assert!(signalled.success());
    assert_eq!(ended(&mut agent).code(), Some(0));
    assert!(folder.path().join("asked").exists() && !runs(envoy));
}

#[test]
fn an_agent_that_is_killed_leaves_no_envoy() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let mut agent = start(folder.path(), "trap '' TERM; echo $$ > pid; while :; do sleep 0.05; done");
    let envoy = pid(folder.path());
    assert!(runs(envoy));
    agent.0.kill().unwrap();
    until("Envoy's end", || (!runs(envoy)).then_some(()));
}
