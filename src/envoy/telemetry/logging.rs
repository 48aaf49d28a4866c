//! Access logs: which providers log, and what of it.
//!
//! The object nearest to the proxy that names providers decides which there
//! are, as in Istio. Entries are read in order; one without providers is about
//! those of the entry before it, and the first about the defaults of the mesh.
//! A mesh without defaults has the file of `accessLogFile` in their place.

use std::collections::BTreeMap;
use std::sync::Arc;

use envoy_types::pb::envoy::config::accesslog::v3::AccessLog;

use crate::api::extension_provider::Provider;
use crate::api::telemetry::{AccessLogging, Telemetry as Object};
use crate::envoy::access_log::{self, Only};
use crate::graph::Diagnostic;
use crate::model::problem;

use super::{Request, cel, names, provider, say};

/// Something that logs.
pub(super) struct Logger {
    log: AccessLog,
    /// The expression of what it logs.
    expression: Option<Arc<str>>,
}

impl Logger {
    /// The access log, of what is of one of these kinds alone.
    pub(super) fn access_log(&self, only: &[Only]) -> AccessLog {
        let filter = access_log::filter(only, self.expression.as_deref());
        AccessLog { filter, ..self.log.clone() }
    }
}

/// A provider by its name; `None` is the file of the mesh configuration.
type Name = Option<Arc<str>>;

/// Whether a provider logs.
#[derive(Clone, PartialEq)]
enum State {
    Disabled,
    Enabled(Option<Arc<str>>),
    /// What it would log is not known.
    Unusable,
}

/// Where a name comes from.
#[derive(Clone, Copy)]
enum Origin<'a> {
    Mesh,
    Entry(&'a Object, usize),
}

