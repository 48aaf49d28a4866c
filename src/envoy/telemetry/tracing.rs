//! Traces: where spans go, how many, and what is in them.
//! <https://istio.io/latest/docs/tasks/observability/distributed-tracing/telemetry-api/>
//!
//! Later entries override single settings of earlier ones; tags take the place
//! of the earlier ones. Without any entry and without a default provider it is
//! what the mesh configuration says, and the tracer that of the bootstrap.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use envoy_types::pb::envoy::config::core::v3::http_uri::HttpUpstreamType;
use envoy_types::pb::envoy::config::core::v3::{
    GrpcService, HeaderValue, HeaderValueOption, HttpService, HttpUri, TypedExtensionConfig,
    header_value_option::HeaderAppendAction,
};
use envoy_types::pb::envoy::config::trace::v3::client_config::BackendTokenSpecifier;
use envoy_types::pb::envoy::config::trace::v3::tracing::Http;
use envoy_types::pb::envoy::config::trace::v3::tracing::http::ConfigType;
use envoy_types::pb::envoy::config::trace::v3::zipkin_config::{CollectorEndpointVersion, TraceContextOption};
use envoy_types::pb::envoy::config::trace::v3::{
    ClientConfig, DatadogConfig, OpenTelemetryConfig, SkyWalkingConfig, ZipkinConfig,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::Tracing as Config;
use envoy_types::pb::envoy::extensions::tracers::opentelemetry::resource_detectors::v3::{
    DynatraceResourceDetectorConfig, EnvironmentResourceDetectorConfig,
};
use envoy_types::pb::envoy::extensions::tracers::opentelemetry::samplers::v3::DynatraceSamplerConfig;
use envoy_types::pb::envoy::r#type::metadata::v3::metadata_key::{PathSegment, path_segment};
use envoy_types::pb::envoy::r#type::metadata::v3::metadata_kind::{Kind, Request as OfRequest};
use envoy_types::pb::envoy::r#type::metadata::v3::{MetadataKey, MetadataKind};
use envoy_types::pb::envoy::r#type::tracing::v3::CustomTag as Tag;
use envoy_types::pb::envoy::r#type::tracing::v3::custom_tag::{Environment, Header, Literal, Metadata, Type};
use envoy_types::pb::envoy::r#type::v3::Percent;

use crate::api::extension_provider::{
    AgentTracing, DynatraceApi, DynatraceSampler, OpenTelemetryTracing, Provider, ProviderHeader, TracingHttp,
    ZipkinTracing,
};
use crate::api::telemetry::{CustomTag, Telemetry as Object};
use crate::envoy::access_log;
use crate::envoy::authorization::matcher::is_header_name;
use crate::envoy::encode::{any, boolean, duration, uint32};
use crate::graph::Diagnostic;
use crate::model::problem;

use super::{Collector, Request, provider, say};

/// How many of a hundred requests are traced where nothing is said, as in Istio.
const SAMPLING: f64 = 1.0;
/// How long sending spans may take where nothing is said, as in Istio.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What is traced.
#[derive(Clone, Default)]
pub(super) struct Tracing {
    /// `None` if nothing is.
    pub(super) config: Option<Config>,
    /// Whether ids of requests do not say if they are traced.
    pub(super) ignores_request_id: bool,
}

type Tags = BTreeMap<Arc<str>, CustomTag>;

/// What remains when all entries have been put on top of each other.
struct Spec<'a> {
    provider: Option<(Arc<str>, Origin<'a>)>,
    disabled: bool,
    sampling: Option<f64>,
    tags: Option<(&'a Tags, Origin<'a>)>,
    istio_tags: bool,
    no_propagation: bool,
    ignores_request_id: bool,
}

/// Where a setting comes from.
#[derive(Clone, Copy)]
enum Origin<'a> {
    Mesh,
    Entry(&'a Object, usize),
}

pub(super) fn tracing(request: &Request<'_>, problems: &mut Vec<Diagnostic>) -> Tracing {
    let mesh = request.mesh;
    let own = &mesh.default_config.tracing;
    let spec = spec(request);
    let ignores_request_id = spec.ignores_request_id;
    let nothing = Tracing { config: None, ignores_request_id };
    let entries = request.telemetries.iter().any(|telemetry| !telemetry.spec.tracing.is_empty());
    let (mut config, sampled) = match &spec.provider {
        _ if spec.disabled => return nothing,
        Some((name, origin)) => match of_provider(request, name) {
            Ok(found) => found,
            Err(why) => {
                let message = format!("{why}; nothing is traced");
                report(request, *origin, "providers", "tracing", "ProviderUnusable", message, problems);
                return nothing;
            }
        },
        None if !entries && mesh.enable_tracing => (Config::default(), false),
        None => return nothing,
    };
    let percent = |value| Some(Percent { value });
    let of_mesh = own.sampling.filter(|sampling| *sampling != 0.0);
    let sampling = spec.sampling.or(of_mesh).unwrap_or(SAMPLING);
    let sampling = if (0.0..=100.0).contains(&sampling) { sampling } else { SAMPLING };
    // A sampler has to see all.
    let sampling = if sampled { 100.0 } else { sampling };
    config.client_sampling = percent(100.0);
    config.overall_sampling = percent(100.0);
    config.random_sampling = percent(sampling);
    if config.max_path_tag_length.is_none() {
        config.max_path_tag_length = own.max_path_tag_length.filter(|length| *length != 0).and_then(uint32);
    }
    config.no_context_propagation = spec.no_propagation;
    let mut tags = Vec::new();
    if spec.istio_tags {
        tags.extend(istio_tags(request));
    }
    let (given, origin) = spec.tags.unwrap_or((&own.custom_tags, Origin::Mesh));
    for (name, tag) in given {
        match custom_tag(name, tag) {
            Ok(tag) => tags.push(tag),
            Err(why) => {
                let message = format!("{why}; spans do not have the tag");
                let field = format!("customTags[{name}]");
                report(request, origin, &field, "tracing", "InvalidValue", message, problems);
            }
        }
    }
    // Of two with one name the user's counts.
    tags.reverse();
    tags.sort_by(|a: &Tag, b: &Tag| a.tag.cmp(&b.tag));
    tags.dedup_by(|a, b| a.tag == b.tag);
    config.custom_tags = tags;
    Tracing { config: Some(config), ignores_request_id }
}

fn spec<'a>(request: &Request<'a>) -> Spec<'a> {
    let default = request.mesh.default_providers.tracing.first();
    let mut spec = Spec {
        provider: default.map(|name| (name.clone(), Origin::Mesh)),
        disabled: false,
        sampling: None,
        tags: None,
        istio_tags: request.mesh.default_config.tracing.enable_istio_tags.unwrap_or(true),
        no_propagation: false,
        ignores_request_id: false,
    };
    for telemetry in request.telemetries {
        for (at, entry) in telemetry.spec.tracing.iter().enumerate() {
            if !request.side.is_meant(&entry.matches.mode) {
                continue;
            }
            let origin = Origin::Entry(telemetry, at);
            if let Some(first) = entry.providers.first() {
                spec.provider = Some((first.name.clone(), origin));
            }
            spec.disabled = entry.disable_span_reporting.unwrap_or(spec.disabled);
            spec.sampling = entry.random_sampling_percentage.or(spec.sampling);
            spec.tags = entry.custom_tags.as_ref().map(|tags| (tags, origin)).or(spec.tags);
            spec.istio_tags = entry.enable_istio_tags.unwrap_or(spec.istio_tags);
            spec.no_propagation = entry.disable_context_propagation.unwrap_or(spec.no_propagation);
            let by_id = entry.use_request_id_for_trace_sampling;
            spec.ignores_request_id = by_id.map_or(spec.ignores_request_id, |by_id| !by_id);
        }
    }
    spec
}

