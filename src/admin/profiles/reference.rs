//! The section of `docs/debug.md`, written from the table of pages.

use std::fmt::Write as _;

use super::{OF_GO, PAGES};

/// The section.
pub(in crate::admin) fn reference() -> String {
    let mut text = String::from(
        "## Profiles\n\n\
         At `:15014/debug/pprof/`, for those who see everything; `--profile=false` takes them away. What answers is what \
         `go tool pprof`, Parca, Pyroscope and Alloy ask istiod for.\n\n\
         | Page | What |\n|---|---|\n",
    );
    for row in PAGES {
        let _ = writeln!(text, "| `/debug/pprof/{}{}` | {} |", row.name, row.query, row.what);
    }
    let _ = write!(
        text,
        "\n```sh\n\
         kubectl --namespace istio-system port-forward deployment/istiod 15014 &\n\
         go tool pprof -top 'http://localhost:15014/debug/pprof/profile?seconds=30'\n\
         ```\n\n\
         Functions have their names; files and lines are there for what is compiled with line tables. Code of libraries \
         without symbols is named after the library, such as `[libcrypto.so.3]`, and what the kernel does for a call is \
         counted there. Each sample has the name of its thread (`-tagroot thread`), and `-comments` says how much of the \
         CPU was sampled. Nothing runs while nobody asks. A profile takes memory for the \
         tables of the binary: some 120 MB in a debug build, of which some 50 stay with the process after the first \
         one; the image has no line tables, so it has names only. Whoever asks for a second one meanwhile is answered 409.\n\n\
         What istiod has beyond these ({}) is about Go's runtime. The memory of the process is in [`/metrics`](metrics.md).\n",
        OF_GO.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
    );
    text
}
