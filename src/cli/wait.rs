//! `fairway wait`: until every proxy has what an object says.
//!
//! The API server says which generation there is. Each replica says when that one
//! is in force, and as of which revision of what proxies are told; from then on
//! its proxies are waited for until they have judged everything up to there.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use http::StatusCode;
use serde::Serialize;
use serde_json::Value;

use super::connect::{Cluster, ControlPlane, is_status, runtime};
use super::kinds;
use super::output::{self, Look, Progress};
use super::proxies::{self, Proxy};
use crate::api::Kind;
use crate::config::terminal::Wait;

/// How often replicas are asked.
const INTERVAL: Duration = Duration::from_millis(200);
/// How long a replica has to answer when there is hardly any time left.
const LAST_ANSWER: Duration = Duration::from_secs(1);

/// What came of it.
#[derive(Debug, Serialize)]
struct Outcome {
    object: String,
    /// How many proxies have it.
    proxies: usize,
    /// On how many replicas.
    replicas: usize,
    seconds: f64,
}

/// Waits, and says what came of it.
pub fn wait(flags: &Wait) -> anyhow::Result<()> {
    let kind = kinds::kind(&flags.kind)?;
    let started = Instant::now();
    let outcome = runtime()?.block_on(async {
        let mut control_plane = ControlPlane::find(&flags.connection).await?;
        until(flags, kind, &mut control_plane, started).await
    })?;
    output::print(flags.output, &outcome, |style| {
        let what = if flags.deleted { "is gone from" } else { "is in force at" };
        let (proxies, replicas) =
            (counted(outcome.proxies, "proxy", "proxies"), counted(outcome.replicas, "replica", "replicas"));
        let done = style.paint(Look::Good, &outcome.object);
        format!("{done} {what} {proxies} of {replicas} after {:.1}s\n", outcome.seconds)
    })
}

fn counted(number: usize, one: &str, many: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {many}") }
}

async fn until(
    flags: &Wait,
    kind: Kind,
    control_plane: &mut ControlPlane,
    started: Instant,
) -> anyhow::Result<Outcome> {
    let info = kind.info();
    let namespace = if info.namespaced { flags.namespace.as_str() } else { "" };
    let key = if namespace.is_empty() { flags.name.clone() } else { format!("{namespace}/{}", flags.name) };
    let object = format!("{} {key}", said(kind));
    let generation = match (&control_plane.cluster, flags.deleted) {
        (Some(cluster), false) => {
            let there = stored(cluster, kind, namespace, &flags.name).await?;
            let there = there.with_context(|| format!("there is no {object}"))?;
            there.pointer("/metadata/generation").and_then(Value::as_i64)
        }
        _ => None,
    };
    let page = format!("/debug/objectz?kind={}&namespace={namespace}&name={}", info.subject, flags.name);
    let mut revisions = BTreeMap::<String, u64>::new();
    let (mut progress, mut said) = (Progress::new(), String::new());
    loop {
        // A replica that hangs is no reason to wait longer than was asked for.
        let left = flags.timeout.saturating_sub(started.elapsed());
        control_plane.answer_within((left / 2).max(LAST_ANSWER));
        let mut gone = false;
        for (replica, page) in control_plane.pages(&page).await {
            match page {
                Ok(page) if is_in_force(&page, generation, flags.deleted) => {
                    let revision = page.get("revision").and_then(Value::as_u64).unwrap_or(0);
                    // What came later is not waited for. One that has begun again
                    // counts from the start.
                    let first = revisions.entry(replica.name.clone()).or_insert(revision);
                    *first = revision.min(*first);
                }
                Ok(_) => said = format!("{} does not know of it yet", replica.name),
                Err(error) => {
                    gone |= is_status(&error, StatusCode::NOT_FOUND);
                    said = format!("{}: {error:#}", replica.name);
                }
            }
        }
        if gone && let Ok(found) = ControlPlane::find(&flags.connection).await {
            // Its pod is no more, as in an upgrade, and there may be another.
            *control_plane = found;
            revisions.retain(|name, _| control_plane.replicas.iter().any(|one| one.name == *name));
        }
        let (proxies, silent) = proxies::connected(control_plane).await;
        // As replicas write it, which have one name for each kind.
        let subject = format!("{} {key}", info.subject);
        let judged =
            |proxy: &&Proxy| revisions.get(&proxy.replica).is_some_and(|revision| proxy.settled >= Some(*revision));
        if let Some(rejection) = rejection(&object, &subject, proxies.iter().filter(judged)) {
            bail!("{rejection}");
        }
        let late = late(&proxies, &revisions);
        if revisions.len() == control_plane.replicas.len() && late.is_empty() && silent.is_empty() {
            let seconds = started.elapsed().as_secs_f64();
            return Ok(Outcome { object, proxies: proxies.len(), replicas: revisions.len(), seconds });
        }
        if let Some(first) = late.first() {
            said = format!("{} of {} proxies do not have it yet, such as {first}", late.len(), proxies.len());
            // It may be what is mended right now, so it is no reason to give up.
            if let Some(rejection) = rejection(&object, &subject, proxies.iter()) {
                said = format!("{said}; {rejection}");
            }
        }
        if let Some(silent) = silent.first() {
            said = silent.trim().to_owned();
        }
        if started.elapsed() >= flags.timeout {
            bail!("{object} is not everywhere after {:?}: {said}", flags.timeout);
        }
        progress.say(&said);
        tokio::time::sleep(INTERVAL.min(flags.timeout.saturating_sub(started.elapsed()))).await;
    }
}

