mod clients;

use super::*;
use crate::api::kinds::DecodeError;
use crate::api::{Change, Inputs, ObjectKey};
use crate::ca::node::Pods;
use crate::graph::Graph;
use crate::model::key_set::KeySet;
use crate::source::Sender;
use crate::source::documents::{Document, read};
use crate::xds::demand::Demand;
use crate::xds::resource::ResourceType;

struct World {
    sender: Sender,
    published: Published,
    questions: Questions,
    end: oneshot::Receiver<()>,
    /// Tells the writer which keys have been fetched.
    keys: watch::Sender<Fetched>,
    /// Tells it to speak for all.
    speaks: watch::Sender<usize>,
    /// Kept, or nothing would ever be asked for.
    _demand: Arc<Demand>,
}

const LIMIT: Duration = Duration::from_secs(20);

impl World {
    fn new() -> Self {
        let (sender, events) = crate::source::channel();
        let pace = Pace::Window(Duration::from_millis(5));
        let demand = Arc::<Demand>::default();
        let proxies = vec!["x/one".parse().unwrap()];
        let (keys, fetched) = watch::channel(Fetched::new());
        let verdicts = crate::xds::verdict::channel().1;
        let (asked, access) = (Arc::<Demand<Want>>::default().follow(), watch::channel(Access::new()).1);
        let (speaks, spoken) = watch::channel(0);
        let heard = Heard { wanted: demand.follow(), verdicts, keys: fetched, asked, access, speaks: spoken };
        let (published, questions, end) = start(Arc::default(), pace, proxies, heard, events).unwrap();
        Self { sender, published, questions, end, keys, speaks, _demand: demand }
    }

    async fn put(&self, yaml: &str) {
        let changes = read(yaml).into_iter().map(|document| match document {
            Document::Object(object) => Change::Put(object),
            other => panic!("{other:?}"),
        });
        self.sender.send(Event::Changes(changes.collect())).await.unwrap();
    }

    async fn synced(&self, kinds: &[Kind]) {
        self.sender.send(Event::Synced(kinds.to_vec())).await.unwrap();
    }

    /// Waits for views that are as wanted.
    async fn views(&mut self, wanted: impl Fn(&Views) -> bool) -> Arc<Views> {
        let waiting = self.published.views.wait_for(|views| wanted(views));
        tokio::time::timeout(LIMIT, waiting).await.expect("in time").unwrap().clone()
    }
}

fn pod(name: &str, sa: &str, phase: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: x, uid: u-{name}}}\n\
         spec: {{serviceAccountName: {sa}, nodeName: n1}}\nstatus: {{phase: {phase}, podIP: 10.0.0.1}}\n---\n"
    )
}

