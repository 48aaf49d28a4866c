//! Several replicas, of which some fail, and an API server that does: what
//! clients have stays, and nobody is without a stream for long.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fairway_integration_tests::child::exited_with;
use fairway_integration_tests::cluster::Cluster;
use fairway_integration_tests::crowd::Crowd;
use fairway_integration_tests::expected::{converged_in, converged_within};
use fairway_integration_tests::fairway::{self, Fairway, Options};
use fairway_integration_tests::ztunnel::{self, Ztunnel};
use fairway_integration_tests::{eventually, eventually_within};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio::task::JoinSet;

use crate::mesh::{Namespace, redirected};

/// How many streams two replicas have, unless FAIRWAY_STREAMS says.
const STREAMS: usize = 200;
/// How long a client may be without a stream.
const ABSENCE: Duration = Duration::from_secs(2);
/// How soon everybody has what changed after a replica was killed.
const RECOVERY: Duration = Duration::from_secs(5);
/// Between two changes.
const CHANGE: Duration = Duration::from_millis(250);

static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();

/// A cluster of these tests, which break it. They run one after another.
async fn cluster() -> &'static Cluster {
    CLUSTER.get_or_init(Cluster::start_without_crds).await
}

/// Ends it.
pub async fn stop() {
    if let Some(cluster) = CLUSTER.get() {
        cluster.stop().await;
    }
}

fn streams() -> usize {
    std::env::var("FAIRWAY_STREAMS").ok().and_then(|text| text.parse().ok()).unwrap_or(STREAMS)
}

/// Two replicas with many clients, and changes all along.
struct Scene {
    cluster: &'static Cluster,
    ns: Arc<Namespace>,
    options: Options,
    replicas: Vec<Fairway>,
    crowd: Crowd,
    changes: JoinSet<()>,
}

impl Scene {
    async fn start(name: &str, streams: usize) -> Self {
        let cluster = cluster().await;
        let ns = Arc::new(Namespace::new(&cluster.api, name).await);
        let mut pods = vec![];
        for number in 0..12 {
            pods.push(ns.pod(&format!("p{number}"), json!({ "app": format!("a{}", number % 3) })).await);
        }
        for app in ["a0", "a1", "a2"] {
            ns.service(app, app).await;
        }
        // Leases of their own: a replica that was killed keeps nobody waiting.
        let options = Options::new(&cluster.kubeconfig())
            .env("POD_NAMESPACE", &ns.name)
            .env("PILOT_CA_CERT_CONFIGMAP", name)
            .flag("--shutdownDuration=4s");
        let mut replicas = vec![];
        for _ in 0..2 {
            replicas.push(Fairway::start(&options).await);
        }
        let addresses: Vec<_> = replicas.iter().map(|replica| replica.grpc).collect();
        let crowd = Crowd::start(streams, &addresses).await;
        let mut changes = JoinSet::new();
        changes.spawn(change(ns.clone(), pods));
        Self { cluster, ns, options, replicas, crowd, changes }
    }

    /// Ends the changes; after that everybody has exactly what there is, and
    /// nothing was taken away or sent again on the way.
    async fn end(&mut self) {
        self.changes.shutdown().await;
        converged_in(&self.cluster.api, self.crowd.first(), &[&self.ns.name]).await;
        self.crowd.until_all_agree(RECOVERY).await;
        self.crowd.assert_correct();
        assert_eq!(self.crowd.removed(), [].into(), "nothing was deleted");
        self.replicas.iter().for_each(Fairway::assert_running);
    }

    /// Replaces a replica by one of these options, as a rolling update does.
    async fn restart(&mut self, number: usize, options: &Options) {
        let status = self.replicas[number].terminate().await;
        assert!(exited_with(status, 0), "SIGTERM is a normal end: {status}");
        self.replicas[number] = self.replicas[number].start_again(options).await;
    }
}

/// Changes one pod after another.
async fn change(ns: Arc<Namespace>, pods: Vec<Value>) {
    let undone = json!({ "metadata": { "annotations": { "ambient.istio.io/redirection": null } } });
    for turn in 0.. {
        for pod in &pods {
            ns.api.patch(pod, if turn % 2 == 0 { redirected() } else { undone.clone() }).await;
            tokio::time::sleep(CHANGE).await;
        }
    }
}

