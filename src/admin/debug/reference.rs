//! `docs/debug.md`, written from the table of pages.

use std::fmt::Write as _;

use super::PAGES;
use crate::admin::profiles;

/// The page.
pub(super) fn reference() -> String {
    let mut text = String::from(
        "# Debug pages\n\n\
         <!-- Written from the table in src/admin/debug.rs: UPDATE_GOLDEN=1 cargo test -p fairway --lib -- reference -->\n\n\
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
    text += "\n`/debug` lists them. What istiod has beyond these is about machinery that is not here \
             (`push_status`, `sidecarz`, `krtz`, `inject`), about several networks (`networkz`, `mcsz`), or \
             answered by `/debug/ambientz`, `/debug/config_dump` and the objects themselves (`registryz`, `endpointz`, \
             `configz`, `instancesz`, `authorizationz`, `telemetryz`). Neither istioctl nor Kiali reads those; \
             `istioctl bug-report` collects whatever is there.\n\n\
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
