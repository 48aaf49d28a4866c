//! Traces to an OTLP collector, over gRPC in plaintext.

use std::collections::VecDeque;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use opentelemetry::trace::{Span, SpanContext, SpanKind, Status, TraceContextExt, Tracer, TracerProvider};
use opentelemetry::{Array, Context, KeyValue, StringValue, Value};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};

use super::{Change, Push, Settings};

/// How many changes are remembered for the pushes that come of them.
const RECENT: usize = 64;
/// For how long. What is sent later has other reasons.
const LATEST: Duration = Duration::from_secs(60);
/// How many pushes of a change are told of: what is to be seen is how long they
/// take, and a large mesh has a thousand.
const PUSHES: usize = 100;
/// How long a collector has to take a batch.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long what is left may take at the end.
const FAREWELL: Duration = Duration::from_secs(1);

/// The `commit` span of a change.
pub(super) type Parent = SpanContext;

struct Sink {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    // A lock and not a channel: held to look at some dozens of numbers, once for
    // each commit and response.
    recent: Mutex<VecDeque<Recent>>,
}

struct Recent {
    revision: u64,
    parent: Parent,
    since: Instant,
    pushes: usize,
}

static SINK: OnceLock<Sink> = OnceLock::new();

pub(super) fn start(settings: &Settings) -> anyhow::Result<()> {
    let exporter = SpanExporter::builder().with_tonic().with_endpoint(&settings.endpoint).with_timeout(PATIENCE);
    let exporter = exporter.build().with_context(|| format!("no traces to {}", settings.endpoint))?;
    let resource = Resource::builder()
        .with_service_name(settings.service.clone())
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("service.instance.id", settings.instance.clone()));
    // Its queue is bounded and its thread is its own.
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(settings.share))))
        .with_resource(resource.build())
        .build();
    let tracer = provider.tracer("fairway");
    let sink = Sink { provider, tracer, recent: Mutex::default() };
    SINK.set(sink).map_err(|_| anyhow::anyhow!("traces are sent already"))
}

pub(super) fn stop() {
    if let Some(sink) = SINK.get() {
        // Whatever it says, this is the end.
        let _ = sink.provider.shutdown_with_timeout(FAREWELL);
    }
}

pub(super) fn on() -> bool {
    SINK.get().is_some()
}

pub(super) fn changed(change: Change) {
    let Some(sink) = SINK.get() else { return };
    let revision = change.revision.map(|revision| number("fairway.revision", revision));
    let published = SystemTime::now();
    let mut root = sink
        .tracer
        .span_builder("change")
        .with_kind(SpanKind::Consumer)
        .with_start_time(change.heard)
        .with_attributes(revision.clone().into_iter().chain([number("fairway.events", change.events)]))
        .start_with_context(&sink.tracer, &Context::new());
    if !root.span_context().is_sampled() {
        return;
    }
    let collections: Vec<StringValue> =
        change.rows.iter().map(|(collection, rows)| format!("{collection}: {rows}").into()).collect();
    let rows: u64 = change.rows.iter().map(|(_, rows)| rows).sum();
    let attributes =
        [number("fairway.rows", rows), KeyValue::new("fairway.collections", Value::Array(Array::String(collections)))];
    let mut commit = sink
        .tracer
        .span_builder("commit")
        .with_start_time(change.begun)
        .with_attributes(revision.into_iter().chain(attributes))
        .start_with_context(&sink.tracer, &below(root.span_context()));
    let parent = commit.span_context().clone();
    commit.end_with_timestamp(change.committed);
    root.end_with_timestamp(published);
    if let Some(revision) = change.revision {
        let mut recent = sink.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == RECENT {
            recent.pop_front();
        }
        recent.push_back(Recent { revision, parent, since: Instant::now(), pushes: 0 });
    }
}

pub(super) fn follow(revision: u64) -> Option<Parent> {
    let mut recent = SINK.get()?.recent.lock().unwrap_or_else(PoisonError::into_inner);
    let change = recent.iter_mut().rev().find(|change| change.revision == revision)?;
    let follows = change.since.elapsed() < LATEST && change.pushes < PUSHES;
    change.pushes += usize::from(follows);
    follows.then(|| change.parent.clone())
}

pub(super) fn judged(push: Push, proxy: &str, error: Option<&str>) {
    let Some(sink) = SINK.get() else { return };
    let attributes = [
        KeyValue::new("fairway.type", push.ty),
        KeyValue::new("fairway.proxy", proxy.to_owned()),
        number("fairway.resources", push.resources),
        number("fairway.removed", push.removed),
        number("fairway.bytes", push.bytes),
        KeyValue::new("fairway.sending_seconds", push.sending.as_secs_f64()),
        KeyValue::new("fairway.answer", if error.is_some() { "NACK" } else { "ACK" }),
    ];
    let mut span = sink
        .tracer
        .span_builder("push")
        .with_kind(SpanKind::Producer)
        .with_start_time(push.begun)
        .with_attributes(attributes)
        .start_with_context(&sink.tracer, &below(&push.of.0));
    if let Some(error) = error {
        span.set_status(Status::error(error.to_owned()));
    }
    span.end();
}

fn below(parent: &SpanContext) -> Context {
    Context::new().with_remote_span_context(parent.clone())
}

fn number(name: &'static str, number: impl TryInto<i64>) -> KeyValue {
    KeyValue::new(name, number.try_into().unwrap_or(i64::MAX))
}
