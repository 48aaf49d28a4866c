//! What a cluster and a control plane say of themselves.

use std::collections::BTreeMap;

use futures::stream::{self, StreamExt};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::Kind;
use crate::cli::connect::{Cluster, ControlPlane, items, pods, text};
use crate::cli::output::Progress;
use crate::cli::proxies;
use crate::config::terminal::Connection;
use crate::controller::election::ANNOTATION;
use crate::controller::rights;

/// How many questions are asked of the API server at a time.
const AT_A_TIME: usize = 8;

/// Something that was asked: what was found, or why nothing was.
pub(super) type Asked<T> = Result<T, String>;

/// A right, and whether somebody has it.
#[derive(Clone, Debug)]
pub(super) struct Right {
    pub(super) group: String,
    pub(super) resource: String,
    pub(super) verb: String,
    /// Empty for all of them.
    pub(super) namespace: String,
    pub(super) allowed: Asked<bool>,
}

/// What is known.
pub(super) struct Facts {
    pub(super) namespace: String,
    pub(super) now: Timestamp,
    /// What `/version` says.
    pub(super) version: Asked<Value>,
    /// The definitions of kinds, by their names.
    pub(super) definitions: Asked<BTreeMap<String, Value>>,
    /// Whether there are tokens for an audience.
    pub(super) token: Asked<()>,
    /// Who looks, before an installation; the control plane, after it.
    pub(super) rights: Vec<Right>,
    /// Deployments with the label of a control plane, wherever they are.
    pub(super) control_planes: Asked<Vec<Value>>,
    /// Services that say which revision a tag stands for.
    pub(super) tags: Asked<Vec<Value>>,
    pub(super) pods: Asked<Vec<Value>>,
    /// Leases, and the ConfigMaps that are locks like them: a record of theirs is
    /// the `spec`, or a text if it is none.
    pub(super) leases: Asked<Vec<Value>>,
    /// The certificate of the root, from the Secret that has the key: its name, and
    /// the texts that are public.
    pub(super) root: Asked<Option<(String, String)>>,
    /// The certificate that signs and those above it, from the same Secret.
    pub(super) signers: String,
    pub(super) root_config_maps: Asked<Vec<Value>>,
    pub(super) namespaces: Asked<Vec<Value>>,
    pub(super) ztunnels: Asked<Vec<Value>>,
    pub(super) replicas: Vec<ReplicaFacts>,
    /// The proxies that are connected, by name.
    pub(super) connected: Vec<String>,
}

/// What a replica says of itself.
#[derive(Clone, Debug)]
pub(super) struct ReplicaFacts {
    pub(super) name: String,
    /// What it cannot read.
    pub(super) problems: Asked<Vec<Value>>,
    /// What is wrong with objects.
    pub(super) diagnostics: Asked<Vec<Value>>,
}

/// What an installation creates, beside what the namespace may need.
const INSTALLED: &[(&str, &str, bool)] = &[
    ("", "namespaces", false),
    ("rbac.authorization.k8s.io", "clusterroles", false),
    ("rbac.authorization.k8s.io", "clusterrolebindings", false),
    ("apps", "deployments", true),
    ("", "services", true),
    ("", "serviceaccounts", true),
    ("", "configmaps", true),
    ("rbac.authorization.k8s.io", "roles", true),
    ("rbac.authorization.k8s.io", "rolebindings", true),
];

