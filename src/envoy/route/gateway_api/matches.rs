//! When the Gateway API's rules apply.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::api::route::{GrpcMethodMatch, GrpcRouteMatch, HttpPathMatch, HttpRouteMatch, ValueMatch};
use crate::api::unknown::Unknown;
use crate::api::virtual_service::{HttpMatchRequest, StringMatch};
use crate::envoy::route::action::quoted;

/// Why a match cannot be expressed.
pub(super) struct Refused {
    pub(super) field: String,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

fn unsupported<T>(field: impl Into<String>, message: impl Into<String>) -> Result<T, Refused> {
    Err(Refused { field: field.into(), reason: "UnsupportedValue", message: message.into() })
}

fn known(field: &str, unknown: &Unknown) -> Result<(), Refused> {
    match unknown.names().next() {
        None => Ok(()),
        Some(name) => Err(Refused {
            field: if field.is_empty() { name.to_owned() } else { format!("{field}.{name}") },
            reason: "UnknownField",
            message: "this version does not know the condition".into(),
        }),
    }
}

pub(super) fn http(one: &HttpRouteMatch) -> Result<HttpMatchRequest, Refused> {
    known("", &one.unknown)?;
    let method = (!one.method.is_empty()).then(|| StringMatch::Exact(one.method.clone()));
    Ok(HttpMatchRequest {
        uri: Some(path(one.path.as_ref().unwrap_or(&HttpPathMatch::default()))?),
        headers: values("headers", &one.headers, str::to_ascii_lowercase)?,
        query_params: values("queryParams", &one.query_params, str::to_owned)?,
        method,
        ..HttpMatchRequest::default()
    })
}

pub(super) fn grpc(one: &GrpcRouteMatch) -> Result<HttpMatchRequest, Refused> {
    known("", &one.unknown)?;
    Ok(HttpMatchRequest {
        uri: one.method.as_ref().map(grpc_method).transpose()?,
        headers: values("headers", &one.headers, str::to_ascii_lowercase)?,
        ..HttpMatchRequest::default()
    })
}

fn path(path: &HttpPathMatch) -> Result<StringMatch, Refused> {
    let value = path.value.clone().unwrap_or_else(|| "/".into());
    match &*path.kind {
        "" | "PathPrefix" if &*value == "/" => Ok(StringMatch::Prefix(value)),
        // "When specified, a trailing `/` is ignored."
        "" | "PathPrefix" => Ok(StringMatch::Prefix(value.strip_suffix('/').unwrap_or(&value).into())),
        "Exact" => Ok(StringMatch::Exact(value)),
        "RegularExpression" => Ok(StringMatch::Regex(value)),
        other => unsupported("path.type", format!("{other:?} is not a type that is known")),
    }
}

/// A gRPC method as the path it has in HTTP/2: `/SERVICE/METHOD`.
fn grpc_method(one: &GrpcMethodMatch) -> Result<StringMatch, Refused> {
    known("method", &one.unknown)?;
    let (service, method) = (&*one.service, &*one.method);
    Ok(match (&*one.kind, service, method) {
        (_, "", "") => return unsupported("method", "neither a service nor a method is given"),
        ("" | "Exact", _, "") => StringMatch::Prefix(format!("/{service}/").into()),
        ("" | "Exact", "", _) => StringMatch::Regex(format!("/[^/]+/{}", quoted(method)).into()),
        ("" | "Exact", _, _) => StringMatch::Exact(format!("/{service}/{method}").into()),
        // In groups, so that alternatives stay within their segment.
        ("RegularExpression", _, "") => StringMatch::Regex(format!("/(?:{service})/.+").into()),
        ("RegularExpression", "", _) => StringMatch::Regex(format!("/[^/]+/(?:{method})").into()),
        ("RegularExpression", _, _) => StringMatch::Regex(format!("/(?:{service})/(?:{method})").into()),
        (other, _, _) => return unsupported("method.type", format!("{other:?} is not a type that is known")),
    })
}

/// Conditions by name. "If multiple entries specify equivalent names, only the
/// first entry MUST be considered."
fn values(
    field: &str,
    values: &[ValueMatch],
    key: impl Fn(&str) -> String,
) -> Result<BTreeMap<Arc<str>, StringMatch>, Refused> {
    let mut all = BTreeMap::new();
    for (index, one) in values.iter().enumerate() {
        let at = format!("{field}[{index}]");
        known(&at, &one.unknown)?;
        let value = match &*one.kind {
            "" | "Exact" => StringMatch::Exact(one.value.clone()),
            "RegularExpression" => StringMatch::Regex(one.value.clone()),
            other => return unsupported(at + ".type", format!("{other:?} is not a type that is known")),
        };
        all.entry(key(&one.name).into()).or_insert(value);
    }
    Ok(all)
}
