//! THE table of metrics, for people: what each tells. `docs/metrics.md` is written
//! from it; tests hold it to what is registered.

use std::fmt::Write as _;

/// One metric.
pub(super) struct Row {
    /// Its name.
    pub(super) name: &'static str,
    kind: &'static str,
    labels: &'static str,
    /// What it tells.
    what: &'static str,
}

const fn row(name: &'static str, kind: &'static str, labels: &'static str, what: &'static str) -> Row {
    Row { name, kind, labels, what }
}

/// Groups of metrics, by what they are about.
pub(super) const GROUPS: &[(&str, &[Row])] = &[
    (
        "Proxies",
        &[
            row("pilot_xds", "gauge", "version", "Connected proxies, by their version of Istio."),
            row("pilot_xds_pushes", "count", "type", "Responses that were sent."),
            row(
                "pilot_total_xds_rejects",
                "count",
                "type",
                "Responses that proxies rejected. `fairway proxies` says why, and which objects they come from.",
            ),
            row(
                "pilot_xds_expired_nonce",
                "count",
                "type",
                "Requests that answer a response which is not the latest: some, after a reconnect, mean nothing.",
            ),
            row("pilot_xds_config_size_bytes", "histogram", "type", "Sizes of responses."),
            row(
                "pilot_xds_send_time",
                "histogram",
                "",
                "How long it took to hand a response over; a slow reader makes it long.",
            ),
            row(
                "pilot_proxy_convergence_time",
                "histogram",
                "",
                "From the publication of a change until a proxy was sent it.",
            ),
            row(
                "pilot_xds_push_time",
                "histogram",
                "type",
                "How long it took to put a response together and hand it over. What is in it was worked out once for all \
                 proxies, which `commit_seconds` tells.",
            ),
            row(
                "pilot_push_triggers",
                "count",
                "type",
                "Changes that made proxies be told something, by what changed: `endpoint` (EndpointSlices, \
                 WorkloadEntries), `service` (Services, ServiceEntries), `ambient` (pods, nodes), `namespace`, `global` \
                 (the mesh's configuration), `secret`, `proxy` (the first of a kind came, or the last went), `config` \
                 (all other objects), `unknown` (keys of token issuers, what a proxy rejected).",
            ),
            row(
                "pilot_xds_unauthenticated",
                "count",
                "",
                "Callers on the TLS port who did not prove who they are. The log has the reason for each.",
            ),
            row(
                "pilot_sds_certificate_errors_total",
                "count",
                "",
                "Secrets that were asked for by proxies which may not have them.",
            ),
            row("pilot_total_xds_internal_errors", "count", "", "Streams that were ended by a bug."),
        ],
    ),
    (
        "Configuration",
        &[
            row("pilot_services", "gauge", "", "Services that ztunnels are told of."),
            row("fairway_workloads", "gauge", "", "Workloads that ztunnels are told of."),
            row("fairway_policies", "gauge", "", "Policies that ztunnels are told of."),
            row(
                "fairway_source_problems",
                "gauge",
                "",
                "Objects and kinds that cannot be read; `/debug/sourcez` lists them.",
            ),
            row(
                "pilot_k8s_reg_events",
                "count",
                "type, event",
                "Pods, Services, EndpointSlices, Nodes and Namespaces that came, changed or went. Of changes that follow \
                 each other within milliseconds the last one counts, and none of fields that are not read.",
            ),
            row(
                "pilot_k8s_cfg_events",
                "count",
                "type, event",
                "The same of objects of all other kinds, except ConfigMaps, Secrets and CRDs.",
            ),
            row("fairway_revision", "gauge", "", "Commits that changed something."),
            row("rows", "gauge", "collection", "Rows of each collection of the graph."),
            row("rows_recomputed", "count", "collection", "Rows that were worked out: what changes cost."),
            row("commit_seconds", "count", "collection", "Time that bringing a collection up to date took."),
            row("transform_panics", "count", "collection", "Rules that failed; their rows stayed as they were. A bug."),
            row("pilot_jwks_resolver_network_fetch_success_total", "count", "", "Fetches of token issuers' keys."),
            row(
                "pilot_jwks_resolver_network_fetch_fail_total",
                "count",
                "",
                "Fetches of token issuers' keys that failed.",
            ),
        ],
    ),
    (
        "Certificates",
        &[
            row("citadel_server_csr_count", "count", "", "Requests for certificates."),
            row("citadel_server_success_cert_issuance_count", "count", "", "Certificates that were issued."),
            row(
                "citadel_server_authentication_failure_count",
                "count",
                "",
                "Requests whose caller did not prove who it is, or may not ask for somebody else.",
            ),
            row("citadel_server_csr_parsing_err_count", "count", "", "Requests that hold no acceptable CSR."),
            row(
                "citadel_server_id_extraction_err_count",
                "count",
                "",
                "Requests whose caller has not exactly one identity.",
            ),
            row("citadel_server_csr_sign_err_count", "count", "error", "Requests that could not be signed."),
            row(
                "citadel_server_root_cert_expiry_timestamp",
                "gauge",
                "",
                "When the root expires, in seconds since 1970.",
            ),
            row("citadel_server_root_cert_expiry_seconds", "gauge", "", "How long the root is still valid."),
            row("citadel_server_cert_chain_expiry_timestamp", "gauge", "", "When the certificate that signs expires."),
            row(
                "citadel_server_cert_chain_expiry_seconds",
                "gauge",
                "",
                "How long the certificate that signs is still valid.",
            ),
            row(
                "fairway_ca_bundle_rejected_count",
                "count",
                "",
                "Key material that was refused; the one before stays.",
            ),
            row(
                "fairway_ca_rotation_step",
                "gauge",
                "step",
                "1 for the step of a change of the root; [operate.md](operate.md#certificates) says what each is.",
            ),
            row(
                "fairway_ca_certificates",
                "gauge",
                "issuer",
                "Certificates in use that this replica has issued; `/debug/ca` says whose they are.",
            ),
        ],
    ),
    (
        "Process",
        &[
            row("istio_build", "gauge", "component, tag", "The version, as Istio's dashboards ask for it."),
            row("pilot_info", "gauge", "version", "The version."),
            row("istiod_uptime_seconds", "gauge", "", "Since when it runs."),
            row("process_cpu_seconds_total", "count", "", "The CPU time it has spent."),
            row("process_start_time_seconds", "gauge", "", "When it began, in seconds since 1970."),
            row("process_resident_memory_bytes", "gauge", "", "The memory it holds."),
            row("process_virtual_memory_bytes", "gauge", "", "The addresses it has reserved: more than it holds."),
            row("process_open_fds", "gauge", "", "Files and sockets that are open."),
            row("process_max_fds", "gauge", "", "How many may be."),
        ],
    ),
];