fn report(
    request: &Request<'_>,
    origin: Origin<'_>,
    field: &str,
    of: &str,
    reason: &'static str,
    message: String,
    problems: &mut Vec<Diagnostic>,
) {
    match origin {
        Origin::Entry(telemetry, at) => say(problems, telemetry, format!("spec.{of}[{at}].{field}"), reason, message),
        Origin::Mesh => {
            let field = match field {
                "providers" => format!("mesh.defaultProviders.{of}"),
                field => format!("mesh.defaultConfig.{of}.{field}"),
            };
            problems.push(problem("ConfigMap", request.mesh_origin, field, reason, message));
        }
    }
}

/// What a provider is told, and whether it has a sampler of its own.
fn of_provider(request: &Request<'_>, name: &str) -> Result<(Config, bool), String> {
    let found = provider(request.mesh, name).ok_or_else(|| format!("there is no provider {name:?}"))?;
    let collector = |service: &str, port: u32| {
        let port = u16::try_from(port).ok().filter(|port| *port != 0);
        let collector = port.and_then(|port| (request.cluster)(service, port));
        collector.ok_or_else(|| format!("provider {name:?} is at service {service}, which is not there"))
    };
    let mut sampled = false;
    let mut upstream_spans = None;
    let (tracer, typed_config, longest) = match &found.provider {
        Provider::Zipkin(zipkin) => {
            let config = of_zipkin(zipkin, collector(&zipkin.service, zipkin.port)?)?;
            ("envoy.tracers.zipkin", any(&config), zipkin.max_tag_length)
        }
        Provider::OpenTelemetry(otel) => {
            let mut config = of_open_telemetry(request, otel, collector(&otel.service, otel.port)?)?;
            if let Some(sampler) = &otel.dynatrace_sampler {
                let sampler = of_dynatrace(otel, sampler, &config, &collector)?;
                config.sampler = Some(TypedExtensionConfig {
                    name: "envoy.tracers.opentelemetry.samplers.dynatrace".into(),
                    typed_config: Some(any(&sampler)),
                });
                sampled = true;
            }
            ("envoy.tracers.opentelemetry", any(&config), otel.max_tag_length)
        }
        Provider::Datadog(agent) => {
            let Collector { cluster, hostname } = collector(&agent.service, agent.port)?;
            let config = DatadogConfig {
                collector_cluster: cluster,
                collector_hostname: hostname,
                service_name: service_name(request),
                ..Default::default()
            };
            ("envoy.tracers.datadog", any(&config), agent.max_tag_length)
        }
        Provider::Skywalking(agent) => {
            let config = of_skywalking(agent, collector(&agent.service, agent.port)?);
            // Its spans have to be of two kinds.
            upstream_spans = boolean(true);
            ("envoy.tracers.skywalking", any(&config), 0)
        }
        Provider::Unknown(kind) => return Err(format!("{kind:?} is not a kind of provider that is known")),
        _ => return Err(format!("provider {name:?} takes no traces")),
    };
    let config = Config {
        spawn_upstream_span: upstream_spans,
        provider: Some(Http { name: tracer.into(), config_type: Some(ConfigType::TypedConfig(typed_config)) }),
        max_path_tag_length: if longest == 0 { None } else { uint32(longest) },
        ..Default::default()
    };
    Ok((config, sampled))
}

