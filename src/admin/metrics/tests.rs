use std::collections::BTreeSet;
use std::path::Path;

use super::reference::{GROUPS, reference};

#[test]
fn the_reference_is_what_the_table_says() {
    crate::admin::debug::tests::check_page("metrics.md", &reference());
}

#[test]
fn the_table_has_what_is_registered() {
    let table: BTreeSet<_> = GROUPS.iter().flat_map(|(_, rows)| *rows).map(|row| row.name.to_owned()).collect();
    // Names of metrics are literals with the help beside them: what is quoted, of
    // these prefixes, in the files that register any.
    let mut registered = BTreeSet::new();
    for file in [
        "admin/metrics.rs",
        "admin/metrics/process.rs",
        "ca/metrics.rs",
        "jwks.rs",
        "xds/server/connections.rs",
        "xds/server/metrics.rs",
    ] {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file)).unwrap();
        let quoted = text.split('"').skip(1).step_by(2);
        let name = |text: &&str| {
            let known =
                ["pilot_", "citadel_", "fairway_", "istio_", "istiod_", "rows", "commit_", "transform_", "process_"];
            known.iter().any(|prefix| text.starts_with(prefix))
                && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        };
        // The library appends this to the names of counters, which only these are.
        let counter = |name: &str| file == "jwks.rs" || name == "process_cpu_seconds";
        let end = |name| if counter(name) { "_total" } else { "" };
        registered.extend(quoted.filter(name).map(|name| format!("{name}{}", end(name))));
    }
    assert!(registered.len() > 20, "{registered:?}");
    assert_eq!(table, registered);
}

#[test]
fn nothing_else_registers_metrics() {
    fn visit(folder: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                visit(&path, found);
            } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("tests.rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                if text.contains("registry.register(\"") || text.contains("encode_descriptor(") {
                    found.push(path.to_string_lossy().into_owned());
                }
            }
        }
    }
    let mut found = Vec::new();
    visit(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    let known = [
        "admin/metrics.rs",
        "admin/metrics/process.rs",
        "ca/metrics.rs",
        "xds/server/connections.rs",
        "xds/server/metrics.rs",
    ];
    found.retain(|path| !known.iter().any(|known| path.ends_with(known)));
    assert_eq!(found, [] as [&str; 0], "their metrics are to be in the table");
}
