//! What facts mean, and what to do about it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use openssl::asn1::Asn1Time;
use openssl::x509::X509;
use serde_json::Value;

use super::facts::{Facts, Right, defined_elsewhere};
use super::{Finding, Level};
use crate::cli::connect::text;
// Somebody always writes root certificates.
use crate::controller::root_config_map::LOCK as ROOTS_LOCK;
use crate::model::revision::{DEFAULT, REVISION, TAG};

const KUBERNETES: &str = "Kubernetes";
const DEFINITIONS: &str = "Definitions";
const RIGHTS: &str = "Rights";
const CONTROL_PLANE: &str = "Control plane";
const LEASES: &str = "Leases";
const ROOT: &str = "Root";
const ZTUNNEL: &str = "ztunnel";

/// The locks that each revision has one of, whose name ends with the revision's.
const LOCKS_OF_REVISIONS: [&str; 4] =
    ["istio-gateway-deployment", "istio-gateway-status-leader", "istio-leader", "istio-status-leader"];

/// The oldest Kubernetes that is tested with.
const OLDEST: u64 = 29;
/// How long before its end a root is to be replaced.
const SOON: i32 = 30;
/// What istiod trusts if its Deployment does not say.
const TRUSTED: &str = "istio-system/ztunnel";
/// Namespaces without root certificates, as in istiod.
const LEFT_ALONE: [&str; 3] = ["kube-public", "kube-node-lease", "local-path-storage"];

/// Everything that is to be said.
pub(super) fn findings(facts: &Facts, pre: bool) -> Vec<Finding> {
    let mut all = kubernetes(facts);
    if facts.version.is_err() {
        // Nothing else of the cluster is known, for the same reason.
        all.extend(facts.replicas.iter().flat_map(replica_findings));
        return all;
    }
    all.extend(definitions(facts));
    all.extend(rights(facts, pre));
    if pre {
        all.extend(others(facts));
    } else {
        all.extend(control_plane(facts));
        all.extend(leases(facts));
        all.extend(root(facts));
    }
    all.extend(ztunnel(facts, pre));
    all
}

fn unknown(group: &'static str, what: &str, error: &str) -> Finding {
    Finding::of(group, Level::Unknown, format!("{what}: {error}"), "ask with the rights of somebody who may read it")
}

fn kubernetes(facts: &Facts) -> Vec<Finding> {
    let version = match &facts.version {
        Err(error) => Finding::of(
            KUBERNETES,
            Level::Bad,
            format!("the API server does not answer: {error}"),
            "does the kubeconfig name the right cluster, and is it reachable from here?",
        ),
        Ok(version) => {
            let minor: String = text(version, "/minor").chars().take_while(char::is_ascii_digit).collect();
            let name = text(version, "/gitVersion");
            match minor.parse::<u64>() {
                Ok(minor) if minor < OLDEST => Finding::of(
                    KUBERNETES,
                    Level::Doubtful,
                    format!("{name} is older than what Fairway is tested with"),
                    format!("Kubernetes 1.{OLDEST} or newer"),
                ),
                _ => Finding::good(KUBERNETES, format!("the API server answers: {name}")),
            }
        }
    };
    if facts.version.is_err() {
        return vec![version];
    }
    let token = match &facts.token {
        Ok(()) => Finding::good(KUBERNETES, "there are tokens for the audience istio-ca"),
        Err(error) if error.contains("orbidden") => {
            unknown(KUBERNETES, "whether there are tokens for an audience", error)
        }
        Err(error) if error.contains(&format!("namespaces {:?} not found", facts.namespace)) => Finding::of(
            KUBERNETES,
            Level::Bad,
            format!("there is no namespace {}", facts.namespace),
            "docs/install.md; --istio-namespace says where to look",
        ),
        Err(error) => Finding::of(
            KUBERNETES,
            Level::Bad,
            format!("no token for the audience istio-ca: {error}"),
            "the API server needs --service-account-issuer and --service-account-signing-key-file: proxies prove who \
             they are with projected tokens",
        ),
    };
    vec![version, token]
}