/// What spans say that the proxy is.
fn service_name(request: &Request<'_>) -> String {
    format!("{}.{}", request.gateway.name, request.gateway.namespace)
}

fn of_skywalking(agent: &AgentTracing, Collector { cluster, hostname }: Collector) -> SkyWalkingConfig {
    let envoy = EnvoyGrpc { cluster_name: cluster, authority: hostname, ..Default::default() };
    let token = Some(&agent.access_token).filter(|token| !token.is_empty());
    SkyWalkingConfig {
        grpc_service: Some(GrpcService {
            target_specifier: Some(TargetSpecifier::EnvoyGrpc(envoy)),
            ..Default::default()
        }),
        client_config: token.map(|token| ClientConfig {
            backend_token_specifier: Some(BackendTokenSpecifier::BackendToken(token.to_string())),
            ..Default::default()
        }),
    }
}

/// The sampler of Dynatrace, which asks a service how much to sample: that of
/// its own, or else the one that takes the spans.
fn of_dynatrace(
    otel: &OpenTelemetryTracing,
    sampler: &DynatraceSampler,
    spans: &OpenTelemetryConfig,
    collector: &dyn Fn(&str, u32) -> Result<Collector, String>,
) -> Result<DynatraceSamplerConfig, String> {
    let http_service = match &sampler.http_service {
        Some(DynatraceApi { service, port, http }) => {
            let Collector { cluster, hostname } = collector(service, *port)?;
            let TracingHttp { path, timeout, headers } = http.clone().unwrap_or_default();
            self::http_service(cluster, &hostname, &path, timeout, &headers)?
        }
        None => {
            let Some(mut service) = spans.http_service.clone() else {
                return Err("dynatraceSampler needs httpService, as spans do not go out by http".into());
            };
            let Collector { hostname, .. } = collector(&otel.service, otel.port)?;
            if let Some(to) = &mut service.http_uri {
                to.uri = format!("http://{hostname}/api/v2/samplingConfiguration");
            }
            service
        }
    };
    Ok(DynatraceSamplerConfig {
        tenant: sampler.tenant.to_string(),
        cluster_id: sampler.cluster_id,
        http_service: Some(http_service),
        root_spans_per_minute: sampler.root_spans_per_minute,
    })
}

