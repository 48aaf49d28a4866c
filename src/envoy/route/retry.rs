//! When Envoy tries a request again.
//! <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/router_filter#x-envoy-retry-on>

use envoy_types::pb::envoy::config::route::v3::RetryPolicy;
use envoy_types::pb::envoy::config::route::v3::retry_policy::{
    RetryBackOff, RetryHostPredicate, RetryPriority, retry_host_predicate, retry_priority,
};
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;

use super::Refusal;
use crate::api::virtual_service::HttpRetry;
use crate::envoy::encode::{any, duration, uint32};

/// When a route that does not say is tried again.
const RETRY_ON: &str = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";
/// What tells Envoy to look at the list of statuses.
const STATUS_CODES: &str = "retriable-status-codes";

/// The conditions Envoy knows.
const CONDITIONS: [&str; 16] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "envoy-ratelimited",
    "retriable-4xx",
    "refused-stream",
    STATUS_CODES,
    "retriable-headers",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

/// The policy of a route: its own, the mesh's or the default. With a hash, the
/// same host is tried again, as no other one has the session.
pub(super) fn policy(retry: Option<&HttpRetry>, hashed: bool, note: &mut dyn FnMut(Refusal)) -> Option<RetryPolicy> {
    let previous_hosts = || RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".into(),
        config_type: Some(retry_host_predicate::ConfigType::TypedConfig(any(&PreviousHostsPredicate {}))),
    };
    let other_hosts = retry.and_then(|retry| retry.retry_ignore_previous_hosts).unwrap_or(!hashed);
    let defaults = RetryPolicy {
        num_retries: uint32(2),
        retry_on: RETRY_ON.into(),
        host_selection_retry_max_attempts: 5,
        retry_host_predicate: if other_hosts { vec![previous_hosts()] } else { Vec::new() },
        ..RetryPolicy::default()
    };
    let Some(retry) = retry else { return Some(defaults) };
    let mut policy = overlaid(retry, defaults, note)?;
    policy.per_try_timeout = retry.per_try_timeout.and_then(duration);
    if retry.retry_remote_localities == Some(true) {
        let config = any(&PreviousPrioritiesConfig { update_frequency: 2 });
        policy.retry_priority = Some(RetryPriority {
            name: "envoy.retry_priorities.previous_priorities".into(),
            config_type: Some(retry_priority::ConfigType::TypedConfig(config)),
        });
    }
    Some(policy)
}

fn invalid_attempts(message: String) -> Refusal {
    Refusal { field: "retries.attempts".into(), reason: "InvalidValue", message }
}

/// What a policy says, over the defaults; none if it says never.
fn overlaid(retry: &HttpRetry, mut policy: RetryPolicy, note: &mut dyn FnMut(Refusal)) -> Option<RetryPolicy> {
    let attempts = match u32::try_from(retry.attempts) {
        Ok(0) => {
            let asks = retry.per_try_timeout.is_some() || !retry.retry_on.is_empty();
            if asks || retry.retry_remote_localities.is_some() {
                let message = "without attempts nothing is tried again, and the rest of the policy has no effect";
                note(invalid_attempts(message.into()));
            }
            return None;
        }
        Ok(attempts) => attempts,
        Err(_) => {
            note(invalid_attempts(format!("{} is not a number of attempts; nothing is tried again", retry.attempts)));
            return None;
        }
    };
    policy.num_retries = uint32(attempts);
    if !retry.retry_on.trim().is_empty() {
        let mut conditions = Vec::new();
        for word in retry.retry_on.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match word.parse() {
                Ok(code @ 100..=599) => policy.retriable_status_codes.push(code),
                _ if CONDITIONS.contains(&word) => conditions.push(word),
                _ => note(Refusal {
                    field: "retries.retryOn".into(),
                    reason: "UnsupportedValue",
                    message: format!("{word:?} is neither a condition of Envoy nor an HTTP status; ignored"),
                }),
            }
        }
        if !policy.retriable_status_codes.is_empty() && !conditions.contains(&STATUS_CODES) {
            conditions.push(STATUS_CODES);
        }
        if conditions.is_empty() {
            return None;
        }
        policy.retry_on = conditions.join(",");
    }
    // Envoy refuses an interval of zero.
    let backoff = retry.backoff.filter(|backoff| !backoff.is_zero());
    policy.retry_back_off =
        backoff.map(|backoff| RetryBackOff { base_interval: duration(backoff), max_interval: None });
    Some(policy)
}
