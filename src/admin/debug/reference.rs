//! `docs/debug.md`, written from the table of pages.

use std::fmt::Write as _;

use super::pages::PAGES;
use crate::admin::profiles;

/// The page.
pub(super) fn reference() -> String {
    let mut text = String::from(
        "# Debug pages\n\n\
         <!-- Written from the table in src/admin/debug/pages.rs: UPDATE_GOLDEN=1 cargo test -p fairway --lib -- reference -->\n\n\
         JSON at `:15014/debug/…` of each replica, which knows of the proxies that are connected to it. \
         [`fairway proxies`](troubleshoot.md) asks all of them. `?pretty` is for people.\n\n\
         Who may see them: callers on the same machine, which is what `kubectl port-forward` is, everything; \
         others prove who they are by a token or certificate as for xDS. Accounts of the control plane's namespace, \
         of the mesh's root namespace and of those in `DEBUG_ENDPOINT_AUTH_ALLOWED_NAMESPACES` see everything, \
         all others only the pages that say so, of proxies in their own namespace. \
         [security.md](security.md#who-may-ask-what) says why.\n\n\
         | Page | What | As in istiod | Own namespace |\n|---|---|---|---|\n",
    );
    let mark = |yes: bool| if yes { "yes" } else { "" };
    for row in PAGES {
        let (path, ours, own) =
            (format!("`/debug/{}{}`", row.name, row.query), mark(row.of_istiod), mark(row.by_namespace));
        let _ = writeln!(text, "| {path} | {} | {ours} | {own} |", row.what);
    }
    text += "\n`/debug` lists them. Those that istiod has are in its shapes, with more fields where there is more to \
             say; `istioctl bug-report` collects them. Empty ones say so: what they are about is not here.\n\n\
             `configz`, `authorizationz` and `telemetryz` look up what is written at the moment and compare it with \
             what is in force: `inForce` is true where both are the same, else `problem` says why not, such as a \
             field that cannot be read. Where the API server cannot be reached there are the names of what is in \
             force, and the reason.\n\n\
             `krtz` shows what the control plane has made of objects on the way to proxies. The name of a \
             collection is in `graphz`, its rows are in `krtz?collection=NAME`, and what a row is made of in \
             `krtz?collection=NAME&key=KEY`, with the key as it is printed there. Keys of certificates are in \
             none of them.\n\n\
             ## Levels of the log\n\n\
             `/scopej` of the same port, for callers on the same machine, is what istiod has on ControlZ's: levels of \
             the log by scope, read and set while the process runs. What is set is forgotten when it ends.\n\n\
             ```sh\n\
             istioctl admin log --ctrlz_port 15014\n\
             istioctl admin log --ctrlz_port 15014 --level ads:debug\n\
             ```\n\n";
    text += &profiles::reference();
    text += "\n## Over xDS\n\n\
             On port 15012, to callers who have proved who they are, by the same rules; never on the plaintext port, \
             whatever `XDS_AUTH_PLAINTEXT` says. This is how istioctl asks.\n\n\
             | Type | Names | What |\n|---|---|---|\n\
             | `istio.io/debug/syncz` | none | one `envoy.service.status.v3.ClientConfig` for each proxy: \
             `istioctl proxy-status` |\n\
             | `istio.io/debug/config_dump` | `NAME.NAMESPACE` | what that proxy is told: \
             `istioctl proxy-status POD` |\n\
             | `istio.io/debug` | a page with its query | that page: `istioctl x internal-debug PAGE` |\n";
    text
}