fn of_zipkin(zipkin: &ZipkinTracing, Collector { cluster, hostname }: Collector) -> Result<ZipkinConfig, String> {
    let path = if zipkin.path.is_empty() { "/api/v2/spans" } else { &*zipkin.path };
    let config = ZipkinConfig {
        trace_id_128bit: !zipkin.enable_64bit_trace_id,
        shared_span_context: boolean(false),
        collector_endpoint_version: CollectorEndpointVersion::HttpJson.into(),
        trace_context_option: match &*zipkin.trace_context_option {
            "USE_B3_WITH_W3C_PROPAGATION" => TraceContextOption::UseB3WithW3cPropagation,
            _ => TraceContextOption::UseB3,
        }
        .into(),
        ..Default::default()
    };
    // Proxies have known the fields longer than the message that has the rest.
    if zipkin.timeout.is_none() && zipkin.headers.is_empty() {
        let (collector_cluster, collector_hostname) = (cluster, hostname);
        return Ok(ZipkinConfig { collector_cluster, collector_hostname, collector_endpoint: path.into(), ..config });
    }
    let service = http_service(cluster, &hostname, path, zipkin.timeout, &zipkin.headers)?;
    Ok(ZipkinConfig { collector_service: Some(service), ..config })
}

fn of_open_telemetry(
    request: &Request<'_>,
    otel: &OpenTelemetryTracing,
    Collector { cluster, hostname }: Collector,
) -> Result<OpenTelemetryConfig, String> {
    let mut config = OpenTelemetryConfig { service_name: service_name(request), ..Default::default() };
    match &otel.http {
        Some(TracingHttp { path, timeout, headers }) => {
            config.http_service = Some(http_service(cluster, &hostname, path, *timeout, headers)?);
        }
        None => {
            let grpc = otel.grpc.as_ref();
            let metadata = grpc.map(|grpc| &*grpc.initial_metadata).unwrap_or_default();
            let envoy = EnvoyGrpc { cluster_name: cluster, authority: hostname, ..Default::default() };
            config.grpc_service = Some(GrpcService {
                target_specifier: Some(TargetSpecifier::EnvoyGrpc(envoy)),
                timeout: grpc.and_then(|grpc| grpc.timeout).and_then(duration),
                initial_metadata: metadata.iter().map(header).collect::<Result<_, _>>()?,
                ..Default::default()
            });
        }
    }
    let conventions = &*otel.service_attribute_enrichment == "OTEL_SEMANTIC_CONVENTIONS";
    if otel.resource_detectors.environment.is_some() || conventions {
        config.resource_detectors.push(TypedExtensionConfig {
            name: "envoy.tracers.opentelemetry.resource_detectors.environment".into(),
            typed_config: Some(any(&EnvironmentResourceDetectorConfig {})),
        });
    }
    if otel.resource_detectors.dynatrace.is_some() {
        config.resource_detectors.push(TypedExtensionConfig {
            name: "envoy.tracers.opentelemetry.resource_detectors.dynatrace".into(),
            typed_config: Some(any(&DynatraceResourceDetectorConfig {})),
        });
    }
    Ok(config)
}

fn http_service(
    cluster: String,
    hostname: &str,
    path: &str,
    timeout: Option<Duration>,
    headers: &[ProviderHeader],
) -> Result<HttpService, String> {
    let overwrite = HeaderAppendAction::OverwriteIfExistsOrAdd;
    let option = |header: &ProviderHeader| {
        Ok::<_, String>(HeaderValueOption {
            header: Some(self::header(header)?),
            append_action: overwrite.into(),
            ..Default::default()
        })
    };
    Ok(HttpService {
        http_uri: Some(HttpUri {
            uri: format!("http://{hostname}/{}", path.trim_start_matches('/')),
            timeout: duration(timeout.unwrap_or(TIMEOUT)),
            http_upstream_type: Some(HttpUpstreamType::Cluster(cluster)),
        }),
        request_headers_to_add: headers.iter().map(option).collect::<Result<_, _>>()?,
        ..Default::default()
    })
}

