//! `fairway translate`: what a proxy would be told for a folder of YAML, and
//! why. The resources come from the same function that serves proxies.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::bail;
use fairway_proto::describe;
use serde_json::{Value as Json, json};

use crate::api::{Change, ObjectKey};
use crate::ca::identity::SpiffeId;
use crate::config::Translate;
use crate::credential::{Asked, Scheme};
use crate::graph::Provenance;
use crate::model::Settings;
use crate::model::gateway::GATEWAY_NAME;
use crate::model::gateway::kubernetes::credentials::account;
use crate::proxy::scope::Families;
use crate::proxy::{Capabilities, GatewayScope, Place, Scope, WaypointScope};
use crate::source::Problems;
use crate::source::file::Folder;
use crate::translation::Translation;
use crate::xds::resource::{Family, ResourceType};
use crate::xds::secret::Answer;
use crate::xds::view::Views;

/// Prints the resources, and to standard error what is wrong with the objects.
pub fn print(flags: &Translate) -> anyhow::Result<()> {
    let (resources, findings) = translate(flags)?;
    print!("{resources}");
    eprint!("{findings}");
    Ok(())
}

/// The resources as YAML, and findings about objects, one in a line.
fn translate(flags: &Translate) -> anyhow::Result<(String, String)> {
    let scope = scope(flags)?;
    let settings = Settings { domain: flags.domain.as_str().into(), ..Settings::default() };
    let mut translation = Translation::new(Arc::new(settings));
    let problems = Problems::default();
    read(&flags.filename, &problems, &mut translation)?;
    translation.want(scope.clone());
    translation.commit();
    let views = translation.published();
    let secrets = views.iter().flat_map(|views| secrets(views, scope.as_ref())).collect::<BTreeSet<_>>();
    ask(&mut translation, &secrets, scope.as_ref());
    let mut findings = String::new();
    for problem in problems.list() {
        let _ = writeln!(findings, "{}: {}: {}", problem.place, problem.field, problem.reason);
    }
    for diagnostic in translation.graph.diagnostics() {
        let _ = writeln!(findings, "{:?}: {diagnostic}", diagnostic.severity);
    }
    if let Some(key) =
        scope.as_ref().and_then(named).filter(|key| translation.graph.get(translation.inputs.gateways, key).is_none())
    {
        let findings = if findings.is_empty() { findings } else { format!("\n{}", findings.trim_end()) };
        bail!("there is no Gateway {key} of gateway.networking.k8s.io in {}{findings}", flags.filename.display());
    }
    let Some(views) = views else { return Ok((String::new(), findings)) };
    let family = if scope.is_some() { Family::Envoy } else { Family::Ambient };
    let mut text = String::new();
    // Held while many are shown.
    let _descriptors = describe::load()?;
    for ty in ResourceType::ALL.into_iter().filter(|ty| ty.family() == family && ty.is_whole()) {
        let mut resources: Vec<_> = views.layer(ty, scope.as_ref()).iter().collect();
        resources.sort_by(|a, b| a.name().cmp(b.name()));
        for resource in resources {
            let message = describe::to_json(ty.type_url(), &resource.message(ty))?;
            let mut shown = json!({ "type": ty.type_url(), "name": resource.name(), "resource": message });
            if flags.explain {
                let provenance = translation.provenance(ty, &resource.name().into());
                shown["from"] = provenance.map_or(Json::Null, |provenance| explained(&provenance));
            }
            let _ = write!(text, "---\n{}", describe::yaml(&shown));
        }
    }
    text += &shown_secrets(&mut translation, &secrets, scope.as_ref());
    Ok((text, findings))
}

/// The names of secrets that clusters and listeners of a proxy have it ask for.
fn secrets(views: &Views, scope: Option<&Scope>) -> Vec<String> {
    fn collect(json: &Json, names: &mut Vec<String>) {
        match json {
            Json::Object(fields) => {
                if let (Some(name), Some(_)) = (fields.get("name"), json.pointer("/sds_config/ads")) {
                    names.extend(name.as_str().map(ToOwned::to_owned));
                }
                fields.values().for_each(|value| collect(value, names));
            }
            Json::Array(items) => items.iter().for_each(|item| collect(item, names)),
            _ => {}
        }
    }
    let mut names = Vec::new();
    for ty in [ResourceType::Cluster, ResourceType::Listener] {
        for resource in views.layer(ty, scope).iter() {
            let message = describe::to_json(ty.type_url(), &resource.message(ty));
            message.iter().for_each(|message| collect(message, &mut names));
        }
    }
    names
}

/// Has what a proxy would ask for looked at, as if it were connected.
fn ask(translation: &mut Translation, secrets: &BTreeSet<String>, scope: Option<&Scope>) {
    let Some(caller) = scope.and_then(|scope| caller(translation, scope)) else { return };
    let asked = secrets.iter().filter_map(|name| Asked::parse(name, &caller.namespace));
    let own = asked.filter(|asked| asked.scheme == Scheme::Kubernetes).flat_map(|asked| asked.places);
    translation.ask(own.filter(|place| place.namespace == caller.namespace));
    translation.commit();
}