#[tokio::test]
async fn nothing_is_published_before_every_kind_has_synced() {
    let mut world = World::new();
    world.put(&pod("a", "sa", "Running")).await;
    let (last, others) = Kind::ALL.split_last().unwrap();
    world.synced(others).await;
    // A question is answered between events, so all of them have been taken.
    let (answer, answered) = oneshot::channel();
    world.questions.send(Question::Diagnostics(answer)).await.unwrap();
    answered.await.unwrap();
    assert!(!*world.published.synced.borrow() && world.published.views.borrow().addresses.is_empty());

    world.synced(&[*last]).await;
    let views = world.views(|views| !views.addresses.is_empty()).await;
    assert_eq!(views.addresses.iter().map(|one| one.name().to_owned()).collect::<Vec<_>>(), ["Kubernetes//Pod/x/a"]);
    tokio::time::timeout(LIMIT, world.published.synced.wait_for(|synced| *synced)).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_change_of_nothing_publishes_nothing() {
    let mut world = World::new();
    world.synced(Kind::ALL).await;
    world.put(&pod("a", "sa", "Running")).await;
    let before = world.views(|views| views.addresses.len() == 1).await;
    world.put(&pod("a", "sa", "Running")).await;
    world.put(&pod("b", "sa", "Running")).await;
    let after = world.views(|views| views.addresses.len() == 2).await;
    assert_eq!(after.revision, before.revision + 1);
    assert!(after.authorizations.same_as(&before.authorizations));
}

/// Objects are counted by what became of them, and changes by what proxies were
/// told for.
#[tokio::test]
async fn changes_are_counted() {
    use counts::Trigger;
    let mut world = World::new();
    world.put(&pod("a", "sa", "Running")).await;
    world.synced(Kind::ALL).await;
    world.views(|views| views.addresses.len() == 1).await;
    // Nothing of it changes.
    world.put(&pod("a", "sa", "Running")).await;
    world.put(&pod("a", "other", "Running")).await;
    let changed = |views: &Views| {
        views.addresses.get("Kubernetes//Pod/x/a").is_some_and(|pod| {
            let message = pod.message(ResourceType::Address);
            message.windows(5).any(|part| part == b"other")
        })
    };
    world.views(changed).await;
    world
        .put(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: x}\n\
             spec: {rules: [{}]}\n",
        )
        .await;
    world.views(|views| !views.authorizations.is_empty()).await;
    // Nobody is told of it.
    world.put("apiVersion: v1\nkind: Node\nmetadata: {name: of-nobody}\n").await;
    world.sender.send(Event::Changes(vec![Change::Delete(Kind::Pod, ObjectKey::new("x", "a"))])).await.unwrap();
    world.views(|views| views.addresses.is_empty()).await;

    let counts = &world.published.counts;
    assert_eq!(counts.objects(Kind::Pod), [1, 1, 1]);
    assert_eq!(counts.objects(Kind::AuthorizationPolicy), [1, 0, 0]);
    assert_eq!(counts.objects(Kind::Node), [1, 0, 0]);
    assert_eq!(counts.objects(Kind::Service), [0; 3]);
    assert_eq!(counts.triggers(Trigger::Config), 1);
    assert_eq!(counts.triggers(Trigger::Service), 0);
    // The node's may have come with that of the pod.
    assert!(matches!(counts.triggers(Trigger::Ambient), 3 | 4));
}

#[tokio::test]
async fn the_node_authorizer_sees_the_pods() {
    let mut world = World::new();
    world.synced(Kind::ALL).await;
    world.put(&(pod("a", "one", "Running") + &pod("b", "one", "Running") + &pod("c", "done", "Succeeded"))).await;
    world.views(|views| views.addresses.len() == 2).await;
    let pods = world.published.pods.clone();
    assert_eq!(pods.pod("x", "a").map(|facts| facts.uid.to_string()), Some("u-a".into()));
    assert!(pods.pod("x", "z").is_none());
    assert!(pods.runs_on("n1", "x", "one") && !pods.runs_on("n2", "x", "one") && !pods.runs_on("n1", "y", "one"));
    assert!(!pods.runs_on("n1", "x", "done"), "a pod that has ended has no identity to prove");

    world.sender.send(Event::Changes(vec![Change::Delete(Kind::Pod, ObjectKey::new("x", "a"))])).await.unwrap();
    world.views(|views| views.addresses.len() == 1).await;
    assert!(pods.runs_on("n1", "x", "one"), "another pod still runs as it");
    world.put(&pod("b", "two", "Running")).await;
    world.views(|views| views.addresses.get("Kubernetes//Pod/x/b").is_some()).await;
    let moved = async {
        while pods.runs_on("n1", "x", "one") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, moved).await.unwrap();
    assert!(pods.runs_on("n1", "x", "two"));
}

