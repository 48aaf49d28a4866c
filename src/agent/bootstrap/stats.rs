//! Which statistics Envoy keeps, and which parts of their names are labels.
//!
//! The labels are those that dashboards for Istio know. Istio's proxies leave
//! out most of Envoy's own statistics because a filter of theirs counts
//! requests; a stock Envoy has no such filter, so everything is kept unless the
//! user lists what to keep.

use serde_json::{Value, json};

use super::Bootstrap;

/// What readiness, draining and policies are watched by, and what is counted as
/// Istio does; kept in any case.
const NEEDED_PREFIXES: &[&str] = &["cluster_manager", "istio", "listener_manager", "server", "cluster.xds-grpc"];
const NEEDED_SUFFIXES: &[&str] =
    &["rbac.allowed", "rbac.denied", "shadow_allowed", "shadow_denied", "downstream_cx_active"];

pub(super) fn config(from: &Bootstrap) -> Value {
    let mut config = json!({ "use_all_default_tags": false, "stats_tags": tags(&from.proxy_config.extra_stat_tags) });
    let ips: Vec<_> = from.instance_ips.iter().map(ToString::to_string).collect();
    let matcher = &from.proxy_config.proxy_stats_matcher;
    // An annotation takes the place of the field, and does not add to it.
    let chosen = |annotation: &str, field: &[String]| -> Vec<String> {
        let annotation = from.annotations.get(annotation);
        let listed = annotation.map(|text| text.split(',').map(|one| one.trim().to_string()).collect());
        let listed: Vec<String> = listed.unwrap_or_else(|| field.to_vec());
        listed.into_iter().filter(|one| !one.is_empty()).flat_map(|one| with_addresses(one, &ips)).collect()
    };
    let prefixes = chosen("sidecar.istio.io/statsInclusionPrefixes", &matcher.inclusion_prefixes);
    let suffixes = chosen("sidecar.istio.io/statsInclusionSuffixes", &matcher.inclusion_suffixes);
    let regexps = chosen("sidecar.istio.io/statsInclusionRegexps", &matcher.inclusion_regexps);
    if prefixes.is_empty() && suffixes.is_empty() && regexps.is_empty() {
        return config;
    }
    let text = |one: &&str| (*one).to_string();
    let prefixes = prefixes.into_iter().chain(NEEDED_PREFIXES.iter().map(text)).map(|one| json!({ "prefix": one }));
    let suffixes = suffixes.into_iter().chain(NEEDED_SUFFIXES.iter().map(text)).map(|one| json!({ "suffix": one }));
    let regexps = regexps.into_iter().map(|one| json!({ "safe_regex": { "regex": one } }));
    let patterns: Vec<_> = prefixes.chain(suffixes).chain(regexps).collect();
    config["stats_matcher"] = json!({ "inclusion_list": { "patterns": patterns } });
    config
}

/// A pattern for each address of the proxy.
fn with_addresses(pattern: String, ips: &[String]) -> Vec<String> {
    match pattern.contains("{pod_ip}") {
        true => ips.iter().map(|ip| pattern.replace("{pod_ip}", ip)).collect(),
        false => vec![pattern],
    }
}

/// The first group of an expression is taken out of the name, the second is
/// the label's value. A semicolon ends names that may have dots.
fn tags(extra: &[String]) -> Vec<Value> {
    let ours = [
        ("cluster_name", r"^cluster\.((.+?);\.)"),
        ("http_conn_manager_prefix", r"^http\.((.+?);\.)"),
        ("tcp_prefix", r"^tcp\.((.+?)\.)\w+$"),
        ("response_code", r"_rq(_(\d{3}))$"),
        ("response_code_class", r"_rq(_(\dxx))$"),
        ("listener_address", r"^listener\.((\[[0-9a-fA-F:]+\]_\d+|[0-9.]+_\d+)\.)"),
        ("authz_enforce_result", r"rbac(\.(allowed|denied))$"),
        ("authz_dry_run_action", r"(\.istio_dry_run_(allow|deny)_)"),
        ("authz_dry_run_result", r"(\.shadow_(allowed|denied))$"),
    ];
    let tag = |(name, regex): (&str, &str)| json!({ "tag_name": name, "regex": regex });
    let extra = extra.iter().filter(|name| !name.is_empty() && !ours.iter().any(|(taken, _)| taken == name));
    let extra = extra.map(|name| json!({ "tag_name": name, "regex": format!(r"({name}=\.=(.*?);\.;)") }));
    ours.into_iter().map(tag).chain(extra).collect()
}