/// Finds out.
pub(super) async fn read(flags: &Connection, pre: bool) -> anyhow::Result<Facts> {
    let cluster = Cluster::connect(flags).await?;
    let mut progress = Progress::new();
    progress.say("asking the API server…");
    let namespace = flags.istio_namespace.clone();
    let list = |path: String| {
        let cluster = cluster.clone();
        async move {
            let list = cluster.get(&path).await.map_err(|error| format!("{error:#}"))?;
            Asked::Ok(list.map(|list| items(&list).to_vec()).unwrap_or_default())
        }
    };
    let version = cluster.get("/version").await.map_err(|error| format!("{error:#}"));
    let version = version.and_then(|version| version.ok_or_else(|| "the API server has no /version".into()));
    let definitions = list("/apis/apiextensions.k8s.io/v1/customresourcedefinitions".into()).await;
    let definitions =
        definitions.map(|all| all.into_iter().map(|one| (text(&one, "/metadata/name").to_owned(), one)).collect());
    let control_planes = list("/apis/apps/v1/deployments?labelSelector=app%3Distiod".into()).await;
    let mut facts = Facts {
        now: Timestamp::now(),
        version,
        definitions,
        token: token(&cluster, if pre { "default" } else { &namespace }).await,
        rights: Vec::new(),
        control_planes,
        tags: Ok(Vec::new()),
        pods: Ok(Vec::new()),
        leases: Ok(Vec::new()),
        root: Ok(None),
        signers: String::new(),
        root_config_maps: Ok(Vec::new()),
        namespaces: Ok(Vec::new()),
        // Istio's chart gives this label to the pods alone.
        ztunnels: list("/apis/apps/v1/daemonsets".into()).await.map(|all| {
            all.into_iter().filter(|one| text(one, "/spec/template/metadata/labels/app") == "ztunnel").collect()
        }),
        replicas: Vec::new(),
        connected: Vec::new(),
        namespace,
    };
    progress.say("asking for rights…");
    if pre {
        facts.rights = may(&cluster, installed(&facts.namespace), None).await;
        return Ok(facts);
    }
    // Without one there is nobody whose rights could be asked about: those of
    // whoever asks say nothing.
    if let Some(account) = account(&facts, flags.revision.as_deref()) {
        facts.rights = may(&cluster, needed(&facts.namespace), Some(&account)).await;
    }
    let namespace = &facts.namespace;
    facts.pods = pods(&cluster, flags).await.map_err(|error| format!("{error:#}"));
    facts.tags = list(format!("/api/v1/namespaces/{namespace}/services?labelSelector=istio.io%2Ftag")).await;
    let leases = list(format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases")).await;
    let maps = list(format!("/api/v1/namespaces/{namespace}/configmaps")).await;
    facts.leases = leases.and_then(|leases| Ok([leases, maps?.iter().filter_map(lock).collect()].concat()));
    match root(&cluster, namespace).await {
        Ok(found) => {
            let (root, signers) = found.map(|(name, root, signers)| ((name, root), signers)).unzip();
            (facts.root, facts.signers) = (Ok(root), signers.unwrap_or_default());
        }
        Err(error) => facts.root = Err(error),
    }
    facts.root_config_maps = list("/api/v1/configmaps?labelSelector=istio.io%2Fconfig%3Dtrue".into()).await;
    facts.namespaces = list("/api/v1/namespaces".into()).await;
    progress.say("asking the replicas…");
    match ControlPlane::find(flags).await {
        Ok(control_plane) => (facts.replicas, facts.connected) = replicas(&control_plane).await,
        Err(error) => {
            let silent = |pod: &Value| ReplicaFacts {
                name: text(pod, "/metadata/name").to_owned(),
                problems: Err(format!("{error:#}")),
                diagnostics: Err(format!("{error:#}")),
            };
            facts.replicas = facts.pods.iter().flatten().map(silent).collect();
        }
    }
    Ok(facts)
}

async fn replicas(control_plane: &ControlPlane) -> (Vec<ReplicaFacts>, Vec<String>) {
    let rows = |page: anyhow::Result<Value>, field: &str| match page {
        Ok(page) => Ok(page.pointer(field).and_then(Value::as_array).cloned().unwrap_or_default()),
        Err(error) => Err(format!("{error:#}")),
    };
    let problems = control_plane.pages("/debug/sourcez").await;
    let diagnostics = control_plane.pages("/debug/diagnosticsz").await;
    let facts = problems.into_iter().zip(diagnostics).map(|((replica, problems), (_, diagnostics))| ReplicaFacts {
        name: replica.name.clone(),
        problems: rows(problems, "/problems"),
        diagnostics: rows(diagnostics, ""),
    });
    let facts = facts.collect();
    let (connected, _) = proxies::connected(control_plane).await;
    (facts, connected.into_iter().map(|proxy| proxy.name).collect())
}

/// What a ConfigMap says like a Lease, if it is a lock.
pub(super) fn lock(map: &Value) -> Option<Value> {
    let record = map["metadata"]["annotations"][ANNOTATION].as_str()?;
    let record = serde_json::from_str(record).unwrap_or_else(|_| json!(record));
    Some(json!({ "metadata": map["metadata"], "spec": record }))
}

/// Whether the API server makes tokens for an audience.
async fn token(cluster: &Cluster, namespace: &str) -> Asked<()> {
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/default/token");
    let asked = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": { "audiences": ["istio-ca"], "expirationSeconds": 600 },
    });
    cluster.create(&path, &asked).await.map(drop).map_err(|error| format!("{error:#}"))
}

