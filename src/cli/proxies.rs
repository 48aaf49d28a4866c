//! `fairway proxies`: who is connected to any replica, and how far they are.
//!
//! It reads `/debug/syncz` of all replicas, in the form that istiod has in common
//! with us, so it also works with one.

#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use anyhow::bail;
use serde::Serialize;
use serde_json::Value;

use super::connect::{ControlPlane, Replica, runtime, text};
use super::output::{self, Look, Style, table};
use crate::config::terminal::Proxies;
use crate::xds::resource::ResourceType;

/// A connected proxy.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Proxy {
    /// Its name, such as `waypoint-5d9c-xk2f.shop`.
    pub(super) name: String,
    /// What it is.
    #[serde(rename = "type")]
    kind: String,
    /// The version of Istio it was built from.
    version: String,
    /// The replica it is connected to.
    pub(super) replica: String,
    /// The worst state of any type.
    pub(super) state: State,
    /// For how long an answer is owed.
    waiting_seconds: Option<f64>,
    /// How many commits were published since the one it is known to have.
    behind: Option<u64>,
    /// The revision of the newest views it has judged, if that is known.
    pub(super) settled: Option<u64>,
    /// By type.
    types: Vec<OfType>,
    /// What it rejected.
    pub(super) rejected: Vec<Rejected>,
}

/// How far a proxy is with a type.
#[derive(Clone, Debug, Serialize)]
struct OfType {
    #[serde(rename = "type")]
    ty: String,
    state: State,
    sent_at: Option<String>,
    error: Option<String>,
}

/// Something that a proxy rejected.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Rejected {
    #[serde(rename = "type")]
    pub(super) ty: String,
    pub(super) name: String,
    pub(super) message: String,
    /// The objects it comes from.
    pub(super) objects: Vec<String>,
}

/// How far somebody is; the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum State {
    Synced,
    NotSent,
    Stale,
    Error,
}

impl State {
    const fn text(self) -> &'static str {
        match self {
            Self::Synced => "SYNCED",
            Self::NotSent => "NOT SENT",
            Self::Stale => "STALE",
            Self::Error => "ERROR",
        }
    }

    const fn look(self) -> Look {
        match self {
            Self::Synced => Look::Good,
            Self::NotSent | Self::Stale => Look::Doubtful,
            Self::Error => Look::Bad,
        }
    }
}

/// Prints the proxies.
pub fn print(flags: &Proxies) -> anyhow::Result<()> {
    let runtime = runtime()?;
    let (mut proxies, silent) = runtime.block_on(async {
        let control_plane = ControlPlane::find(&flags.connection).await?;
        anyhow::Ok(connected(&control_plane).await)
    })?;
    let all = proxies.len();
    proxies.retain(|proxy| {
        let namespace = proxy.name.rsplit_once('.').map(|(_, namespace)| namespace);
        flags.name.as_ref().is_none_or(|name| proxy.name.starts_with(name))
            && flags.namespace.as_ref().is_none_or(|wanted| namespace == Some(wanted))
    });
    output::print(flags.output, &proxies, |style| match (proxies.len(), all) {
        (0, 1..) => format!("no proxy is of that name and namespace, of {all} that are connected\n"),
        _ => shown(style, &proxies),
    })?;
    if !silent.is_empty() {
        bail!("not all proxies are listed:\n{}", silent.join("\n"));
    }
    Ok(())
}

/// The proxies of all replicas by name, and which replicas did not say.
pub(super) async fn connected(control_plane: &ControlPlane) -> (Vec<Proxy>, Vec<String>) {
    let (mut proxies, mut silent) = (Vec::new(), Vec::new());
    for (Replica { name, .. }, page) in control_plane.pages("/debug/syncz").await {
        match page {
            Ok(page) => proxies.extend(page.as_array().into_iter().flatten().map(|row| proxy(name, row))),
            Err(error) => silent.push(format!("  {name}: {error:#}")),
        }
    }
    proxies.sort_by(|a, b| (&a.name, &a.replica).cmp(&(&b.name, &b.replica)));
    (proxies, silent)
}

