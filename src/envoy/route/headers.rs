//! Changes of headers, with Envoy's operators in values.
//! <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/headers#custom-request-response-headers>

use std::collections::BTreeMap;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};

use super::{Checked, refuse};
use crate::api::virtual_service::{HeaderOperations, Headers};

/// Envoy's form of changes.
#[derive(Clone, Debug, Default)]
pub(super) struct Changes {
    pub(super) request_add: Vec<HeaderValueOption>,
    pub(super) request_remove: Vec<String>,
    pub(super) response_add: Vec<HeaderValueOption>,
    pub(super) response_remove: Vec<String>,
    /// The new authority; empty is none.
    pub(super) authority: String,
}

/// The changes, or the first that Envoy would refuse.
pub(super) fn changes(headers: Option<&Headers>) -> Checked<Changes> {
    let Some(headers) = headers else { return Ok(Changes::default()) };
    let (request_add, request_remove) =
        operations(&headers.request).map_err(|refusal| refusal.within("headers.request"))?;
    let (response_add, response_remove) =
        operations(&headers.response).map_err(|refusal| refusal.within("headers.response"))?;
    // `host` is the authority, which has a field of its own. What is set counts
    // rather than what is added.
    let authority = |entries: &BTreeMap<Arc<str>, Arc<str>>| {
        let mut found = entries.iter().filter(|(name, _)| is_authority(name) && !name.is_empty());
        found.next_back().map(|(_, value)| value.to_string()).filter(|value| !value.is_empty())
    };
    let authority = authority(&headers.request.set).or_else(|| authority(&headers.request.add)).unwrap_or_default();
    Ok(Changes { request_add, request_remove, response_add, response_remove, authority })
}

fn operations(operations: &HeaderOperations) -> Checked<(Vec<HeaderValueOption>, Vec<String>)> {
    let mut added = Vec::new();
    let kinds = [
        ("set", &operations.set, HeaderAppendAction::OverwriteIfExistsOrAdd),
        ("add", &operations.add, HeaderAppendAction::AppendIfExistsOrAdd),
    ];
    for (field, entries, action) in kinds {
        for (name, value) in entries {
            let at = format!("{field}[{name}]");
            if is_authority(name) {
                check_text(value).map_err(|refusal| refusal.within(&at))?;
                continue;
            }
            if !is_name(name) {
                return refuse(
                    at,
                    "InvalidValue",
                    "not the name of a header that can be changed; the rule is left out",
                );
            }
            check_value(value).map_err(|refusal| refusal.within(&at))?;
            let header = HeaderValue { key: name.to_string(), value: value.to_string(), ..HeaderValue::default() };
            added.push(HeaderValueOption {
                header: Some(header),
                append_action: action.into(),
                ..HeaderValueOption::default()
            });
        }
    }
    if added.len() > 1000 {
        return refuse("", "InvalidValue", "Envoy takes at most 1000 headers; the rule is left out");
    }
    let mut removed = Vec::new();
    for (index, name) in operations.remove.iter().enumerate() {
        if !is_name(name) || is_authority(name) {
            let message = "not the name of a header that can be removed; the rule is left out";
            return refuse(format!("remove[{index}]"), "InvalidValue", message);
        }
        removed.push(name.to_string());
    }
    Ok((added, removed))
}

/// Whether a text is a header's name: a token of HTTP.
pub(super) fn is_name(name: &str) -> bool {
    let token = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c);
    !name.is_empty() && name.len() <= 1024 && name.bytes().all(token)
}

fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority")
}

/// Whether Envoy takes a text where it expects the value of a header.
pub(super) fn check_text(value: &str) -> Checked<()> {
    if value.len() > 16384 || value.bytes().any(|c| (c < b' ' && c != b'\t') || c == 0x7f) {
        return refuse("", "InvalidValue", "not a value that a header can have; the rule is left out");
    }
    Ok(())
}

/// Whether Envoy takes a value with its operators in it.
fn check_value(value: &str) -> Checked<()> {
    check_text(value)?;
    let mut rest = value;
    while let Some((_, after)) = rest.split_once('%') {
        rest = match after.strip_prefix('%') {
            Some(rest) => rest,
            None => match operator(after) {
                Some(rest) => rest,
                None => {
                    let message =
                        format!("{value:?} has a % that begins no operator of Envoy; a plain one is written %%");
                    return refuse("", "InvalidValue", message);
                }
            },
        };
    }
    Ok(())
}

