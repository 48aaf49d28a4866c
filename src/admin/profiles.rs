//! What the process spends its time on, in the place and the format of Go's
//! `net/http/pprof`, so that `go tool pprof`, Parca and Pyroscope ask it as they
//! ask istiod.
//!
//! Who may ask is decided in [`super::access`]; these pages are for those who see
//! everything, as function names and lines are of no namespace. They are not
//! asked over xDS, as istiod's are not.

mod format;
mod recording;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

use std::io::Write as _;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderName, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use tokio_util::sync::CancellationToken;

use super::Admin;
use super::access::Viewer;
use recording::{Error, Recording};
#[cfg(test)]
pub(super) use reference::reference;

/// How long a profile takes if nobody says: Go's default.
const DEFAULT: u64 = 30;
/// The longest profile.
const LONGEST: u64 = 300;

/// A page below `/debug/pprof/`.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) query: &'static str,
    pub(super) what: &'static str,
}

/// What is answered.
pub(super) const PAGES: &[Row] = &[
    Row {
        name: "profile",
        query: "?seconds=30",
        what: "A CPU profile: 100 stacks for each second of CPU that the process uses in the next SECONDS (1 to 300, \
               30 if not given). One at a time.",
    },
    Row { name: "cmdline", query: "", what: "The command line; its words end with a zero byte." },
    Row { name: "symbol", query: "", what: "That there is nothing to look up: names are in the profile." },
];

/// What Go's runtime knows of itself: there is no such runtime here.
pub(super) const OF_GO: &[&str] = &["allocs", "block", "goroutine", "heap", "mutex", "threadcreate", "trace"];

/// Go's words for `go tool pprof`: it shows the text of an error with this header.
const OF_PPROF: (HeaderName, &str) = (HeaderName::from_static("x-go-pprof"), "1");

/// A page, or why there is none.
type Shown = Result<Response, (StatusCode, String)>;

pub(super) fn pages() -> Router<Admin> {
    Router::new()
        .route("/debug/pprof", get(index))
        .route("/debug/pprof/", get(index))
        // Names are posted to `symbol`.
        .route("/debug/pprof/{*page}", get(page).post(page))
}

async fn index(State(admin): State<Admin>, Extension(viewer): Extension<Viewer>) -> Response {
    let text = || {
        let line = |row: &Row| format!("{:<35} {}\n", format!("/debug/pprof/{}{}", row.name, row.query), row.what);
        PAGES.iter().map(line).collect::<String>()
    };
    allowed(&admin, &viewer).map_or_else(refused, |()| text().into_response())
}

async fn page(
    State(admin): State<Admin>,
    Extension(viewer): Extension<Viewer>,
    Path(name): Path<String>,
    uri: Uri,
) -> Response {
    let shown = match allowed(&admin, &viewer) {
        Ok(()) => show(&name, &uri, &admin.stopping).await,
        Err(refusal) => Err(refusal),
    };
    shown.unwrap_or_else(refused)
}

fn refused((status, reason): (StatusCode, String)) -> Response {
    (status, [OF_PPROF], format!("{reason}\n")).into_response()
}

fn allowed(admin: &Admin, viewer: &Viewer) -> Result<(), (StatusCode, String)> {
    if !admin.profile {
        return Err((StatusCode::NOT_FOUND, "there are no profiles: --profile=false".into()));
    }
    match viewer {
        Viewer::Everything => Ok(()),
        Viewer::Namespace(_) => {
            Err((StatusCode::FORBIDDEN, "profiles are for accounts of the control plane's namespace".into()))
        }
    }
}

async fn show(name: &str, uri: &Uri, stopping: &CancellationToken) -> Shown {
    match name {
        "profile" => {
            let duration = seconds(uri)?;
            profile(duration, stopping.clone()).await
        }
        "cmdline" => {
            let words: Vec<_> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
            Ok(words.join("\0").into_response())
        }
        "symbol" => Ok("num_symbols: 0\n".into_response()),
        name if OF_GO.contains(&name) => {
            let text = format!(
                "{name} is of Go's runtime, which is not here; /metrics has the memory of the process, \
                 /debug/pprof/profile what it does with the CPU"
            );
            Err((StatusCode::NOT_FOUND, text))
        }
        _ => {
            let known: Vec<_> = PAGES.iter().map(|row| row.name).collect();
            Err((StatusCode::NOT_FOUND, format!("404 page not found; there are {}", known.join(", "))))
        }
    }
}

/// For how long somebody wants to look. Go takes its default for what it cannot
/// read; here that is an error, so that nobody waits for something else.
fn seconds(uri: &Uri) -> Result<Duration, (StatusCode, String)> {
    let Query(arguments): Query<Vec<(String, String)>> =
        Query::try_from_uri(uri).map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
    let given = arguments.into_iter().find(|(name, _)| name == "seconds").map(|(_, value)| value);
    let Some(given) = given else { return Ok(Duration::from_secs(DEFAULT)) };
    match given.parse() {
        Ok(seconds @ 1..=LONGEST) => Ok(Duration::from_secs(seconds)),
        _ => Err((StatusCode::BAD_REQUEST, format!("seconds: {given:?} is not a number from 1 to {LONGEST}"))),
    }
}

/// A profile of the time to come. That it has begun is answered at once, as those
/// who ask wait for so much only a little longer than they asked for. Whoever goes
/// away ends it: what is under way is dropped with the answer.
async fn profile(duration: Duration, stopping: CancellationToken) -> Shown {
    let turn = recording::turn().map_err(status)?;
    tracing::info!(seconds = duration.as_secs(), "a CPU profile begins");
    let recording = blocking(move || Recording::begin(turn)).await?;
    let recorded = async move {
        let stopped = Err(std::io::Error::other("shutting down"));
        stopping.run_until_cancelled(record(recording, duration)).await.unwrap_or(stopped)
    };
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"profile\""),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, Body::from_stream(futures::stream::once(recorded))).into_response())
}

/// What is recorded until a time has passed, as it is sent.
async fn record(mut recording: Recording, duration: Duration) -> std::io::Result<Bytes> {
    let end = Instant::now() + duration;
    let failed = |(_, reason)| {
        tracing::warn!(reason, "a CPU profile has failed");
        std::io::Error::other(reason)
    };
    loop {
        let left = end.saturating_duration_since(Instant::now());
        tokio::time::sleep(left.min(recording::WINDOW)).await;
        if left <= recording::WINDOW {
            break;
        }
        recording = blocking(move || recording.read()).await.map_err(failed)?;
    }
    blocking(move || Ok(compressed(&format::encode(&recording.end()?)).into())).await.map_err(failed)
}

/// Does something away from the threads that serve.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, (StatusCode, String)> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(status),
        Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}

/// Go answers 500 to whoever comes second. It is nobody's fault, and a scraper
/// comes again: 409.
fn status(error: Error) -> (StatusCode, String) {
    let status = match &error {
        Error::Busy(_) => StatusCode::CONFLICT,
        Error::Folder { .. } | Error::Begin(_) | Error::Read(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, error.to_string())
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    // Memory does not fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}