fn definitions(facts: &Facts) -> Vec<Finding> {
    let known = match &facts.definitions {
        Ok(known) => known,
        Err(error) => return vec![unknown(DEFINITIONS, "the definitions of kinds", error)],
    };
    let mut groups = BTreeMap::<&str, (usize, Vec<String>, Vec<String>)>::new();
    for kind in defined_elsewhere() {
        let info = kind.info();
        let (found, missing, unserved) = groups.entry(info.group).or_default();
        let served = |definition: &Value| {
            let versions = definition.pointer("/spec/versions").and_then(Value::as_array).into_iter().flatten();
            let served = versions.filter(|one| one.get("served").and_then(Value::as_bool) == Some(true));
            served.map(|one| text(one, "/name").to_owned()).collect::<Vec<_>>()
        };
        match known.get(&format!("{}.{}", info.plural, info.group)).map(served) {
            None => missing.push(info.kind.to_owned()),
            Some(versions) if !versions.iter().any(|one| info.versions.contains(&one.as_str())) => {
                unserved.push(format!("{} ({})", info.kind, versions.join(", ")));
            }
            Some(_) => *found += 1,
        }
    }
    let finding = |(group, (found, missing, unserved)): (&str, (usize, Vec<String>, Vec<String>))| {
        let fix = if group == "gateway.networking.k8s.io" {
            "install the Gateway API, see https://gateway-api.sigs.k8s.io/guides/"
        } else {
            "fairway crds | kubectl apply -f -"
        };
        let mut all = Vec::new();
        if missing.is_empty() && unserved.is_empty() {
            all.push(Finding::good(DEFINITIONS, format!("{group}: all {found} kinds are defined")));
        }
        if !missing.is_empty() {
            // Fairway does without, and begins when they come.
            let what = format!("{group}: not defined: {}", missing.join(", "));
            all.push(Finding::of(DEFINITIONS, Level::Doubtful, what, format!("if you need them: {fix}")));
        }
        if !unserved.is_empty() {
            let what = format!("{group}: no version that is read: {}", unserved.join(", "));
            all.push(Finding::of(DEFINITIONS, Level::Bad, what, fix));
        }
        all
    };
    groups.into_iter().flat_map(finding).collect()
}

fn rights(facts: &Facts, pre: bool) -> Vec<Finding> {
    // There is nobody who has any, which the group of the control plane says.
    if facts.rights.is_empty() {
        return Vec::new();
    }
    let who = if pre { "you" } else { "the control plane" };
    let (denied, unsure): (Vec<_>, Vec<_>) =
        facts.rights.iter().filter(|right| right.allowed != Ok(true)).partition(|right| right.allowed.is_ok());
    let mut all = Vec::new();
    if denied.is_empty() && unsure.is_empty() {
        all.push(Finding::good(RIGHTS, format!("{who} may do all {} things that it takes", facts.rights.len())));
    }
    let fix = if pre {
        "install as somebody who may, such as a cluster administrator"
    } else {
        "helm upgrade the chart together with the image: its roles are what this version needs"
    };
    if !denied.is_empty() {
        let what = format!("{who} may not: {}", listed(denied.iter().copied()));
        all.push(Finding::of(RIGHTS, Level::Bad, what, fix));
    }
    if let Some(right) = unsure.first() {
        let error = right.allowed.as_ref().err().map(String::as_str).unwrap_or_default();
        all.push(unknown(RIGHTS, &format!("what {who} may"), error));
    }
    all
}

/// Rights, those to the same thing together.
fn listed<'a>(rights: impl Iterator<Item = &'a Right>) -> String {
    let mut verbs = BTreeMap::<String, Vec<&str>>::new();
    for right in rights {
        let dot = if right.group.is_empty() { "" } else { "." };
        let place = if right.namespace.is_empty() { String::new() } else { format!(" in {}", right.namespace) };
        verbs.entry(format!("{}{dot}{}{place}", right.resource, right.group)).or_default().push(&right.verb);
    }
    verbs.into_iter().map(|(what, verbs)| format!("{} {what}", verbs.join("/"))).collect::<Vec<_>>().join("; ")
}

/// Whether a Deployment runs istiod's own image.
fn is_istiod(deployment: &Value) -> bool {
    let image = text(deployment, "/spec/template/spec/containers/0/image");
    image.rsplit('/').next().is_some_and(|name| name.split([':', '@']).next() == Some("pilot"))
}

fn name(object: &Value) -> String {
    format!("{}/{}", text(object, "/metadata/namespace"), text(object, "/metadata/name"))
}