/// A kind as people write it: with its group, if another has its name.
fn said(kind: Kind) -> String {
    let info = kind.info();
    match Kind::ALL.iter().any(|other| *other != kind && other.info().kind == info.kind) {
        true => format!("{}.{}", info.kind, info.group),
        false => info.kind.to_owned(),
    }
}

/// The object as the API server has it.
async fn stored(cluster: &Cluster, kind: Kind, namespace: &str, name: &str) -> anyhow::Result<Option<Value>> {
    let info = kind.info();
    // Not every version is served everywhere.
    for version in info.versions {
        let group = if info.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", info.group) };
        let place = if namespace.is_empty() { String::new() } else { format!("/namespaces/{namespace}") };
        if let Some(found) = cluster.get(&format!("{group}/{version}{place}/{}/{name}", info.plural)).await? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Whether what a replica has of an object is what is waited for. Of generations
/// only the end is kept there.
fn is_in_force(page: &Value, generation: Option<i64>, deleted: bool) -> bool {
    let found = page.get("found").and_then(Value::as_bool).unwrap_or(false);
    let known = page.get("generation").and_then(Value::as_u64);
    match (deleted, generation) {
        (true, _) => !found,
        (false, None) => found,
        (false, Some(generation)) => found && known == Some(u64::from(generation as u16)),
    }
}

/// The proxies that have not judged what their replica tells as of a revision.
fn late<'a>(proxies: &'a [Proxy], revisions: &BTreeMap<String, u64>) -> Vec<&'a str> {
    let is_late =
        |proxy: &&Proxy| revisions.get(&proxy.replica).is_some_and(|revision| proxy.settled < Some(*revision));
    proxies.iter().filter(is_late).map(|proxy| proxy.name.as_str()).collect()
}

/// Says that a proxy rejected what comes from an object.
fn rejection<'a>(object: &str, subject: &str, mut proxies: impl Iterator<Item = &'a Proxy>) -> Option<String> {
    proxies.find_map(|proxy| {
        let of_it = proxy.rejected.iter().find(|one| one.objects.iter().any(|from| from == subject))?;
        Some(format!("{} rejected {object}: {} {}: {}", proxy.name, of_it.ty, of_it.name, of_it.message))
    })
}