pub(super) fn loggers(request: &Request<'_>, problems: &mut Vec<Diagnostic>) -> Vec<Logger> {
    let defaults = defaults(request);
    let entries: Vec<(&Object, usize, &AccessLogging)> = request
        .telemetries
        .iter()
        .flat_map(|one| one.spec.access_logging.iter().enumerate().map(|(at, entry)| (*one, at, entry)))
        .filter(|(.., entry)| request.side.is_meant(&entry.matches.mode))
        .collect();
    let mut states: BTreeMap<Name, (State, Origin<'_>)> = BTreeMap::new();
    if entries.is_empty() {
        states.extend(defaults.iter().map(|name| (name.clone(), (State::Enabled(None), Origin::Mesh))));
    }
    let scope = scope(request, &defaults);
    let mut parent = defaults;
    for (telemetry, at, entry) in entries {
        if !entry.providers.is_empty() {
            parent = names(&entry.providers).into_iter().map(Some).collect();
        }
        let state = state(request, telemetry, at, entry, problems);
        for name in parent.iter().filter(|name| scope.contains(name)) {
            states.insert(name.clone(), (state.clone(), Origin::Entry(telemetry, at)));
        }
    }
    let mut loggers = Vec::new();
    let mut decided = false;
    for (name, (state, origin)) in states {
        decided |= state != State::Enabled(None);
        let State::Enabled(expression) = state else { continue };
        match log(request, &name) {
            Ok(log) => loggers.extend(log.map(|log| Logger { log, expression })),
            Err(why) => {
                let name = name.unwrap_or_default();
                let message = format!("{why}; {name:?} logs nothing");
                match origin {
                    Origin::Entry(telemetry, at) => {
                        let field = format!("spec.accessLogging[{at}].providers");
                        say(problems, telemetry, field, "ProviderUnusable", message);
                    }
                    Origin::Mesh => problems.push(problem(
                        "ConfigMap",
                        request.mesh_origin,
                        "mesh.defaultProviders.accessLogging",
                        "ProviderUnusable",
                        message,
                    )),
                }
            }
        }
    }
    // Nobody said that nothing is to be logged, so it is better logged there.
    if loggers.is_empty() && !decided {
        let log = log(request, &None).ok().flatten();
        loggers.extend(log.map(|log| Logger { log, expression: None }));
    }
    if let Err(why) = access_log::mesh_format(request.mesh) {
        let message = format!("{why}; Istio's own format is used");
        let field = "mesh.accessLogFormat";
        problems.push(problem("ConfigMap", request.mesh_origin, field, "InvalidValue", message));
    }
    loggers
}

fn defaults(request: &Request<'_>) -> Vec<Name> {
    let defaults = &request.mesh.default_providers.access_logging;
    if defaults.is_empty() { vec![None] } else { defaults.iter().cloned().map(Some).collect() }
}

/// The providers there are: those that the last object names which names any.
fn scope(request: &Request<'_>, defaults: &[Name]) -> Vec<Name> {
    let named = request.telemetries.iter().rev().map(|telemetry| {
        let entries = telemetry.spec.access_logging.iter().filter(|entry| request.side.is_meant(&entry.matches.mode));
        entries.flat_map(|entry| names(&entry.providers)).map(Some).collect::<Vec<_>>()
    });
    named.into_iter().find(|names| !names.is_empty()).unwrap_or_else(|| defaults.to_vec())
}

fn state(
    request: &Request<'_>,
    telemetry: &Object,
    at: usize,
    entry: &AccessLogging,
    problems: &mut Vec<Diagnostic>,
) -> State {
    if entry.disabled == Some(true) {
        return State::Disabled;
    }
    let Some(filter) = entry.filter.as_ref().filter(|filter| !filter.expression.is_empty()) else {
        return State::Enabled(None);
    };
    let why = match request.capabilities.cel_log_filter {
        true => cel::check(&filter.expression),
        false => Err("the proxy was built without expressions in access logs".into()),
    };
    match why {
        Ok(()) => State::Enabled(Some(filter.expression.clone())),
        Err(why) => {
            let field = format!("spec.accessLogging[{at}].filter.expression");
            say(problems, telemetry, field, "InvalidValue", format!("{why}; nothing is logged"));
            State::Unusable
        }
    }
}

/// What a provider's log is; `None` if the mesh has no log file.
fn log(request: &Request<'_>, name: &Name) -> Result<Option<AccessLog>, String> {
    let mesh = request.mesh;
    let Some(name) = name else {
        let path = &mesh.access_log_file;
        return Ok((!path.is_empty()).then(|| access_log::of_mesh(path, mesh)));
    };
    let found = provider(mesh, name).ok_or_else(|| "there is no such provider".to_string())?;
    let collector = |service: &Arc<str>, port: u32| {
        let number = u16::try_from(port).ok().filter(|port| *port != 0);
        let collector = number.and_then(|port| (request.cluster)(service, port));
        collector.ok_or_else(|| format!("service {service}:{port} is not there"))
    };
    match &found.provider {
        // The provider that every mesh has logs as the mesh says.
        Provider::EnvoyFileAccessLog(file)
            if &*found.name == "envoy" && file.log_format.is_none() && !file.omit_empty_values =>
        {
            Ok(Some(access_log::of_mesh(access_log::path(file), mesh)))
        }
        Provider::EnvoyFileAccessLog(file) => access_log::file(file).map(Some),
        Provider::EnvoyHttpAls(als) => access_log::http_grpc(als, &collector(&als.service, als.port)?).map(Some),
        Provider::EnvoyTcpAls(als) => Ok(Some(access_log::tcp_grpc(als, &collector(&als.service, als.port)?))),
        Provider::EnvoyOtelAls(otel) => {
            access_log::open_telemetry(otel, &collector(&otel.service, otel.port)?).map(Some)
        }
        Provider::Unknown(kind) => Err(format!("{kind:?} is not a kind of provider that is known")),
        Provider::EnvoyExtAuthzHttp(_)
        | Provider::EnvoyExtAuthzGrpc(_)
        | Provider::OpenTelemetry(_)
        | Provider::Zipkin(_)
        | Provider::Datadog(_)
        | Provider::Skywalking(_)
        | Provider::Prometheus => Err("the provider does not log".into()),
    }
}