fn header(given: &ProviderHeader) -> Result<HeaderValue, String> {
    if !is_header_name(&given.name) || given.name.starts_with(':') {
        return Err(format!("{:?} is not the name of a header", given.name));
    }
    // What a proxy is told depends on objects alone.
    if !given.env_name.is_empty() {
        return Err(format!("a value of the environment, such as {}, is not supported", given.env_name));
    }
    Ok(HeaderValue { key: given.name.to_string(), value: given.value.to_string(), ..Default::default() })
}

/// The tags that spans of Istio have. Who is at either end is only known to
/// proxies with Istio's filter for it.
fn istio_tags(request: &Request<'_>) -> Vec<Tag> {
    let literal = |tag: &str, value: &str| Tag {
        tag: tag.into(),
        r#type: Some(Type::Literal(Literal { value: if value.is_empty() { "unknown" } else { value }.into() })),
    };
    let mut tags = vec![
        literal("istio.canonical_revision", "latest"),
        literal("istio.canonical_service", &request.gateway.name),
        literal("istio.cluster_id", request.cluster_id),
        literal("istio.mesh_id", &request.mesh.trust_domain),
        literal("istio.namespace", &request.gateway.namespace),
    ];
    for action in ["allow", "deny"] {
        for (name, key) in [("name", "shadow_effective_policy_id"), ("result", "shadow_engine_result")] {
            tags.push(Tag {
                tag: format!("istio.authorization.dry_run.{action}_policy.{name}"),
                r#type: Some(Type::Metadata(of_filter(format!("istio_dry_run_{action}_{key}")))),
            });
        }
    }
    if request.capabilities.peer_metadata {
        let ends = [("source", "downstream"), ("destination", "upstream")];
        for (end, peer) in ends {
            tags.extend(PEER_FIELDS.iter().map(|(name, field)| Tag {
                tag: format!("istio.{end}_{name}"),
                r#type: Some(Type::Value(format!("%FILTER_STATE({peer}_peer_obj:FIELD:{field})%"))),
            }));
        }
    }
    tags
}

/// Tags of either end, and what Istio's filter calls them.
const PEER_FIELDS: [(&str, &str); 9] = [
    ("app", "app"),
    ("app_version", "version"),
    ("canonical_revision", "revision"),
    ("canonical_service", "service"),
    ("cluster_id", "cluster"),
    ("instance_name", "name"),
    ("namespace", "namespace"),
    ("workload", "workload"),
    ("workload_type", "type"),
];

/// What Envoy's authorization filter leaves in metadata.
fn of_filter(key: String) -> Metadata {
    let path = vec![PathSegment { segment: Some(path_segment::Segment::Key(key)) }];
    Metadata {
        kind: Some(MetadataKind { kind: Some(Kind::Request(OfRequest {})) }),
        metadata_key: Some(MetadataKey { key: "envoy.filters.http.rbac".into(), path }),
        ..Default::default()
    }
}

/// A tag that a user wants. Envoy refuses those that say nothing.
fn custom_tag(name: &str, given: &CustomTag) -> Result<Tag, String> {
    let said = |text: &str| match text.is_empty() {
        true => Err("it has no value".to_string()),
        false => Ok(text.to_owned()),
    };
    let CustomTag { literal, environment, header, formatter } = given;
    let kind = if let Some(literal) = literal {
        Type::Literal(Literal { value: said(&literal.value)? })
    } else if let Some(variable) = environment {
        Type::Environment(Environment {
            name: said(&variable.name)?,
            default_value: variable.default_value.to_string(),
        })
    } else if let Some(header) = header {
        if !is_header_name(&header.name) {
            return Err(format!("{:?} is not the name of a header", header.name));
        }
        Type::RequestHeader(Header { name: header.name.to_string(), default_value: header.default_value.to_string() })
    } else if let Some(formatter) = formatter {
        Type::Value(said(access_log::checked(&formatter.value)?)?)
    } else {
        return Err("it is none of the kinds of tags that are known".into());
    };
    Ok(Tag { tag: said(name)?, r#type: Some(kind) })
}
