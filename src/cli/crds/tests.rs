//! The chart has what the command prints: `UPDATE_GOLDEN=1 cargo test` writes it.

use super::*;

#[test]
fn the_chart_has_the_definitions_that_are_printed() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/fairway/files/crds.yaml");
    let written = text().unwrap();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &written).unwrap();
    }
    let file = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == file, "{path} is not what `fairway crds` prints; UPDATE_GOLDEN=1 writes it");
}