/// A replica is killed: its clients are with the other at once, and miss
/// nothing.
pub async fn killed() {
    let mut scene = Scene::start("killed", streams()).await;
    scene.crowd.mark();
    let at = Instant::now();
    scene.replicas[1].kill().await;
    scene.ns.service("after", "a0").await;
    let after = scene.ns.service_name("after");
    let took = scene.crowd.until_all_have(at, RECOVERY, &after).await;
    println!("killed: {} clients have what came after it within {took:?}", streams());
    // It comes back, and so does its share.
    scene.replicas[1] = scene.replicas[1].start_again(&scene.options).await;
    scene.end().await;
}

/// Replicas are restarted by turns: nobody is away for long, and in the end
/// each has its share of streams again.
pub async fn restarted_by_turns() {
    let mut scene = Scene::start("rolled", streams()).await;
    scene.crowd.mark();
    for turn in 0..5 {
        let options = scene.options.clone();
        scene.restart(turn % 2, &options).await;
    }
    let absence = scene.crowd.longest_absence();
    println!("restarted by turns: {:?} without a stream at most", absence);
    assert!(absence <= ABSENCE, "a client was without a stream for {absence:?}");
    // A fifth more or less than half is even enough.
    let share = streams() / 2;
    eventually_within(Duration::from_secs(90), "both have their share", || async {
        let mut counts = vec![];
        for replica in &scene.replicas {
            let rows: Value = serde_json::from_str(&replica.page("/debug/syncz").await).unwrap();
            counts.push(rows.as_array().unwrap().len());
        }
        if counts.iter().all(|count| count.abs_diff(share) <= share / 5) { Ok(()) } else { Err(counts) }
    })
    .await;
    let absence = scene.crowd.longest_absence();
    assert!(absence <= ABSENCE, "a client was without a stream for {absence:?}");
    scene.end().await;
}

/// From one build to the next and back, with clients connected: whatever both
/// say the same is not sent again. FAIRWAY_OTHER_BIN names the other build.
pub async fn other_build() {
    let other = std::env::var_os("FAIRWAY_OTHER_BIN").map_or_else(fairway::binary, PathBuf::from);
    let mut scene = Scene::start("upgraded", streams() / 2).await;
    scene.crowd.mark();
    let (old, new) = (scene.options.clone(), scene.options.clone().of_build(other));
    for options in [new, old] {
        for number in 0..2 {
            scene.restart(number, &options).await;
        }
        assert_eq!(scene.crowd.removed(), [].into(), "nothing was deleted");
    }
    let absence = scene.crowd.longest_absence();
    assert!(absence <= ABSENCE, "a client was without a stream for {absence:?}");
    scene.end().await;
}