/// Other control planes, before an installation.
fn others(facts: &Facts) -> Vec<Finding> {
    match &facts.control_planes {
        Err(error) => vec![unknown(CONTROL_PLANE, "whether there is a control plane", error)],
        Ok(all) if all.is_empty() => vec![Finding::good(CONTROL_PLANE, "there is none yet")],
        Ok(all) => all
            .iter()
            .map(|one| match is_istiod(one) {
                true => Finding::of(
                    CONTROL_PLANE,
                    Level::Doubtful,
                    format!("an istiod is here: {}", name(one)),
                    "docs/migrate.md says how to take its place, and the way back",
                ),
                false => Finding::good(CONTROL_PLANE, format!("Fairway is here: {}", name(one))),
            })
            .collect(),
    }
}

fn control_plane(facts: &Facts) -> Vec<Finding> {
    let mut all = Vec::new();
    let deployments = match &facts.control_planes {
        Ok(deployments) => deployments.as_slice(),
        Err(error) => {
            all.push(unknown(CONTROL_PLANE, "Deployments", error));
            &[]
        }
    };
    let (here, elsewhere): (Vec<_>, Vec<_>) =
        deployments.iter().partition(|one| text(one, "/metadata/namespace") == facts.namespace);
    if here.is_empty() && facts.control_planes.is_ok() {
        all.push(Finding::of(
            CONTROL_PLANE,
            Level::Bad,
            format!("there is none in {}", facts.namespace),
            "docs/install.md; --istio-namespace says where to look",
        ));
    }
    for one in here {
        let number = |field: &str| one.pointer(field).and_then(Value::as_u64).unwrap_or(0);
        let (wanted, ready) = (number("/spec/replicas"), number("/status/readyReplicas"));
        let what = format!("{}: {ready} of {wanted} replicas are ready", name(one));
        all.push(match ready {
            _ if is_istiod(one) => {
                Finding::of(CONTROL_PLANE, Level::Doubtful, format!("{} is an istiod", name(one)), "docs/migrate.md")
            }
            0 => Finding::of(
                CONTROL_PLANE,
                Level::Bad,
                what,
                format!(
                    "kubectl -n {} describe pods -l app=istiod; a replica that is not ready says why on :8080/ready",
                    facts.namespace
                ),
            ),
            1 if number("/status/unavailableReplicas") == 0 => Finding::of(
                CONTROL_PLANE,
                Level::Doubtful,
                what,
                "two or more replicas (autoscaleMin: 2): with one, new pods wait while it is away",
            ),
            _ if ready < wanted => {
                Finding::of(CONTROL_PLANE, Level::Doubtful, what, "kubectl describe the pods that are not ready")
            }
            // An upgrade: the old ones serve until the new ones are ready.
            _ if number("/status/unavailableReplicas") > 0 => Finding::of(
                CONTROL_PLANE,
                Level::Doubtful,
                format!("{what}, and {} more are not", number("/status/unavailableReplicas")),
                "kubectl describe the pods that are not ready; helm rollback is the way back from an upgrade",
            ),
            _ => Finding::good(CONTROL_PLANE, what),
        });
    }
    all.extend(revisions(facts));
    for one in elsewhere {
        let what = format!("another control plane is in this cluster: {}", name(one));
        all.push(Finding::of(
            CONTROL_PLANE,
            Level::Doubtful,
            what,
            "two write the same root certificates unless their roots are the same: see docs/migrate.md",
        ));
    }
    let pods = facts.pods.iter().flatten();
    let images: BTreeSet<_> = pods.map(|pod| text(pod, "/spec/containers/0/image")).collect();
    if images.len() > 1 {
        let what = format!("replicas have different images: {}", images.into_iter().collect::<Vec<_>>().join(", "));
        all.push(Finding::of(
            CONTROL_PLANE,
            Level::Doubtful,
            what,
            "an upgrade is under way, or stuck: kubectl rollout status",
        ));
    }
    for replica in &facts.replicas {
        all.extend(replica_findings(replica));
    }
    all
}

