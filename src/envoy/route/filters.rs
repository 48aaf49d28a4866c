//! What routes tell HTTP filters: faults and CORS.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::RuntimeFractionalPercent;
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::{FaultDelay, fault_delay};
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::CorsPolicy as EnvoyCors;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault, fault_abort};
use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
use envoy_types::pb::envoy::r#type::v3::fractional_percent::DenominatorType;

use super::{Checked, Refusal, headers, matches, refuse};
use crate::api::virtual_service::{Abort, CorsPolicy, Delay, HttpFaultInjection, HttpRoute, Percent};
use crate::envoy::encode::{boolean, duration};

/// Envoy's faults; none if there is nothing to inject.
/// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/fault_filter>
pub(super) fn fault(fault: &HttpFaultInjection) -> Checked<Option<HttpFault>> {
    let delay = fault.delay.as_ref().map(delay).transpose().map_err(|refusal| refusal.within("fault.delay"))?.flatten();
    let abort = fault.abort.as_ref().map(abort).transpose().map_err(|refusal| refusal.within("fault.abort"))?;
    Ok((delay.is_some() || abort.is_some()).then(|| HttpFault { delay, abort, ..HttpFault::default() }))
}

fn delay(delay: &Delay) -> Checked<Option<FaultDelay>> {
    let Some(time) = delay.fixed_delay else {
        return refuse("fixedDelay", "UnsupportedValue", "only a fixed delay can be injected; the rule is left out");
    };
    // No time at all is no delay, and Envoy refuses it.
    if time == Duration::ZERO {
        return Ok(None);
    }
    let percentage = match delay.percentage {
        Some(percentage) => share(percentage),
        None => percents(delay.percent),
    };
    let specifier = duration(time).map(fault_delay::FaultDelaySecifier::FixedDelay);
    Ok(Some(FaultDelay { percentage: Some(percentage), fault_delay_secifier: specifier }))
}

fn abort(abort: &Abort) -> Checked<FaultAbort> {
    let error = match (abort.http_status, abort.grpc_status.as_deref()) {
        (Some(status @ 200..=599), None) => fault_abort::ErrorType::HttpStatus(status),
        (None, Some(name)) => match GRPC_STATUSES.iter().zip(0..).find(|(known, _)| ***known == *name) {
            Some((_, status)) => fault_abort::ErrorType::GrpcStatus(status),
            None => {
                let message = format!("{name:?} is not the name of a gRPC status; the rule is left out");
                return refuse("grpcStatus", "UnsupportedValue", message);
            }
        },
        (Some(status), None) => {
            let message = format!("{status} is not an HTTP status from 200 to 599; the rule is left out");
            return refuse("httpStatus", "InvalidValue", message);
        }
        _ => return refuse("", "UnsupportedValue", "one of httpStatus and grpcStatus is needed; the rule is left out"),
    };
    let percentage = abort.percentage.map(share);
    Ok(FaultAbort { percentage, error_type: Some(error), ..FaultAbort::default() })
}

/// The names of gRPC's statuses, in order.
/// <https://grpc.io/docs/guides/status-codes/>
const GRPC_STATUSES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Envoy's CORS policy.
/// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/cors_filter>
pub(super) fn cors(cors: &CorsPolicy) -> Checked<EnvoyCors> {
    let mut origins = Vec::new();
    let exact: Vec<_> = match cors.allow_origins.is_empty() {
        true => cors.allow_origin.iter().cloned().map(crate::api::virtual_service::StringMatch::Exact).collect(),
        false => cors.allow_origins.clone(),
    };
    for (index, origin) in exact.iter().enumerate() {
        let at = format!("corsPolicy.allowOrigins[{index}]");
        match matches::string_matcher(origin).map_err(|refusal| refusal.within(&at))? {
            Some(matcher) => origins.push(matcher),
            None => return refuse(at, "InvalidValue", "exact, prefix or regex is needed; the rule is left out"),
        }
    }
    let joined = |field: &str, values: &[std::sync::Arc<str>]| {
        let joined = values.join(",");
        headers::check_text(&joined).map_err(|refusal| refusal.within(&format!("corsPolicy.{field}")))?;
        Ok(joined)
    };
    let all = FractionalPercent { numerator: 100, denominator: DenominatorType::Hundred.into() };
    Ok(EnvoyCors {
        allow_origin_string_match: origins,
        allow_methods: joined("allowMethods", &cors.allow_methods)?,
        allow_headers: joined("allowHeaders", &cors.allow_headers)?,
        expose_headers: joined("exposeHeaders", &cors.expose_headers)?,
        max_age: cors.max_age.map(|age| age.as_secs().to_string()).unwrap_or_default(),
        allow_credentials: cors.allow_credentials.and_then(boolean),
        filter_enabled: Some(RuntimeFractionalPercent {
            default_value: Some(all),
            ..RuntimeFractionalPercent::default()
        }),
        forward_not_matching_preflights: boolean(*cors.unmatched_preflights != *"IGNORE"),
        ..EnvoyCors::default()
    })
}

/// A share, to a ten-thousandth of a percent.
pub(super) fn share(percent: Percent) -> FractionalPercent {
    // The conversion saturates, and makes nothing of what is no number.
    let numerator = (percent.value.min(100.0) * 10_000.0).round() as u32;
    FractionalPercent { numerator, denominator: DenominatorType::Million.into() }
}

/// Says which shares are none, and what they are taken for.
pub(super) fn shares(http: &HttpRoute, note: &mut dyn FnMut(Refusal)) {
    let mut percents = Vec::new();
    let mut whole = |field: &str, percent: Option<u32>| {
        percents.extend(percent.map(|percent| (field.to_owned(), f64::from(percent))));
    };
    let fault = http.fault.as_ref();
    let delay = fault.and_then(|fault| fault.delay.as_ref());
    whole("fault.delay.percent", delay.map(|delay| delay.percent));
    whole("mirrorPercent", http.mirror_percent);
    let abort = fault.and_then(|fault| fault.abort.as_ref());
    let single = [
        ("fault.delay.percentage", delay.and_then(|delay| delay.percentage)),
        ("fault.abort.percentage", abort.and_then(|abort| abort.percentage)),
        ("mirrorPercentage", http.mirror_percentage),
    ];
    let single = single.into_iter().map(|(field, share)| (field.to_owned(), share));
    let mirrors = http.mirrors.iter().enumerate();
    let several = mirrors.map(|(at, mirror)| (format!("mirrors[{at}].percentage"), mirror.percentage));
    percents.extend(single.chain(several).filter_map(|(field, share)| Some((format!("{field}.value"), share?.value))));
    // Envoy counts in millionths.
    let none = |value: f64| value > 0.0 && share(Percent { value }).numerator == 0;
    for (field, value) in percents.into_iter().filter(|(_, value)| !(0.0..=100.0).contains(value) || none(*value)) {
        let instead = if value > 100.0 { "all requests" } else { "no request" };
        let message = format!("{value} is not a share from 0.0001 to 100 percents, or 0; taken for {instead}");
        note(Refusal { field, reason: "InvalidValue", message });
    }
}

/// A share in whole percents.
pub(super) fn percents(percent: u32) -> FractionalPercent {
    FractionalPercent { numerator: percent.min(100), denominator: DenominatorType::Hundred.into() }
}