#[tokio::test]
async fn mesh_and_namespaces_are_published() {
    let mut world = World::new();
    let namespace =
        |name: &str, rest: &str| format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}{rest}}}\n---\n");
    world
        .put(
            &(namespace("a", "")
                + &namespace("b", ", labels: {mesh: in}")
                + &namespace("c", ", deletionTimestamp: 2026-01-01T00:00:00Z")),
        )
        .await;
    world.synced(Kind::ALL).await;
    let wait = |wanted: &'static [&'static str], mut namespaces: watch::Receiver<Arc<BTreeSet<String>>>| async move {
        let waiting = namespaces.wait_for(|names| names.iter().eq(wanted.iter()));
        tokio::time::timeout(LIMIT, waiting).await.expect("in time").unwrap();
    };
    wait(&["a", "b"], world.published.namespaces.clone()).await;
    let mesh = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n\
                data: {mesh: \"{trustDomain: td.example, discoverySelectors: [{matchLabels: {mesh: in}}]}\"}\n";
    world.put(mesh).await;
    wait(&["b"], world.published.namespaces.clone()).await;
    assert_eq!(&*world.published.mesh.borrow().trust_domain, "td.example");
    let provenance = {
        world.put(&pod("a", "sa", "Running").replace("namespace: x", "namespace: b")).await;
        let name = "Kubernetes//Pod/b/a";
        world.views(|views| views.addresses.get(name).is_some()).await;
        let (answer, answered) = oneshot::channel();
        world.questions.send(Question::Provenance(ResourceType::Address, name.into(), answer)).await.unwrap();
        answered.await.unwrap().unwrap()
    };
    assert_eq!(provenance.origins, [("pods", "b/a".to_string())]);
    assert!(provenance.reads.contains(&("configmaps", "istio-system/istio".into())), "{provenance:?}");
}

fn config_map(mesh: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata: {{mesh: {mesh:?}}}\n"
    )
}

/// A version of the mesh's ConfigMap that cannot be read.
fn broken(error: Option<&str>) -> Change {
    let error = error.map(|reason| DecodeError { field: "data.mesh".into(), reason: reason.into() });
    Change::Unreadable(Kind::ConfigMap, ObjectKey::new("istio-system", "istio"), error)
}

impl World {
    async fn blocked(&mut self, wanted: Option<&str>) {
        let wait = self.published.blocked.wait_for(|reason| match (reason, wanted) {
            (Some(reason), Some(wanted)) => reason.contains(wanted),
            (reason, wanted) => reason.is_none() && wanted.is_none(),
        });
        tokio::time::timeout(LIMIT, wait).await.expect("in time").unwrap();
    }
}

/// Who starts with the defaults tells proxies another trust domain than they have
/// certificates of.
#[tokio::test]
async fn nothing_is_published_while_the_mesh_could_never_be_read() {
    let mut world = World::new();
    world.put(&pod("a", "sa", "Running")).await;
    world
        .sender
        .send(Event::Changes(vec![Change::Reset(Kind::ConfigMap, vec![]), broken(Some("no map"))]))
        .await
        .unwrap();
    world.synced(Kind::ALL).await;
    world.blocked(Some("ConfigMap istio-system/istio: data.mesh: no map")).await;
    world.sender.send(Event::Changes(vec![broken(Some("still none"))])).await.unwrap();
    world.blocked(Some("still none")).await;
    // Whoever comes does not change that.
    world.keys.send_replace(Fetched::new());
    world.put(&pod("b", "sa", "Running")).await;
    let (answer, answered) = oneshot::channel();
    world.questions.send(Question::Diagnostics(answer)).await.unwrap();
    answered.await.unwrap();
    assert!(!*world.published.synced.borrow() && world.published.views.borrow().addresses.is_empty());

    world.sender.send(Event::Changes(vec![broken(None)])).await.unwrap();
    world.put(&config_map("trustDomain: td.example")).await;
    world.views(|views| views.addresses.len() == 2).await;
    world.blocked(None).await;
    // One that breaks later leaves it in force.
    world.sender.send(Event::Changes(vec![broken(Some("later"))])).await.unwrap();
    world.put(&pod("c", "sa", "Running")).await;
    world.views(|views| views.addresses.len() == 3).await;
    assert!(world.published.blocked.borrow().is_none());
    assert_eq!(&*world.published.mesh.borrow().trust_domain, "td.example");
}

/// It can be read, or is not there, or was before it broke.
#[tokio::test]
async fn a_mesh_that_can_do_without_the_broken_map_goes_on() {
    let other = Change::Unreadable(
        Kind::ConfigMap,
        ObjectKey::new("istio-system", "of-another"),
        Some(DecodeError { field: "data".into(), reason: "no map".into() }),
    );
    let Some(Document::Object(good)) = read(&config_map("trustDomain: td.example")).pop() else { panic!("no object") };
    for changes in [
        vec![broken(Some("no map")), broken(None)],
        vec![other],
        vec![Change::Put(good.clone()), broken(Some("no map"))],
        vec![broken(Some("no map")), Change::Reset(Kind::ConfigMap, vec![good])],
    ] {
        let mut world = World::new();
        world.put(&pod("a", "sa", "Running")).await;
        world.sender.send(Event::Changes(changes)).await.unwrap();
        world.synced(Kind::ALL).await;
        world.views(|views| !views.addresses.is_empty()).await;
    }
}

