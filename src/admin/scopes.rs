//! Levels of the log by scope, to be read and set while the process runs, as
//! `istioctl admin log --ctrlz_port 15014` does: istiod has them on a port of
//! their own (ControlZ, `pkg/ctrlz/topics/scopes.go`). Only for callers on this
//! machine, which is what a forwarded port is.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use super::{Admin, access};

/// What is logged, by scope.
#[derive(Clone)]
pub struct Levels(Arc<Inner>);

struct Inner {
    /// What was said, by scope. Scopes without a level have that of `default`.
    // A lock and not a channel: held to write a filter when a person asks.
    said: Mutex<BTreeMap<String, String>>,
    apply: Apply,
}

/// Puts levels in force, as `--log_output_level` has them.
pub type Apply = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// The scopes that are always listed; what they are, `--log_output_level` knows.
const SCOPES: &[(&str, &str)] = &[
    ("default", "What has no scope of its own"),
    ("ads", "Streams to proxies"),
    ("ambient", "What ztunnels are told"),
    ("ca", "Certificates, and who asks for them"),
    ("kube", "What is read from the API server and written to it"),
];

/// From nothing to everything.
const LEVELS: &[&str] = &["none", "error", "warn", "info", "debug"];

/// A scope, as istioctl reads and writes it.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Scope {
    name: String,
    description: String,
    output_level: String,
    /// Never anything else: errors here have their causes in their text.
    stack_trace_level: String,
}

impl Levels {
    /// Those in force, as `--log_output_level` has them, and how others are put
    /// in force.
    pub fn new(in_force: &str, apply: Apply) -> Self {
        let said = in_force.split(',').map(str::trim).filter(|part| !part.is_empty()).map(|part| {
            let (scope, level) = part.split_once(':').unwrap_or(("default", part));
            (if scope == "all" { "default" } else { scope }.to_owned(), level.to_owned())
        });
        Self(Arc::new(Inner { said: Mutex::new(said.collect()), apply }))
    }

    fn scopes(&self) -> Vec<Scope> {
        let said = self.0.said.lock().unwrap_or_else(PoisonError::into_inner);
        let default = said.get("default").map_or("info", String::as_str);
        let others = said.keys().filter(|name| !SCOPES.iter().any(|(known, _)| known == name));
        let all = SCOPES.iter().copied().chain(others.map(|name| (name.as_str(), "")));
        let scope = |(name, description): (&str, &str)| Scope {
            name: name.into(),
            description: description.into(),
            output_level: said.get(name).map_or(default, String::as_str).into(),
            stack_trace_level: "none".into(),
        };
        all.map(scope).collect()
    }

    /// # Errors
    /// Says which scopes or levels there are.
    fn set(&self, name: &str, level: &str) -> Result<(), String> {
        // Only the level of stack traces was asked for.
        if level.is_empty() {
            return Ok(());
        }
        let known = self.scopes();
        if !known.iter().any(|scope| scope.name == name) {
            let names: Vec<_> = known.iter().map(|scope| scope.name.as_str()).collect();
            return Err(format!("unknown scope name: {name}; there are {}", names.join(", ")));
        }
        if !LEVELS.contains(&level) {
            return Err(format!("output_level: {level:?} is not one of {}", LEVELS.join(", ")));
        }
        // Held until it is in force: istioctl sets all scopes at once.
        let mut said = self.0.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.insert(name.to_owned(), level.to_owned());
        let text: Vec<_> = said.iter().map(|(scope, level)| format!("{scope}:{level}")).collect();
        (self.0.apply)(&text.join(","))
    }
}

pub(super) fn pages(admin: &Admin) -> Router<Admin> {
    Router::new()
        .route("/scopej", get(list))
        .route("/scopej/", get(list))
        .route("/scopej/{scope}", get(one).put(set))
        .route_layer(from_fn_with_state(admin.clone(), access::identified))
        .route_layer(from_fn(access::local_only))
}

async fn list(State(admin): State<Admin>) -> Json<Vec<Scope>> {
    Json(admin.levels.scopes())
}

async fn one(State(admin): State<Admin>, Path(name): Path<String>) -> Result<Json<Scope>, (StatusCode, String)> {
    let scope = admin.levels.scopes().into_iter().find(|scope| scope.name == name);
    scope.map(Json).ok_or_else(|| (StatusCode::BAD_REQUEST, format!("unknown scope name: {name}\n")))
}

/// istioctl says no content type, so the body is read as it is.
async fn set(
    State(admin): State<Admin>,
    Path(name): Path<String>,
    body: String,
) -> Result<StatusCode, (StatusCode, String)> {
    let bad = |reason: String| (StatusCode::BAD_REQUEST, format!("{reason}\n"));
    let wanted: Scope =
        serde_json::from_str(&body).map_err(|error| bad(format!("unable to decode request: {error}")))?;
    admin.levels.set(&name, &wanted.output_level).map_err(bad)?;
    tracing::info!(scope = name, level = wanted.output_level, "the level of a log scope was set");
    Ok(StatusCode::ACCEPTED)
}
