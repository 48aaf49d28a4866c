//! Names of addresses.

use super::*;

#[test]
fn code_is_found_in_maps() {
    let found = object("7f00-7fff r-xp 00001000 08:01 42                         /lib/x86_64-linux-gnu/libc.so.6");
    assert_eq!(found, Some((0x7f00..0x7fff, "libc.so.6".into())));
    assert_eq!(object("7f00-7fff r--p 00001000 08:01 42 /lib/libc.so.6"), None);
    assert_eq!(object("7f00-7fff r-xp 00000000 00:00 0 [vdso]"), Some((0x7f00..0x7fff, "[vdso]".into())));
    assert_eq!(object("7f00-7fff r-xp 00000000 00:00 0"), None);
}

#[test]
fn a_function_of_ours_has_its_name_and_its_file() {
    let frames = functions(cpu_used as fn() -> Duration as usize + 1, "fairway");
    assert!(frames.iter().any(|one| one.name.ends_with("::cpu_used")), "{frames:?}");
    assert!(frames.iter().any(|one| one.file.ends_with("recording.rs") && one.line > 0), "{frames:?}");
    assert_eq!(functions(1, "libx.so")[0].name, "[libx.so]");
}

#[test]
fn what_is_beyond_code_is_not_a_stack() {
    let here = cpu_used as fn() -> Duration as usize + 1;
    let mut names = Names::new();
    let (whole, cut) = (names.stack(&[here, here]), names.stack(&[here, 1, here]));
    assert_eq!(whole.len(), 2 * cut.len());
    assert_eq!(names.stack(&[1])[0].name, "[unknown]");
}

#[test]
fn a_short_name_is_completed_by_its_file() {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/src/ca/csr.rs");
    for (name, file, expected) in [
        ("poll", "/home/me/registry/src/index-1/h2-0.4.12/src/proto/mod.rs", "h2::proto::poll"),
        ("{async_fn#0}", "/x/hyper-util-0.1.1-rc.2/src/server/conn.rs", "hyper_util::server::conn::{async_fn#0}"),
        ("call_once", "/rustc/59807616e/library/core/src/ops/function.rs", "core::ops::function::call_once"),
        ("new", "/x/bytes-1.0.0/src/lib.rs", "bytes::new"),
        ("block_on<core::pin::Pin<T>>", "/x/tokio-1.54.1/src/runtime/runtime.rs", "tokio::runtime::runtime::block_on"),
        ("usual", own, "fairway::ca::csr::usual"),
        ("<A as B>::c", own, "<A as B>::c"),
        ("free", "static.c", "free"),
        ("free", "", "free"),
    ] {
        assert_eq!(with_module(name.into(), file), expected);
    }
}
