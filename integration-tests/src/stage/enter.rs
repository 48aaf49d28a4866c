//! Namespaces of the tests' own: of the network, so that nothing leaves the
//! machine and addresses and ports are free; of mounts; and of processes, so
//! that nothing outlives the tests, however they end.
//!
//! A program enters them by running itself again. It takes root, or a kernel
//! that lets others have namespaces of users.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, Stdio};

use tokio::signal::unix::{SignalKind, signal};

/// Says which process started the tests.
pub(crate) const RUN: &str = "FAIRWAY_TESTS_RUN";
/// Says that it is done, or why it cannot be.
const ENTERED: &str = "FAIRWAY_STAGE";

/// In the order in which they are tried.
const WAYS: [&[&str]; 2] = [&[], &["--user", "--map-root-user"]];
const NAMESPACES: [&str; 6] = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];

/// Runs a program in namespaces of its own, or as it is if there can be none:
/// then a stage says so and does not start. To be called before anything else.
pub fn enter(program: impl FnOnce() -> ExitCode) -> ExitCode {
    if let Some(code) = super::image::run_if_asked() {
        return code;
    }
    match std::env::var(ENTERED) {
        Ok(_) => program(),
        Err(_) => match WAYS.into_iter().find(|way| command(way).arg("true").status().is_ok_and(|it| it.success())) {
            Some(way) => again(way),
            None => {
                eprintln!("no namespaces here: a stage cannot be started");
                program()
            }
        },
    }
}

/// Panics outside of the namespaces.
pub(super) fn assert_entered() {
    assert!(
        std::env::var_os(ENTERED).is_some(),
        "a stage needs namespaces of the network, of mounts and of processes, which only root can make here, and a \
         program that was started through stage::enter"
    );
}

fn command(way: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(way).args(NAMESPACES).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn again(way: &[&str]) -> ExitCode {
    // Should this process be killed, so are the others.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare"]).args(way).args(NAMESPACES);
    command.args(["sh", "-c", "ip link set lo up && exec \"$0\" \"$@\""]);
    command.arg(std::env::current_exe().expect("this program is a file")).args(std::env::args_os().skip(1));
    command.env(ENTERED, "1").env(RUN, std::process::id().to_string());
    // Whoever is not root outside may not look where the tools of root are.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let status = runtime.block_on(async {
        let mut child = tokio::process::Command::from(command).spawn().expect("setpriv and unshare were just there");
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate()).unwrap(), signal(SignalKind::interrupt()).unwrap());
        loop {
            let name = tokio::select! {
                status = child.wait() => return status.unwrap(),
                _ = terminate.recv() => "TERM",
                _ = interrupt.recv() => "INT",
            };
            // unshare itself takes no signals while it waits.
            for process in child.id().into_iter().flat_map(children) {
                let _ = Command::new("kill").args(["-s", name, &process.to_string()]).status();
            }
        }
    });
    match (status.code(), status.signal()) {
        (Some(code), _) => ExitCode::from(code as u8),
        (None, signal) => ExitCode::from(128 + signal.unwrap_or_default() as u8),
    }
}

/// A program of shell that runs a command in the namespaces, from outside.
pub fn from_outside(command: &str) -> String {
    let run = std::env::var(RUN).unwrap_or_default();
    // Their first process is a child of unshare, and that one of who started.
    format!(
        "#!/bin/sh\nprocess=$(pgrep -P \"$(pgrep -P {run})\")\nexec nsenter --target \"$process\" --net --mount --pid -- {command} \"$@\"\n"
    )
}

/// The processes that a process has started.
pub(super) fn children(process: u32) -> Vec<u32> {
    let list = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}