/// Whether there is somebody for every object, whatever its label says.
fn revisions(facts: &Facts) -> Vec<Finding> {
    let (Ok(deployments), Ok(tags)) = (&facts.control_planes, &facts.tags) else { return Vec::new() };
    let tag_of = |tag: &Value| tag["metadata"]["labels"][TAG].as_str().unwrap_or(DEFAULT).to_owned();
    let here = deployments.iter().filter(|one| text(one, "/metadata/namespace") == facts.namespace);
    let installed: BTreeSet<_> = here.map(revision_of).map(ToOwned::to_owned).collect();
    let tags: BTreeMap<_, _> = tags.iter().map(|one| (tag_of(one), revision_of(one).to_owned())).collect();
    let doubtful = |what, fix: &str| Finding::of(CONTROL_PLANE, Level::Doubtful, what, fix);
    let mut all = Vec::new();
    for (tag, revision) in tags.iter().filter(|(_, revision)| !installed.contains(*revision)) {
        let what = format!("the tag {tag} stands for the revision {revision}, which is not here");
        all.push(doubtful(what, "move the tag, or delete its Service: docs/operate.md#revisions-and-tags"));
    }
    if !installed.is_empty() && !installed.contains(DEFAULT) && !tags.contains_key(DEFAULT) {
        let names = installed.into_iter().collect::<Vec<_>>().join(", ");
        let what = format!("nobody takes care of objects without the label istio.io/rev: there are only {names}");
        all.push(doubtful(what, "revisionTags: [default] for one of them: docs/operate.md#revisions-and-tags"));
    }
    all
}

/// The revision that a label names.
fn revision_of(object: &Value) -> &str {
    object["metadata"]["labels"][REVISION].as_str().unwrap_or(DEFAULT)
}

fn replica_findings(replica: &super::facts::ReplicaFacts) -> Vec<Finding> {
    let name = &replica.name;
    let mut all = Vec::new();
    match &replica.problems {
        Err(error) => all.push(Finding::of(
            CONTROL_PLANE,
            Level::Unknown,
            format!("{name} cannot be asked: {error}"),
            // Of an address that was given: nobody was asked for rights.
            if error.contains("cannot reach http") {
                "does anybody listen there? It is the monitoring port, 15014, or one that is forwarded to it"
            } else if error.contains("orbidden") {
                "fairway check --help says which rights that takes"
            } else {
                "it hangs or restarts, or the API server does not reach its pod: kubectl describe pod, and its log"
            },
        )),
        Ok(problems) if problems.is_empty() => {
            all.push(Finding::good(CONTROL_PLANE, format!("{name} reads everything")));
        }
        Ok(problems) => {
            for problem in problems {
                let [place, field, reason] = ["/place", "/field", "/reason"].map(|part| text(problem, part));
                let colon = if field.is_empty() { "" } else { ": " };
                let what = format!("{name} cannot read {place}{colon}{field}: {reason}");
                let fix = if reason.contains("orbidden") {
                    "helm upgrade the chart together with the image"
                } else {
                    "mend the object; its last good state is in force until a restart"
                };
                all.push(Finding::of(CONTROL_PLANE, Level::Bad, what, fix));
            }
        }
    }
    let Ok(diagnostics) = &replica.diagnostics else { return all };
    if diagnostics.is_empty() {
        all.push(Finding::good(CONTROL_PLANE, format!("{name} honours all objects")));
    } else {
        let what = format!("{name} does not honour everything: {} findings about objects", diagnostics.len());
        all.push(Finding::of(
            CONTROL_PLANE,
            Level::Doubtful,
            what,
            "their status conditions say what; all are on /debug/diagnosticsz",
        ));
    }
    all
}

fn leases(facts: &Facts) -> Vec<Finding> {
    let leases = match &facts.leases {
        Ok(leases) => leases,
        Err(error) => return vec![unknown(LEASES, "Leases", error)],
    };
    let pods: BTreeSet<_> = facts.pods.iter().flatten().map(|pod| text(pod, "/metadata/name")).collect();
    let installed: Option<BTreeSet<_>> =
        facts.control_planes.as_ref().ok().map(|all| all.iter().map(revision_of).collect());
    // Of a revision that is gone, locks stay, and nobody misses who held them.
    let left_behind = |name: &str| {
        let of = LOCKS_OF_REVISIONS.iter().find_map(|lock| name.strip_prefix(lock)?.strip_prefix('-'));
        of.zip(installed.as_ref()).is_some_and(|(of, installed)| !installed.contains(of))
    };
    let mut all = Vec::new();
    if !leases.iter().any(|lease| text(lease, "/metadata/name") == ROOTS_LOCK) {
        all.push(Finding::of(
            LEASES,
            Level::Doubtful,
            format!("nobody has ever held {ROOTS_LOCK}"),
            "without it no root certificates are written; is this a control plane with --read-only?",
        ));
    }
    for lease in leases.iter().filter(|lease| text(lease, "/metadata/name").starts_with("istio-")) {
        let (name, holder) = (text(lease, "/metadata/name"), text(lease, "/spec/holderIdentity"));
        let renewed = text(lease, "/spec/renewTime").parse::<Timestamp>().ok();
        let seconds = lease.pointer("/spec/leaseDurationSeconds").and_then(Value::as_i64).unwrap_or(30);
        // Their clocks are not ours.
        let old = renewed.is_none_or(|at| facts.now.duration_since(at) > SignedDuration::from_secs(2 * seconds + 30));
        if (holder.is_empty() || old) && left_behind(name) {
            continue;
        }
        all.push(match holder {
            _ if lease["spec"].is_string() => Finding::of(
                LEASES,
                Level::Bad,
                format!("{name} says who holds it in a way that cannot be read"),
                format!("nobody takes it so: kubectl -n {} delete configmap {name}", facts.namespace),
            ),
            "" => Finding::of(
                LEASES,
                Level::Doubtful,
                format!("{name} has no holder"),
                "a replica takes it within 30 seconds if any is ready",
            ),
            _ if old => Finding::of(
                LEASES,
                Level::Bad,
                format!("{name} was not renewed by {holder} for long"),
                "nobody writes what it stands for: are replicas ready, and may they update leases and configmaps?",
            ),
            _ if !pods.contains(holder) => Finding::of(
                LEASES,
                Level::Doubtful,
                format!("{name} is held by {holder}, which is no replica here"),
                "one that has just ended, then it is taken over within 30 seconds; or another control plane: see \
                 docs/migrate.md",
            ),
            _ => Finding::good(LEASES, format!("{name} is held by {holder}")),
        });
    }
    all
}