/// What RequestAuthentications need is asked for; what was fetched, or could not
/// be, is known.
#[tokio::test]
async fn keys_are_asked_for_and_known() {
    let world = World::new();
    let rule = |name: &str, rules: &str, target: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: {name}, namespace: x}}\n\
             spec: {{jwtRules: [{rules}]{target}}}\n---\n"
        )
    };
    let attached = ", targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: wp}]";
    world
        .put(
            &(rule("a", "{issuer: a, jwksUri: 'https://a/keys'}, {issuer: 'https://b'}", attached)
                + &rule("b", "{issuer: a, jwksUri: 'https://a/keys', timeout: 9s}, {issuer: c, jwks: '{}'}", attached)
                + &rule("selects", "{issuer: d, jwksUri: 'https://d/keys'}", "")),
        )
        .await;
    world.synced(Kind::ALL).await;
    let uri = KeySource::Uri("https://a/keys".into());
    let wanted = WantedKeys::from([
        (uri.clone(), Duration::from_secs(9)),
        (KeySource::Issuer("https://b".into()), Duration::from_secs(5)),
    ]);
    let mut asked = world.published.wanted_keys.clone();
    let waiting = asked.wait_for(|asked| **asked == wanted);
    tokio::time::timeout(LIMIT, waiting).await.expect("in time").unwrap();

    let stale = KeySet { keys: Some("{}".into()), problem: Some("gone".into()) };
    world.keys.send_replace(Fetched::unit(uri, stale));
    let known = async {
        loop {
            let (answer, answered) = oneshot::channel();
            world.questions.send(Question::Diagnostics(answer)).await.unwrap();
            let found = answered.await.unwrap();
            if found.iter().filter(|one| one.message.contains("gone")).count() == 2 {
                return found;
            }
            tokio::task::yield_now().await;
        }
    };
    let found = tokio::time::timeout(LIMIT, known).await.expect("in time");
    assert_eq!(found[0].field, "spec.jwtRules[0].jwksUri");
}

#[tokio::test]
async fn it_says_when_it_can_speak_for_all() {
    let world = World::new();
    world.speaks.send_replace(1);
    let mut complete = world.published.complete.clone();
    world.put(&pod("a", "one", "Running")).await;
    world.synced(Kind::ALL).await;
    tokio::time::timeout(LIMIT, complete.wait_for(|complete| *complete)).await.unwrap().unwrap();
    assert!(*world.published.synced.borrow(), "what is said before is of half a mesh");
    world.speaks.send_replace(0);
    tokio::time::timeout(LIMIT, complete.wait_for(|complete| !*complete)).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_thread_ends_when_the_sources_are_gone() {
    let World { sender, end, .. } = World::new();
    drop(sender);
    tokio::time::timeout(LIMIT, end).await.unwrap().unwrap();
}

#[test]
fn every_object_reaches_its_input() {
    let mut graph = Graph::new();
    let inputs = Inputs::new(&mut graph);
    for kind in Kind::ALL {
        let object = kind.decode_json(r#"{"metadata": {"name": "a", "namespace": "b"}}"#).unwrap();
        let key = object.meta().key();
        inputs.apply(&mut graph, Change::Reset(*kind, vec![object]));
        graph.commit();
        assert_eq!(graph.stats().iter().map(|one| one.rows).sum::<usize>(), 1, "{kind:?}");
        let objects = inputs.objects(&graph, *kind);
        assert_eq!(
            objects.iter().map(|object| (object.kind(), object.meta().key())).collect::<Vec<_>>(),
            [(*kind, key.clone())]
        );
        inputs.apply(&mut graph, Change::Delete(*kind, key));
        graph.commit();
    }
}