/// How far Istio's own dashboard of control planes works.
const DASHBOARD: &str = "\n## Istio's dashboard\n\n\
    All panels of Istio's control plane dashboard show something, except these:\n\n\
    | Panel | Why |\n|---|---|\n\
    | Memory Allocations, Goroutines | They ask for `go_*`, which the runtime of Go tells of itself; there is none here. |\n\
    | Memory Usage | Only the container's memory is there, not the lines of `go_memstats_*`. \
    `process_resident_memory_bytes` is without a kubelet, too. |\n\
    | Validation, Injection | `galley_validation_*` and `sidecar_injection_*` count what webhooks did, and there are no \
    webhooks. |\n\
    | Connections | `pilot_xds` is there once a proxy is connected; `envoy_cluster_upstream_cx_active` is of the \
    proxies. |\n\n\
    Memory and CPU of the container are told by the kubelet, of pods whose names begin with `istiod-`.\n";

/// `docs/metrics.md`.
pub(super) fn reference() -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         <!-- Written from the table in src/admin/metrics/reference.rs: \
         UPDATE_GOLDEN=1 cargo test -p fairway --lib -- reference -->\n\n\
         At `:15014/metrics`, in OpenMetrics. Names that istiod has mean the same. Its dashboard \
         [works](#istios-dashboard), but for what it asks of Go and of webhooks. \
         Counts whose names do not end in `_total` are exposed as gauges, because istiod's names have no such end and \
         OpenMetrics asks counters for it; `rate()` and `increase()` work all the same. Labels have no names of pods or \
         objects, so there are never more than some hundred series. \
         [alerts.yaml](../charts/fairway/files/alerts.yaml) and \
         [fairway.json](../charts/fairway/dashboards/fairway.json) are made of these.\n",
    );
    for (group, rows) in GROUPS {
        let _ = write!(text, "\n## {group}\n\n| Metric | Kind | Labels | What it tells |\n|---|---|---|---|\n");
        for Row { name, kind, labels, what } in *rows {
            let labels = if labels.is_empty() { String::new() } else { format!("`{}`", labels.replace(", ", "`, `")) };
            let _ = writeln!(text, "| `{name}` | {kind} | {labels} | {what} |");
        }
    }
    text.push_str(DASHBOARD);
    text
}