/// A leader that was stopped for longer than its locks are valid finds another leader
/// when it goes on, and writes nothing.
pub async fn stopped_leader() {
    let cluster = cluster().await;
    let ns = Namespace::new(&cluster.api, "leader").await;
    let start = async |name: &str| {
        ns.service_account(name).await;
        let binding = format!("{}-{name}", ns.name);
        cluster
            .api
            .apply(json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": binding },
                "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
                "subjects": [{ "kind": "ServiceAccount", "name": name, "namespace": ns.name }],
            }))
            .await;
        let options = Options::new(&cluster.kubeconfig_of(&ns.name, name).await)
            .env("POD_NAME", name)
            .env("POD_NAMESPACE", &ns.name)
            .env("PILOT_CA_CERT_CONFIGMAP", "leader");
        Fairway::start(&options).await
    };
    let holder = async || cluster.api.holder(&ns.name, LOCK).await;
    let leads = async |name: &str| {
        let leads = || async { if holder().await == name { Ok(()) } else { Err(holder().await) } };
        eventually_within(Duration::from_secs(90), &format!("{name} leads"), leads).await;
    };
    let one = start("one").await;
    leads("one").await;
    let two = start("two").await;

    // There is work for a leader all along.
    one.signal("STOP");
    let mut made = vec![Namespace::new(&cluster.api, "made").await];
    leads("two").await;
    for _ in 0..3 {
        made.push(Namespace::new(&cluster.api, "made").await);
    }
    let before = cluster.writes().len();
    one.signal("CONT");
    for _ in 0..8 {
        made.push(Namespace::new(&cluster.api, "made").await);
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    for namespace in &made {
        eventually("its root certificates", || cluster.api.get("v1", "ConfigMap", &namespace.name, "leader")).await;
    }
    let by = |event: &Value, name: &str| {
        event["user"]["username"].as_str() == Some(&format!("system:serviceaccount:{}:{name}", ns.name))
    };
    let writes = cluster.writes();
    // What each says of itself is no leader's work, nor is giving back a lock that
    // nobody has taken yet.
    let of_leaders = |event: &&Value| {
        let reference = &event["objectRef"];
        let lock = [LOCK, "istio-leader", "istio-ip-autoallocate"].map(Value::from).contains(&reference["name"]);
        reference["resource"] != "leases" && !lock && event["verb"] != "create"
    };
    let late: Vec<_> = writes[before..].iter().filter(|event| by(event, "one")).filter(of_leaders).collect();
    assert!(late.is_empty(), "it wrote after it had lost its lock: {late:#?}");
    for namespace in &made {
        let of_map = |event: &&Value| {
            let reference = &event["objectRef"];
            reference["resource"] == "configmaps"
                && reference["name"] == "leader"
                && reference["namespace"] == *namespace.name
        };
        let writers: Vec<_> = writes.iter().filter(of_map).map(|event| by(event, "two")).collect();
        assert!(!writers.is_empty() && writers.iter().all(|two| *two), "{}: {writers:?}", namespace.name);
    }
    assert_eq!(holder().await, "two", "what was lost is not taken back");
    // It serves as before.
    let ztunnel = Ztunnel::ready(ztunnel::Options::plaintext(one.grpc)).await;
    converged_in(&cluster.api, &ztunnel, &[&made[0].name]).await;
    two.assert_running();
}

/// istiod's lock for root ConfigMaps.
const LOCK: &str = "istio-namespace-controller-election";

/// The API server's storage is restored from before: nothing is taken away, and
/// it shows; when it is as it was, all goes on.
pub async fn back_in_time() {
    let cluster = cluster().await;
    let ns = Namespace::new(&cluster.api, "past").await;
    let pod = ns.pod("old", json!({ "app": "old" })).await;
    cluster.keep_storage("older").await;
    for name in ["a", "b", "c"] {
        ns.pod(name, json!({ "app": name })).await;
        ns.service(name, name).await;
    }
    let fairway = Fairway::start(&Options::new(&cluster.kubeconfig()).flag("--read-only")).await;
    let ztunnel = Ztunnel::ready(ztunnel::Options::plaintext(fairway.grpc)).await;
    converged_in(&cluster.api, &ztunnel, &[&ns.name]).await;
    let before = ztunnel.read(|table| table.now());

    cluster.keep_storage("newer").await;
    cluster.restore_storage("older").await;
    eventually("it shows", || async {
        let problems = fairway.page("/debug/sourcez").await;
        let says = |kind: &str| problems.contains(&format!("\"place\":\"{kind}\""));
        if problems.contains("nothing is believed of it") && says("Pod") && says("Service") {
            Ok(())
        } else {
            Err(problems)
        }
    })
    .await;
    assert!(!fairway.page("/metrics").await.contains("fairway_source_problems 0"), "it is counted");
    assert!(fairway.log().contains("nothing is believed of it until it has caught up"), "it is logged");
    // Whoever comes now is told the same.
    let other = Ztunnel::ready(ztunnel::Options::plaintext(fairway.grpc)).await;
    assert_eq!(other.retained(), ztunnel.retained());
    assert_eq!(ns.own(ztunnel.read(|table| table.touched_since(before))), [].into(), "nothing was taken away");

    cluster.restore_storage("newer").await;
    ns.api.patch(&pod, redirected()).await;
    converged_within(Duration::from_secs(30), &cluster.api, &ztunnel, &[&ns.name]).await;
    assert_eq!(ns.own(ztunnel.read(|table| table.removed_since(before))), [].into());
    eventually("it is over", || async {
        let problems = fairway.page("/debug/sourcez").await;
        if problems.contains("nothing is believed of it") { Err(problems) } else { Ok(()) }
    })
    .await;
}