fn root(facts: &Facts) -> Vec<Finding> {
    let (secret, pem) = match &facts.root {
        Err(error) => return vec![unknown(ROOT, "the Secret with the root", error)],
        Ok(None) => {
            return vec![Finding::of(
                ROOT,
                Level::Doubtful,
                "there is neither cacerts nor istio-ca-secret",
                "the first replica makes istio-ca-secret; with ENABLE_CA_SERVER=false somebody else signs",
            )];
        }
        Ok(Some(root)) => root,
    };
    let roots = match X509::stack_from_pem(pem.as_bytes()) {
        Ok(roots) if !roots.is_empty() => roots,
        _ => {
            return vec![Finding::of(
                ROOT,
                Level::Bad,
                format!("{secret}: its root is no certificate"),
                "docs/operate.md#certificates",
            )];
        }
    };
    let mut all: Vec<_> = roots.iter().map(|root| expiry(secret, "root", root)).collect();
    let is_root = |one: &X509| roots.iter().any(|root| is_same(root, one));
    let signers = X509::stack_from_pem(facts.signers.as_bytes()).unwrap_or_default();
    // A chain begins with the signer once more, and may end with the root.
    let below =
        signers.iter().enumerate().filter(|(at, one)| !is_root(one) && (*at == 0 || !is_same(one, &signers[0])));
    all.extend(below.map(|(_, one)| expiry(secret, "signing certificate", one)));
    all.extend(distributed(facts, &roots));
    all
}

fn is_same(a: &X509, b: &X509) -> bool {
    matches!((a.to_der(), b.to_der()), (Ok(a), Ok(b)) if a == b)
}

fn expiry(secret: &str, what: &str, root: &X509) -> Finding {
    let fix = "replace the root: docs/operate.md#certificates";
    let left = Asn1Time::days_from_now(0).and_then(|now| now.diff(root.not_after()));
    match left {
        Ok(left) if left.days < 0 || (left.days == 0 && left.secs <= 0) => {
            Finding::of(ROOT, Level::Bad, format!("{secret}: a {what} has expired at {}", root.not_after()), fix)
        }
        Ok(left) if left.days < SOON => {
            Finding::of(ROOT, Level::Doubtful, format!("{secret}: a {what} expires in {} days", left.days), fix)
        }
        Ok(left) => Finding::good(ROOT, format!("{secret}: the {what} is valid for {} more days", left.days)),
        Err(error) => unknown(ROOT, &format!("how long the {what} is valid"), &error.to_string()),
    }
}

