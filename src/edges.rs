//! The rules about the code that are not rules of the language: which module
//! may use which, and what must not be in the tree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// For each module, the modules it may use. Data flows down this table.
const ALLOWED: &[(&str, &[&str])] = &[
    ("intern", &[]),
    ("wire", &[]),
    ("credential", &[]),
    ("graph", &[]),
    ("api", &["graph", "intern", "wire"]),
    ("source", &["api", "credential", "wire"]),
    ("model", &["api", "credential", "graph"]),
    ("ca", &["credential"]),
    // Streams are given views and callers; they never see the graph.
    ("proxy", &["api", "intern"]),
    // Told by those who do something, and asks nobody.
    ("spans", &[]),
    ("xds", &["ca", "credential", "intern", "proxy", "spans", "wire"]),
    ("workload", &["api", "graph", "model", "xds"]),
    ("envoy", &["api", "credential", "graph", "model", "proxy", "xds"]),
    ("status", &["api", "envoy", "graph", "model"]),
    ("controller", &["api", "model", "source", "status"]),
    ("translation", &["api", "credential", "envoy", "graph", "model", "proxy", "status", "workload", "xds"]),
    (
        "writer",
        &["api", "ca", "credential", "graph", "model", "proxy", "source", "spans", "status", "translation", "xds"],
    ),
    // What is fetched is an input of the graph; what fetches it is not in it.
    ("jwks", &["model"]),
    ("admin", &["api", "ca", "model", "proxy", "source", "writer", "xds"]),
    ("config", &[]),
    (
        "cli",
        &[
            "admin",
            "api",
            "ca",
            "config",
            "controller",
            "credential",
            "graph",
            "model",
            "proxy",
            "source",
            "translation",
            "xds",
        ],
    ),
    ("token", &["ca", "config"]),
    // The other side of the wire: what it knows of the control plane is the protocol.
    ("agent", &["config"]),
    (
        "app",
        &[
            "admin",
            "api",
            "ca",
            "config",
            "credential",
            "controller",
            "jwks",
            "model",
            "proxy",
            "source",
            "spans",
            "status",
            "writer",
            "xds",
        ],
    ),
];

#[test]
fn modules_use_only_what_is_upstream_of_them() {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    visit(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut |module, text| {
        for part in text.split("crate::").skip(1) {
            let used: String = part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if used != module && ALLOWED.iter().any(|(name, _)| *name == used) {
                found.entry(module.to_string()).or_default().insert(used);
            }
        }
    });
    for (module, used) in found {
        let allowed = ALLOWED.iter().find(|(name, _)| *name == module).map(|(_, allowed)| *allowed);
        let allowed = allowed.unwrap_or_else(|| panic!("src/{module} is not in the table"));
        let wrong: Vec<_> = used.iter().filter(|used| !allowed.contains(&used.as_str())).collect();
        assert!(wrong.is_empty(), "{module} must not use {wrong:?}");
    }
}

#[test]
fn there_is_one_tls_stack() {
    let lock = include_str!("../Cargo.lock");
    for other in ["rustls", "ring", "aws-lc-rs", "aws-lc-sys", "boring", "native-tls"] {
        assert!(!lock.contains(&format!("name = \"{other}\"\n")), "{other} is in the tree, beside OpenSSL");
    }
}

/// Every file that is not a test, with the module it belongs to.
fn visit(root: &Path, each: &mut dyn FnMut(&str, &str)) {
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let inside = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            let test = ["tests", "testing", "scripted"].iter().any(|name| inside.contains(name));
            let module = inside.split(['/', '.']).next().unwrap();
            if path.is_dir() {
                folders.push(path);
            } else if inside.ends_with(".rs") && !test && !["lib", "main", "edges"].contains(&module) {
                each(module, &std::fs::read_to_string(&path).unwrap());
            }
        }
    }
}
