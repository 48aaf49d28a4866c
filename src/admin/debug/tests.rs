use std::path::Path;

use super::*;

/// Compares a page of the documentation with what the code says, or writes it.
#[track_caller]
pub(crate) fn check_page(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == text, "docs/{name} is not what the code says; UPDATE_GOLDEN=1 writes it");
}

#[test]
fn the_reference_is_what_the_table_says() {
    check_page("debug.md", &reference::reference());
}

#[test]
fn every_page_is_found_by_its_name_and_only_once() {
    for row in PAGES {
        assert_eq!(PAGES.iter().filter(|other| other.name == row.name).count(), 1, "{}", row.name);
        assert!(row.name.chars().all(|c| c.is_ascii_alphabetic() || "_/".contains(c)), "{}", row.name);
    }
}

#[test]
fn what_others_may_see_takes_the_name_of_a_proxy() {
    for row in PAGES.iter().filter(|row| row.by_namespace) {
        assert!(row.query.contains("proxyID="), "{} is not about single proxies", row.name);
    }
}