/// The secrets that a proxy would be given: that they are there, and no more.
fn shown_secrets(translation: &mut Translation, secrets: &BTreeSet<String>, scope: Option<&Scope>) -> String {
    let vault = translation.vault(None).unwrap_or_else(|| translation.empty_vault());
    let caller = scope.and_then(|scope| caller(translation, scope));
    let mut text = String::new();
    for name in secrets {
        let content = match vault.look(caller.as_ref(), name) {
            Answer::There(_) => json!("[redacted]"),
            Answer::Nothing(_) | Answer::Wait => Json::Null,
        };
        let shown = json!({ "type": ResourceType::Secret.type_url(), "name": name, "resource": content });
        let _ = write!(text, "---\n{}", describe::yaml(&shown));
    }
    text
}

/// Who the proxies of a scope are, as far as a folder can say.
fn caller(translation: &Translation, scope: &Scope) -> Option<SpiffeId> {
    let (namespace, account) = match scope {
        Scope::Waypoint(waypoint) => (&waypoint.namespace, waypoint.gateway.clone()),
        // Those that are made for a Gateway have an account that tells of it.
        Scope::Gateway(proxy) => {
            let gateway = proxy.place.label(GATEWAY_NAME).unwrap_or("gateway");
            let key = ObjectKey { namespace: proxy.namespace.clone(), name: gateway.into() };
            let account = translation.graph.get(translation.inputs.gateways, &key).and_then(|found| account(found));
            (&proxy.namespace, account.unwrap_or_else(|| format!("{gateway}-istio").into()))
        }
    };
    SpiffeId::new("cluster.local".parse().ok()?, namespace, &account).ok()
}

fn explained(Provenance { origins, reads }: &Provenance) -> Json {
    let rows = |rows: &[(&str, String)]| rows.iter().map(|(table, key)| format!("{table} {key}")).collect::<Vec<_>>();
    json!({ "objects": rows(origins), "and": rows(reads) })
}

/// The scope that a proxy as named on the command line has; none is ztunnel's.
fn scope(flags: &Translate) -> anyhow::Result<Option<Scope>> {
    if flags.proxy == "ztunnel" {
        return Ok(None);
    }
    let capabilities = if flags.istio_proxy { Capabilities::ISTIO } else { Capabilities::STOCK };
    let named = |(namespace, name): &(&str, &str)| !namespace.is_empty() && !name.is_empty();
    let (kind, name) = flags.proxy.split_once(':').unwrap_or_default();
    let scope = match (kind, name.split_once('/').filter(named)) {
        ("waypoint", Some((namespace, gateway))) => Scope::from(WaypointScope {
            namespace: namespace.into(),
            gateway: gateway.into(),
            capabilities,
            families: Families::V4,
            loopback: None,
            place: Place::default(),
        }),
        ("router", Some((namespace, pods))) => Scope::from(GatewayScope {
            namespace: namespace.into(),
            capabilities,
            families: Families::V4,
            loopback: None,
            unprivileged: false,
            own: None,
            place: Place { labels: labels(pods), ..Place::default() },
            address: None,
            listed_by: [].into(),
        }),
        _ => bail!(
            "--proxy {:?} is none of ztunnel, waypoint:NAMESPACE/NAME, router:NAMESPACE/GATEWAY and \
             router:NAMESPACE/LABEL=VALUE,…",
            flags.proxy
        ),
    };
    Ok(Some(scope))
}

/// The Gateway that the proxies of a scope are made for, if they are for one.
fn named(scope: &Scope) -> Option<ObjectKey> {
    let (namespace, name) = match scope {
        Scope::Waypoint(waypoint) => (&waypoint.namespace, &*waypoint.gateway),
        Scope::Gateway(proxy) => (&proxy.namespace, proxy.place.label(GATEWAY_NAME)?),
    };
    Some(ObjectKey { namespace: namespace.clone(), name: name.into() })
}

/// The labels of a gateway's pods: those that are given, or those of pods that
/// were made for the Gateway of a name.
fn labels(pods: &str) -> Arc<[(Arc<str>, Arc<str>)]> {
    let mut labels: Vec<(Arc<str>, Arc<str>)> = match pods.contains('=') {
        true => pods.split(',').filter_map(|pair| pair.split_once('=')).map(|(a, b)| (a.into(), b.into())).collect(),
        false => vec![(GATEWAY_NAME.into(), pods.into())],
    };
    labels.sort_unstable();
    labels.into()
}

fn read(path: &Path, problems: &Problems, translation: &mut Translation) -> anyhow::Result<()> {
    let mut folder = Folder::new(path.to_owned(), problems.clone());
    let take = |changes: Vec<Change>| {
        changes.into_iter().for_each(|change| translation.apply(change));
        true
    };
    Ok(folder.scan(take)?)
}
