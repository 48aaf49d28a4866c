//! How Envoy is started and ended. Its part is played by shell scripts.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::status::{Admin, serve};
use crate::agent::drain::{Drain, Until, connections, end};
use crate::agent::node::Role;
use crate::agent::process::{Arguments, Envoy, Running, exit_code};

/// Starts a script, and waits until it has said that it runs.
async fn start(folder: &Path, script: &str) -> Running {
    let program = folder.join("envoy");
    let running = folder.join("running");
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    // Through the shell: a file that was just written can still be open for
    // writing in a child of another test, and is not run then.
    let arguments = vec![program.display().to_string(), running.display().to_string()];
    let envoy = Envoy { program: "/bin/sh".into(), arguments, launcher: None };
    let started = envoy.start().unwrap();
    while script.contains("$1") && !running.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    started
}

const OBEYS: &str = "trap 'exit 0' TERM; touch $1; while :; do sleep 0.05; done";
const IGNORES: &str = "trap '' TERM; touch $1; while :; do sleep 0.05; done";
const MILLISECOND: Duration = Duration::from_millis(1);

fn drain(role: Role, admin: std::net::SocketAddr, until: Until) -> Drain {
    Drain { role, admin, until, kill_after: Duration::from_secs(10), own_ports: [15021, 15090] }
}

#[tokio::test]
async fn an_end_is_asked_for_and_then_forced() {
    let folder = tempfile::tempdir().unwrap();
    let mut obeys = start(folder.path(), OBEYS).await;
    assert_eq!(exit_code(obeys.stop(Duration::from_secs(10)).await.unwrap()), 0);
    let folder = tempfile::tempdir().unwrap();
    let mut ignores = start(folder.path(), IGNORES).await;
    assert_eq!(exit_code(ignores.stop(100 * MILLISECOND).await.unwrap()), 128 + 9);
}

#[tokio::test]
async fn a_crash_is_seen_with_its_code() {
    let folder = tempfile::tempdir().unwrap();
    let mut crashes = start(folder.path(), "exit 7").await;
    let status = crashes.ended().await.unwrap();
    assert_eq!(exit_code(status), 7);
    // To end what has ended is no error.
    assert_eq!(exit_code(crashes.stop(MILLISECOND).await.unwrap()), 7);
}

#[tokio::test]
async fn what_is_dropped_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let ignores = start(folder.path(), IGNORES).await;
    let process = format!("/proc/{}/stat", ignores.id().unwrap());
    drop(ignores);
    let gone = || {
        let stat = std::fs::read_to_string(&process).unwrap_or_default();
        // Dead, whether or not somebody has looked.
        stat.is_empty() || stat.contains(") Z ")
    };
    let start = Instant::now();
    while !gone() {
        assert!(start.elapsed() < Duration::from_secs(10), "it still runs");
        tokio::time::sleep(5 * MILLISECOND).await;
    }
}

#[tokio::test]
async fn listeners_are_drained_and_connections_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let mut envoy = start(folder.path(), OBEYS).await;
    let admin = Admin::default();
    admin.stats.lock().unwrap().extend(
        ["listener.0.0.0.0_15008.downstream_cx_active: 1", "listener.0.0.0.0_15008.downstream_cx_active: 0"]
            .map(String::from),
    );
    let (address, _server) = serve(admin.pages()).await;
    let drain = drain(Role::Waypoint, address, Until::Unused(MILLISECOND));
    let status = end(&drain, &mut envoy, std::future::pending()).await.unwrap();
    assert_eq!(exit_code(status), 0);
    let asked = admin.asked.lock().unwrap();
    assert_eq!(asked[0], "POST /drain_listeners?graceful");
    let counted = asked.iter().filter(|path| path.contains("downstream_cx_active")).count();
    assert_eq!(counted, 2, "{asked:?}");
}

#[tokio::test]
async fn only_what_comes_in_to_a_sidecar_is_drained() {
    let folder = tempfile::tempdir().unwrap();
    let mut envoy = start(folder.path(), OBEYS).await;
    let admin = Admin::default();
    admin.stats.lock().unwrap().push("OK".into());
    let (address, _server) = serve(admin.pages()).await;
    let drain = drain(Role::Sidecar, address, Until::Passed(50 * MILLISECOND));
    end(&drain, &mut envoy, std::future::pending()).await.unwrap();
    assert_eq!(*admin.asked.lock().unwrap(), ["POST /drain_listeners?inboundonly&graceful"]);
}

#[tokio::test]
async fn nobody_waits_for_an_envoy_that_has_ended_or_after_a_second_signal() {
    let long = Until::Passed(Duration::from_secs(3600));
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut ends = start(folder.path(), "exit 0").await;
    end(&drain(Role::Router, nowhere, long), &mut ends, std::future::pending()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut runs = start(folder.path(), OBEYS).await;
    let status = end(&drain(Role::Router, nowhere, long), &mut runs, async {}).await.unwrap();
    assert_eq!(exit_code(status), 0);
}

#[test]
fn connections_of_clients_are_counted() {
    let page = "http.connect_terminate.downstream_cx_active: 100\n\
                listener.0.0.0.0_15008.downstream_cx_active: 2\n\
                listener.0.0.0.0_15008.worker_0.downstream_cx_active: 50\n\
                listener.0.0.0.0_15021.downstream_cx_active: 9\n\
                listener.[__]_15090.downstream_cx_active: 9\n\
                listener.[__]_8080.downstream_cx_active: 3\n\
                listener.admin.downstream_cx_active: 1\n\
                listener.admin.main_thread.downstream_cx_active: 1\n\
                listener.envoy_internal_main_internal.downstream_cx_active: 40\n\
                no number";
    assert_eq!(connections(page, [15021, 15090]), 5);
    assert_eq!(connections("", [15021, 15090]), 0);
}

#[test]
fn the_command_line_is_envoys() {
    let arguments = Arguments {
        bootstrap: "/etc/istio/proxy/envoy-rev.json".into(),
        bootstrap_override: None,
        log_level: "warning,upstream:debug".into(),
        component_log_level: "misc:error".into(),
        concurrency: Some(2),
        drain: Duration::from_secs(45),
        ipv6: false,
        file_flush_interval: Duration::from_secs(1),
        file_flush_min_size_kb: 0,
    };
    let line = arguments.command_line().join(" ");
    for part in [
        "-c /etc/istio/proxy/envoy-rev.json",
        "-l warning",
        "--component-log-level upstream:debug",
        "--concurrency 2",
        "--drain-time-s 45",
        "--local-address-ip-version v4",
    ] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    let older = Arguments { log_level: "info".into(), concurrency: Some(0), ..arguments };
    let line = older.command_line().join(" ");
    assert!(line.contains("--component-log-level misc:error") && !line.contains("--concurrency"), "{line}");
}
