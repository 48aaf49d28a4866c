//! Which access logs and metrics remain after objects were put on top of each
//! other. What is made of them is in the golden files.

use envoy_types::pb::envoy::config::accesslog::v3::access_log::ConfigType;
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::FileAccessLog;
use prost::Message;

use super::*;
use crate::api::yaml;

fn mesh(text: &str) -> MeshConfig {
    MeshConfig::from_yaml(text).unwrap()
}

const PROVIDERS: &str = "extensionProviders: [{name: a, envoyFileAccessLog: {path: /a}}, \
    {name: b, envoyFileAccessLog: {path: /b}}, {name: trace, zipkin: {}}]";

/// The paths that are logged to, each with its filter, and what is said.
fn logs(mesh_text: &str, specs: &[&str]) -> (Vec<String>, usize) {
    let mesh = mesh(&format!("{{{PROVIDERS}, {mesh_text}}}"));
    let objects: Vec<Object> =
        specs.iter().map(|spec| yaml(&format!("spec: {{accessLogging: [{spec}]}}")).unwrap()).collect();
    let request = Request {
        mesh: &mesh,
        mesh_origin: &Meta::default(),
        telemetries: &objects.iter().collect::<Vec<_>>(),
        capabilities: Capabilities::STOCK,
        side: Side::Server,
        gateway: &ObjectKey::new("ns", "wp"),
        cluster_id: "Kubernetes",
        cluster: &|_, _| None,
    };
    let telemetry = Telemetry::new(&request);
    let text = |log: AccessLog| {
        let Some(ConfigType::TypedConfig(any)) = log.config_type else { panic!("a log without configuration") };
        let file = FileAccessLog::decode(&*any.value).unwrap();
        let filtered = if log.filter.is_some() { " filtered" } else { "" };
        format!("{}{filtered}", file.path)
    };
    (telemetry.logs(&[]).into_iter().map(text).collect(), telemetry.problems.len())
}

#[track_caller]
fn logged(mesh: &str, specs: &[&str], wanted: &[&str]) {
    let (logs, problems) = logs(mesh, specs);
    assert_eq!(logs, wanted, "{mesh} {specs:?}");
    assert_eq!(problems, 0, "{mesh} {specs:?}");
}

#[test]
fn the_nearest_object_that_names_providers_decides() {
    const A: &str = "{providers: [{name: a}]}";
    const B: &str = "{providers: [{name: b}]}";
    let file = "accessLogFile: /mesh";
    logged("", &[], &[]);
    logged(file, &[], &["/mesh"]);
    logged("defaultProviders: {accessLogging: [a]}, accessLogFile: /mesh", &[], &["/a"]);
    logged(file, &[A], &["/a"]);
    logged(file, &[A, B], &["/b"]);
    logged(file, &[&format!("{A}, {B}")], &["/a", "/b"]);
    logged(file, &["{providers: [{name: a}, {name: b}]}", "{disabled: true}"], &[]);
    logged(file, &["{providers: [{name: a}]}", "{disabled: true}", "{disabled: false}"], &["/a"]);
    logged(file, &["{providers: [{name: a}]}", "{match: {mode: CLIENT}, disabled: true}"], &["/a"]);
    logged(file, &["{providers: [{name: a}]}", "{match: {mode: SERVER}, disabled: true}"], &[]);
    logged(file, &["{providers: [{name: envoy}]}"], &["/dev/stdout"]);
    // Without defaults, the file of the mesh is what entries are about.
    logged(file, &["{disabled: true}"], &[]);
    logged(file, &["{filter: {expression: 'true'}}"], &["/mesh filtered"]);
    logged(file, &[A, "{filter: {expression: 'true'}}"], &["/a filtered"]);
    logged(file, &["{providers: [{name: a}], filter: {expression: 'true'}}", A], &["/a"]);
}

#[test]
fn what_cannot_be_used_is_reported() {
    let file = "accessLogFile: /mesh";
    // Nothing else was asked for, so it is logged where the mesh says.
    assert_eq!(logs(file, &["{providers: [{name: gone}]}"]), (vec!["/mesh".into()], 1));
    assert_eq!(logs(file, &["{providers: [{name: trace}]}"]), (vec!["/mesh".into()], 1));
    assert_eq!(logs(file, &["{providers: [{name: gone}, {name: a}]}"]), (vec!["/a".into()], 1));
    assert_eq!(logs("defaultProviders: {accessLogging: [gone]}", &[]), (vec![], 1));
    // Not without the condition.
    assert_eq!(logs(file, &["{providers: [{name: a}], filter: {expression: '('}}"]), (vec![], 1));
    assert_eq!(logs("accessLogFile: /mesh, accessLogFormat: '%'", &[]), (vec!["/mesh".into()], 1));
}