/// Whether every namespace has the roots.
fn distributed(facts: &Facts, roots: &[X509]) -> Option<Finding> {
    let (Ok(maps), Ok(namespaces)) = (&facts.root_config_maps, &facts.namespaces) else { return None };
    let has_all = |map: &&Value| {
        let known = X509::stack_from_pem(text(map, "/data/root-cert.pem").as_bytes()).unwrap_or_default();
        let known: Vec<_> = known.iter().filter_map(|root| root.to_der().ok()).collect();
        roots.iter().all(|root| root.to_der().is_ok_and(|root| known.contains(&root)))
    };
    let current: BTreeSet<_> = maps.iter().filter(has_all).map(|map| text(map, "/metadata/namespace")).collect();
    let live = namespaces.iter().filter(|one| text(one, "/status/phase") != "Terminating");
    let without: Vec<_> = live
        .map(|one| text(one, "/metadata/name"))
        .filter(|name| !LEFT_ALONE.contains(name) && !current.contains(name))
        .collect();
    Some(match without.len() {
        0 => Finding::good(ROOT, format!("all {} namespaces have it", current.len())),
        many => {
            let some = without.iter().take(5).copied().collect::<Vec<_>>().join(", ");
            let what = format!("{many} namespaces do not have it in istio-ca-root-cert, such as {some}");
            let fix = "pods cannot start there. Who holds the lock says why in its log; discoverySelectors leave namespaces out on purpose";
            Finding::of(ROOT, Level::Doubtful, what, fix)
        }
    })
}

fn ztunnel(facts: &Facts, pre: bool) -> Vec<Finding> {
    let daemons = match &facts.ztunnels {
        Ok(daemons) => daemons,
        Err(error) => return vec![unknown(ZTUNNEL, "DaemonSets", error)],
    };
    if daemons.is_empty() {
        let what = "no DaemonSet has pods with the label app=ztunnel";
        let fix = "helm install ztunnel istio/ztunnel, for ambient mode";
        return vec![if pre { Finding::good(ZTUNNEL, what) } else { Finding::of(ZTUNNEL, Level::Doubtful, what, fix) }];
    }
    daemons.iter().flat_map(|daemon| of_daemon(facts, daemon, pre)).collect()
}

fn of_daemon(facts: &Facts, daemon: &Value, pre: bool) -> Vec<Finding> {
    let namespace = text(daemon, "/metadata/namespace");
    let account = text(daemon, "/spec/template/spec/serviceAccountName");
    let mut all = Vec::new();
    let deployments = facts.control_planes.iter().flatten();
    for deployment in deployments.filter(|one| !pre && text(one, "/metadata/namespace") == facts.namespace) {
        let containers = deployment.pointer("/spec/template/spec/containers/0/env").and_then(Value::as_array);
        let trusted = containers.into_iter().flatten().find(|one| text(one, "/name") == "CA_TRUSTED_NODE_ACCOUNTS");
        let trusted = trusted.map(|one| text(one, "/value")).filter(|value| !value.is_empty()).unwrap_or(TRUSTED);
        let own = format!("{namespace}/{account}");
        all.push(match trusted.split(',').any(|one| one.trim() == own) {
            true => Finding::good(ZTUNNEL, format!("{own} may ask for certificates of the pods on its node")),
            false => Finding::of(
                ZTUNNEL,
                Level::Bad,
                format!("{own} is not trusted: CA_TRUSTED_NODE_ACCOUNTS is {trusted}"),
                format!(
                    "set trustedZtunnelNamespace={namespace} and trustedZtunnelName={account} in the chart's values"
                ),
            ),
        });
    }
    let number = |field: &str| daemon.pointer(field).and_then(Value::as_u64).unwrap_or(0);
    let (wanted, ready) = (number("/status/desiredNumberScheduled"), number("/status/numberReady"));
    let what = format!("{}: {ready} of {wanted} are ready", name(daemon));
    all.push(match ready < wanted {
        true => Finding::of(ZTUNNEL, Level::Bad, what, format!("kubectl -n {namespace} logs daemonset/{}: is it the token, the name of the control plane, or its certificate?", text(daemon, "/metadata/name"))),
        false => Finding::good(ZTUNNEL, what),
    });
    // Without replicas that were asked nothing is known of connections.
    if !pre && facts.replicas.iter().any(|replica| replica.problems.is_ok()) {
        let prefix = format!("{}-", text(daemon, "/metadata/name"));
        let suffix = format!(".{namespace}");
        let connected = facts.connected.iter().filter(|name| name.starts_with(&prefix) && name.ends_with(&suffix));
        let connected = connected.collect::<BTreeSet<_>>().len() as u64;
        let what = format!("{}: {connected} of {wanted} are connected", name(daemon));
        all.push(match connected < wanted {
            true => Finding::of(ZTUNNEL, Level::Bad, what, "the log of those that are not says what they cannot do: resolve the name, connect, verify the certificate or authenticate"),
            false => Finding::good(ZTUNNEL, what),
        });
    }
    all
}