/// What follows an operator, given what follows its `%`.
fn operator(text: &str) -> Option<&str> {
    let end = text.find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))?;
    let (name, mut rest) = text.split_at(end);
    let arguments = match rest.strip_prefix('(') {
        Some(inside) => {
            let (arguments, after) = inside.split_once(')')?;
            rest = after;
            Some(arguments)
        }
        None => None,
    };
    let mut cut = false;
    if let Some(length) = rest.strip_prefix(':') {
        let digits = length.find(|c: char| !c.is_ascii_digit())?;
        length[..digits].parse::<u32>().ok()?;
        rest = &length[digits..];
        cut = true;
    }
    let known = match arguments {
        None => !cut && (PLAIN.contains(&name) || EITHER.contains(&name)),
        Some(arguments) => takes(name, arguments) && !(cut && EITHER.contains(&name)),
    };
    rest.strip_prefix('%').filter(|_| known)
}

/// Whether an operator takes arguments, as Envoy 1.40 checks them.
fn takes(name: &str, arguments: &str) -> bool {
    if arguments.is_empty() || arguments.contains('(') {
        return false;
    }
    match name {
        "REQ" | "RESP" | "TRAILER" => {
            let header = |name: &str| is_name(name.strip_prefix(':').unwrap_or(name));
            let (first, other) = arguments.split_once('?').unwrap_or((arguments, "a"));
            header(first) && header(other)
        }
        "FILTER_STATE" => match arguments.split_once(':') {
            Some((key, form)) => !key.is_empty() && (["PLAIN", "TYPED"].contains(&form) || form.starts_with("FIELD:")),
            None => true,
        },
        "METADATA" => {
            let of = arguments.split_once(':').map_or("", |(of, _)| of);
            ["DYNAMIC", "CLUSTER", "ROUTE", "UPSTREAM_HOST", "LISTENER"].contains(&of)
        }
        "GRPC_STATUS" => ["CAMEL_STRING", "SNAKE_STRING", "NUMBER"].contains(&arguments),
        "REQUESTED_SERVER_NAME" => ["SNI_ONLY", "SNI_FIRST", "HOST_FIRST"].contains(&arguments),
        "DYNAMIC_METADATA" | "UPSTREAM_METADATA" | "ENVIRONMENT" | "QUERY_PARAM" | "START_TIME" => true,
        _ => false,
    }
}

/// Operators without arguments.
pub(super) const PLAIN: [&str; 55] = [
    "BYTES_RECEIVED",
    "BYTES_SENT",
    "CONNECTION_ID",
    "CONNECTION_TERMINATION_DETAILS",
    "DOWNSTREAM_DIRECT_LOCAL_ADDRESS",
    "DOWNSTREAM_DIRECT_LOCAL_PORT",
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_LOCAL_ADDRESS",
    "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_LOCAL_DNS_SAN",
    "DOWNSTREAM_LOCAL_PORT",
    "DOWNSTREAM_LOCAL_SUBJECT",
    "DOWNSTREAM_LOCAL_URI_SAN",
    "DOWNSTREAM_PEER_CERT",
    "DOWNSTREAM_PEER_DNS_SAN",
    "DOWNSTREAM_PEER_FINGERPRINT_1",
    "DOWNSTREAM_PEER_FINGERPRINT_256",
    "DOWNSTREAM_PEER_ISSUER",
    "DOWNSTREAM_PEER_SERIAL",
    "DOWNSTREAM_PEER_SUBJECT",
    "DOWNSTREAM_PEER_URI_SAN",
    "DOWNSTREAM_REMOTE_ADDRESS",
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_REMOTE_PORT",
    "DOWNSTREAM_TLS_CIPHER",
    "DOWNSTREAM_TLS_SESSION_ID",
    "DOWNSTREAM_TLS_VERSION",
    "DURATION",
    "FILTER_CHAIN_NAME",
    "GRPC_STATUS_NUMBER",
    "HOSTNAME",
    "PROTOCOL",
    "REQUEST_DURATION",
    "RESPONSE_CODE",
    "RESPONSE_CODE_DETAILS",
    "RESPONSE_DURATION",
    "RESPONSE_FLAGS",
    "RESPONSE_FLAGS_LONG",
    "RESPONSE_TX_DURATION",
    "ROUTE_NAME",
    "STREAM_ID",
    "UPSTREAM_CLUSTER",
    "UPSTREAM_CLUSTER_RAW",
    "UPSTREAM_HOST",
    "UPSTREAM_LOCAL_ADDRESS",
    "UPSTREAM_LOCAL_PORT",
    "UPSTREAM_PROTOCOL",
    "UPSTREAM_REMOTE_ADDRESS",
    "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    "UPSTREAM_REMOTE_PORT",
    "UPSTREAM_REQUEST_ATTEMPT_COUNT",
    "UPSTREAM_TRANSPORT_FAILURE_REASON",
    "VIRTUAL_CLUSTER_NAME",
    "TRACE_ID",
];
/// Operators that may have arguments, and are never cut to a length.
pub(super) const EITHER: [&str; 3] = ["GRPC_STATUS", "REQUESTED_SERVER_NAME", "START_TIME"];