/// The user that the control plane is, if there is one in the namespace, of the
/// revision if one is given.
fn account(facts: &Facts, revision: Option<&str>) -> Option<String> {
    let of_revision =
        |one: &&Value| revision.is_none_or(|revision| text(one, "/metadata/labels/istio.io~1rev") == revision);
    let mut ours = facts.control_planes.iter().flatten().filter(of_revision);
    let ours = ours.find(|one| text(one, "/metadata/namespace") == facts.namespace)?;
    let account = text(ours, "/spec/template/spec/serviceAccountName");
    Some(format!("system:serviceaccount:{}:{account}", facts.namespace))
}

fn installed(home: &str) -> Vec<Right> {
    let right = |(group, resource, at_home): &(&str, &str, bool)| Right {
        group: (*group).into(),
        resource: (*resource).into(),
        verb: "create".into(),
        namespace: if *at_home { home.into() } else { String::new() },
        allowed: Ok(false),
    };
    INSTALLED.iter().map(right).collect()
}

/// The rights that the control plane needs, as the chart gives them.
fn needed(home: &str) -> Vec<Right> {
    let mut all = Vec::new();
    for (rules, namespace) in [(rights::cluster_role(), ""), (rights::role(), home)] {
        for rule in &rules {
            let texts = |field: &str| {
                let texts = rule.get(field).and_then(Value::as_array).into_iter().flatten();
                texts.filter_map(Value::as_str).map(ToOwned::to_owned).collect::<Vec<_>>()
            };
            for group in texts("apiGroups") {
                for resource in texts("resources") {
                    for verb in texts("verbs") {
                        let (group, resource, namespace) = (group.clone(), resource.clone(), namespace.into());
                        all.push(Right { group, resource, verb, namespace, allowed: Ok(false) });
                    }
                }
            }
        }
    }
    all
}

/// Asks who may do what: a user, or whoever is asking.
async fn may(cluster: &Cluster, rights: Vec<Right>, user: Option<&str>) -> Vec<Right> {
    let asked = rights.into_iter().map(|right| async move {
        let (resource, subresource) = right.resource.split_once('/').unwrap_or((&right.resource, ""));
        let attributes = json!({
            "group": right.group, "resource": resource, "subresource": subresource,
            "verb": right.verb, "namespace": right.namespace,
        });
        let (kind, plural) = match user {
            Some(_) => ("SubjectAccessReview", "subjectaccessreviews"),
            None => ("SelfSubjectAccessReview", "selfsubjectaccessreviews"),
        };
        let mut review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": { "resourceAttributes": attributes },
        });
        user.into_iter().for_each(|user| review["spec"]["user"] = json!(user));
        let answer = cluster.create(&format!("/apis/authorization.k8s.io/v1/{plural}"), &review).await;
        let allowed = answer.map_err(|error| format!("{error:#}"));
        let allowed = allowed.map(|answer| answer.pointer("/status/allowed").and_then(Value::as_bool).unwrap_or(false));
        Right { allowed, ..right }
    });
    stream::iter(asked).buffered(AT_A_TIME).collect().await
}

/// The Secret with the root's key: its name, the root and what is below it. Of the
/// Secret nothing else is kept.
async fn root(cluster: &Cluster, namespace: &str) -> Asked<Option<(String, String, String)>> {
    for name in ["cacerts", "istio-ca-secret"] {
        let path = format!("/api/v1/namespaces/{namespace}/secrets/{name}");
        let Some(secret) = cluster.get(&path).await.map_err(|error| format!("{error:#}"))? else { continue };
        // The names of Istio's layout and of cert-manager's.
        let first = |fields: &[&str]| {
            let pem = fields.iter().map(|field| text(&secret, field)).find(|pem| !pem.is_empty()).unwrap_or_default();
            let pem = openssl::base64::decode_block(pem).map_err(|error| error.to_string())?;
            Asked::Ok(String::from_utf8_lossy(&pem).into_owned())
        };
        let root = first(&["/data/root-cert.pem", "/data/ca.crt", "/data/ca-cert.pem"])?;
        let signer = first(&["/data/ca-cert.pem", "/data/tls.crt"])?;
        let above = first(&["/data/cert-chain.pem"])?;
        return Ok(Some((name.to_owned(), root, signer + "\n" + &above)));
    }
    Ok(None)
}

/// The kinds that somebody else defines, by group.
pub(super) fn defined_elsewhere() -> impl Iterator<Item = Kind> {
    Kind::ALL.iter().copied().filter(|kind| !kind.info().builtin)
}