/// A proxy as a replica tells of it.
fn proxy(replica: &str, row: &Value) -> Proxy {
    let resources = row.get("resources").and_then(Value::as_object);
    let mut types: Vec<_> =
        resources.into_iter().flatten().map(|(type_url, progress)| of_type(type_url, progress)).collect();
    types.sort_by(|a, b| a.ty.cmp(&b.ty));
    let number = |name: &str| row.get(name).and_then(Value::as_u64);
    // Until it is for the first time, it has not taken everything of any commit.
    let settled = number("settled").filter(|settled| *settled > 0);
    let waiting = row.get("types").and_then(Value::as_object).into_iter().flatten();
    let waiting = waiting
        .filter_map(|(_, one)| one.get("waiting_seconds")?.as_f64())
        .fold(None, |most: Option<f64>, one| Some(most.map_or(one, |most| most.max(one))));
    let rejected = row.get("rejected").and_then(Value::as_array).into_iter().flatten().map(rejected);
    Proxy {
        name: text(row, "/proxy").to_owned(),
        kind: text(row, "/proxy_type").to_owned(),
        version: text(row, "/istio_version").to_owned(),
        replica: replica.to_owned(),
        state: types.iter().map(|one| one.state).max().unwrap_or(State::NotSent),
        waiting_seconds: waiting,
        behind: number("revision").zip(settled).map(|(newest, settled)| newest.saturating_sub(settled)),
        settled,
        types,
        rejected: rejected.collect(),
    }
}

fn of_type(type_url: &str, progress: &Value) -> OfType {
    let ty = ResourceType::from_type_url(type_url).map(|ty| ty.label().to_owned());
    let ty = ty.unwrap_or_else(|| type_url.rsplit(['.', '/']).next().unwrap_or(type_url).to_owned());
    let [sent, acked, error, at] = ["/sent", "/acked", "/lastError", "/sentTime"].map(|field| text(progress, field));
    let state = match (sent, error) {
        (_, error) if !error.is_empty() => State::Error,
        ("", _) => State::NotSent,
        (sent, _) if sent == acked => State::Synced,
        _ => State::Stale,
    };
    let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    OfType { ty, state, sent_at: given(at), error: given(error) }
}

fn rejected(one: &Value) -> Rejected {
    let objects = one.get("objects").and_then(Value::as_array).into_iter().flatten();
    Rejected {
        ty: text(one, "/type").to_owned(),
        name: text(one, "/name").to_owned(),
        message: text(one, "/message").to_owned(),
        objects: objects.filter_map(Value::as_str).map(ToOwned::to_owned).collect(),
    }
}

/// A table of the proxies, and below it what they rejected.
fn shown(style: Style, proxies: &[Proxy]) -> String {
    if proxies.is_empty() {
        return "no proxy is connected\n".into();
    }
    let rows: Vec<_> = proxies
        .iter()
        .map(|proxy| {
            let plain = |text: &str| (Look::Plain, text.to_owned());
            vec![
                plain(&proxy.name),
                plain(&proxy.kind),
                plain(&proxy.version),
                plain(&proxy.replica),
                (proxy.state.look(), proxy.state.text().to_owned()),
                lag(proxy),
                plain(&types(&proxy.types)),
            ]
        })
        .collect();
    let mut text = table(style, &["NAME", "TYPE", "VERSION", "REPLICA", "STATE", "LAG", "TYPES"], &rows);
    for proxy in proxies.iter().filter(|proxy| proxy.state == State::Error) {
        let _ = writeln!(text, "\n{}", style.paint(Look::Bad, &format!("{} rejected:", proxy.name)));
        if proxy.rejected.is_empty() {
            for one in proxy.types.iter() {
                one.error.iter().for_each(|error| _ = writeln!(text, "  {}: {error}", one.ty));
            }
        }
        for one in &proxy.rejected {
            let _ = writeln!(text, "  {} {}: {}", one.ty, one.name, one.message);
            if !one.objects.is_empty() {
                let _ = writeln!(text, "    from {}", one.objects.join(", "));
            }
        }
    }
    text
}

/// How long an answer is owed, or how many commits somebody is behind.
fn lag(proxy: &Proxy) -> (Look, String) {
    match (proxy.waiting_seconds, proxy.behind) {
        (Some(seconds), _) => (Look::Doubtful, format!("{seconds:.0}s")),
        (None, Some(behind)) if behind > 0 => (Look::Plain, format!("{behind} commits")),
        _ => (Look::Faint, "-".into()),
    }
}

/// The types, with those by name that are not as they should be.
fn types(types: &[OfType]) -> String {
    let (good, others): (Vec<_>, Vec<_>) = types.iter().partition(|one| one.state == State::Synced);
    let others = others.iter().map(|one| format!("{} {}", one.ty, one.state.text()));
    let good = good.iter().map(|one| one.ty.as_str()).collect::<Vec<_>>().join(" ");
    others.chain(Some(good).filter(|good| !good.is_empty())).collect::<Vec<_>>().join(", ")
}
