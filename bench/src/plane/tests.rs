use std::path::Path;

use super::{Launch, Objects};

#[track_caller]
fn check(command: &str, objects: &Objects, expected: &[&str]) {
    let launch = Launch::new(command, [None; 5]).expect("a command");
    let addresses = [1, 2, 3, 4, 5].map(|port| ([127, 0, 0, 1], port).into());
    let command = launch.command(objects, Path::new("/state"), &addresses).expect("a command");
    assert_eq!(command.get_args().collect::<Vec<_>>(), expected);
}

#[test]
fn a_program_alone_gets_the_flags_of_istiod() {
    let flags = [
        "discovery",
        "--kubeconfig",
        "/k",
        "--grpcAddr",
        "127.0.0.1:1",
        "--secureGRPCAddr",
        "127.0.0.1:2",
        "--httpAddr",
        "127.0.0.1:3",
        "--httpsAddr",
        "127.0.0.1:4",
        "--monitoringAddr",
        "127.0.0.1:5",
    ];
    check("istiod", &Objects::Kubeconfig("/k".into()), &flags);
}

#[test]
fn a_whole_command_line_is_used_as_it_is() {
    let objects = Objects::Folder("/f".into());
    check("my-fairway serve {folder} --at={grpc}", &objects, &["serve", "/f", "--at=127.0.0.1:1"]);
}

#[test]
fn only_fairway_reads_folders() {
    let launch = Launch::new("istiod", [None; 5]).expect("a command");
    let addresses = [([127, 0, 0, 1], 1).into(); 5];
    assert!(launch.command(&Objects::Folder("/f".into()), Path::new("/s"), &addresses).is_err());
}
