//! From one issuer to the next, while certificates are asked for and used all
//! the time.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fairway_integration_tests::fairway::{Fairway, Options};
use fairway_integration_tests::identity::{Identity, token};
use fairway_integration_tests::issuer::{Issuer, plug_in};
use fairway_integration_tests::ztunnel::{self, Tls};
use fairway_integration_tests::{eventually, runner};
use openssl::nid::Nid;
use serde_json::Value;
use tokio::task::JoinSet;

/// How long certificates live, in seconds.
const LIFETIME: i64 = 10;
/// Workloads, and the time after which each asks for its next certificate: most
/// so often that there are some 200 requests a second, some at half of the
/// lifetime as ztunnels do, and some in the last moment.
const WORKLOADS: &[(usize, Duration)] =
    &[(18, Duration::from_millis(90)), (4, Duration::from_secs(5)), (4, Duration::from_secs(7))];
/// How many pairs shake hands at a time.
const PAIRS: usize = 2;

/// What runs all along.
struct Load {
    held: Vec<Mutex<Arc<Identity>>>,
    options: Vec<ztunnel::Options>,
    failures: Mutex<Vec<String>>,
    requests: AtomicU64,
    handshakes: AtomicU64,
    started: Instant,
}

impl Load {
    async fn start(fairway: &Fairway, state: &Path) -> (Arc<Self>, JoinSet<()>) {
        let roots = std::fs::read_to_string(state.join("root-cert.pem")).unwrap();
        let pauses: Vec<_> = WORKLOADS.iter().flat_map(|(count, pause)| std::iter::repeat_n(*pause, *count)).collect();
        let asking = |number| ztunnel::Options {
            tls: Some(Tls::istiod(roots.clone())),
            token: Some(token(state, "load", &format!("w{number}"))),
            ..ztunnel::Options::plaintext(fairway.secure_grpc)
        };
        let options: Vec<_> = (0..pauses.len()).map(asking).collect();
        let mut held = vec![];
        for (number, options) in options.iter().enumerate() {
            let channel = ztunnel::channel(options).await.unwrap();
            let name = format!("spiffe://cluster.local/ns/load/sa/w{number}");
            let identity = Identity::over(channel, options, &name, LIFETIME).await.unwrap();
            held.push(Mutex::new(Arc::new(identity)));
        }
        let load = Arc::new(Self {
            held,
            options,
            failures: Mutex::default(),
            requests: AtomicU64::new(0),
            handshakes: AtomicU64::new(0),
            started: Instant::now(),
        });
        let mut tasks = JoinSet::new();
        for (number, pause) in pauses.into_iter().enumerate() {
            tasks.spawn(load.clone().renew(number, pause));
        }
        for number in 0..PAIRS {
            tasks.spawn(load.clone().shake_hands(number));
        }
        (load, tasks)
    }

    fn holds(&self, number: usize) -> Arc<Identity> {
        self.held[number].lock().unwrap().clone()
    }

    fn failed(&self, what: String) {
        let mut failures = self.failures.lock().unwrap();
        if failures.len() < 20 {
            failures.push(format!("{:.1} s: {what}", self.started.elapsed().as_secs_f64()));
        }
    }

    /// Asks for a certificate again and again, and trusts, also the control
    /// plane, by what the last one came with.
    async fn renew(self: Arc<Self>, number: usize, pause: Duration) {
        let mut connected: Option<(Instant, tonic::transport::Channel)> = None;
        loop {
            tokio::time::sleep(pause).await;
            let held = self.holds(number);
            let roots = held.roots.iter().map(|root| String::from_utf8(root.to_pem().unwrap()).unwrap()).collect();
            let options = ztunnel::Options { tls: Some(Tls::istiod(roots)), ..self.options[number].clone() };
            let channel = match connected.take().filter(|(since, _)| since.elapsed() < Duration::from_secs(2)) {
                Some(fresh) => fresh,
                None => match ztunnel::channel(&options).await {
                    Ok(channel) => (Instant::now(), channel),
                    Err(error) => {
                        self.failed(format!("{} cannot connect: {error:?}", held.name));
                        continue;
                    }
                },
            };
            match Identity::over(channel.1.clone(), &options, &held.name, LIFETIME).await {
                Ok(identity) => {
                    *self.held[number].lock().unwrap() = Arc::new(identity);
                    self.requests.fetch_add(1, Ordering::Relaxed);
                    connected = Some(channel);
                }
                Err(reason) => self.failed(format!("{} gets no certificate: {reason}", held.name)),
            }
        }
    }

    /// Mutual TLS between two workloads, and the next two.
    async fn shake_hands(self: Arc<Self>, seed: usize) {
        let count = self.held.len();
        for turn in (seed..).step_by(PAIRS) {
            tokio::time::sleep(Duration::from_millis(4)).await;
            // Each meets each in the course of time.
            let (one, other) = (turn % count, (turn + 1 + turn / count) % count);
            let (client, server) = (self.holds(one), self.holds(other));
            let (near, far) = tokio::io::duplex(1 << 16);
            let (connected, accepted) = tokio::join!(client.connect(near), server.accept(far));
            let failure = connected.err().or(accepted.err());
            self.handshakes.fetch_add(1, Ordering::Relaxed);
            if let Some(reason) = failure {
                self.failed(format!(
                    "{} ({}) → {} ({}): {reason}",
                    client.name,
                    about(&client),
                    server.name,
                    about(&server)
                ));
            }
        }
    }

    fn assert_good(&self) {
        let failures = self.failures.lock().unwrap();
        assert!(failures.is_empty(), "handshakes or requests failed:\n{}", failures.join("\n"));
    }
}

/// Who issued a certificate, and whom its owner trusts.
fn about(identity: &Identity) -> String {
    let roots: Vec<_> = identity.roots.iter().map(|root| common_name(root.subject_name())).collect();
    format!("{} +{}", common_name(identity.certificate().issuer_name()), roots.join(" +"))
}

fn common_name(name: &openssl::x509::X509NameRef) -> String {
    name.entries_by_nid(Nid::COMMONNAME).next().unwrap().data().to_string().unwrap()
}

async fn page(fairway: &Fairway) -> Value {
    serde_json::from_str(&fairway.page("/debug/ca").await).unwrap()
}

/// Waits until the page says a step, and the certificates of those who renew
/// often are of an issuer and come with roots.
async fn until(fairway: &Fairway, load: &Load, step: &str, wanted: &str) -> Value {
    eventually(&format!("{step}: {wanted}"), || async {
        load.assert_good();
        let page = page(fairway).await;
        let now = about(&load.holds(0));
        if page["step"] == step && now == wanted { Ok(page) } else { Err(format!("{}: {now}", page["step"])) }
    })
    .await
}

/// A new intermediate signs at once; a new root when everybody has it, and the
/// old one is told as long as somebody needs it; a root that nobody has is
/// refused. No handshake fails, no request does.
pub async fn under_load() {
    let folder: PathBuf = runner::folder().join("rotation");
    let (objects, state, ca) = (folder.join("objects"), folder.join("state"), folder.join("cacerts"));
    for folder in [&objects, &state, &ca] {
        std::fs::create_dir_all(folder).unwrap();
    }
    let (a, b, c) = (Issuer::root("A"), Issuer::root("B"), Issuer::root("C"));
    let (a1, a2, b1, c1) = (a.intermediate("A1"), a.intermediate("A2"), b.intermediate("B1"), c.intermediate("C1"));
    plug_in(&ca, "one", &a1, &[&a]);
    let options = Options::folder(&objects, &state)
        .env("ROOT_CA_DIR", &ca.display().to_string())
        .env("DEFAULT_WORKLOAD_CERT_TTL", &format!("{LIFETIME}s"))
        .env("MAX_WORKLOAD_CERT_TTL", &format!("{LIFETIME}s"))
        .env("FAIRWAY_CA_SPREAD", "3s");
    let fairway = Fairway::start(&options).await;
    let (load, mut tasks) = Load::start(&fairway, &state).await;
    until(&fairway, &load, "SETTLED", "A1 +A").await;

    plug_in(&ca, "two", &a2, &[&a]);
    until(&fairway, &load, "SETTLED", "A2 +A").await;

    plug_in(&ca, "three", &b1, &[&b, &a]);
    let staged = Instant::now();
    until(&fairway, &load, "STAGE", "A2 +B +A").await;
    let page = until(&fairway, &load, "SIGN", "B1 +B +A").await;
    assert!(staged.elapsed() >= Duration::from_secs(LIFETIME as u64), "after {:?}", staged.elapsed());
    // Those who have not renewed since are known.
    let old = page["issuers"].as_array().unwrap().iter().find(|issuer| issuer["subject"].to_string().contains("A2"));
    let old = old.unwrap_or_else(|| panic!("nobody holds a certificate of A2: {page}"));
    assert!(old["signs"] == false && old["workloads"].to_string().contains("/ns/load/sa/w"), "{old}");

    // The operator takes the old root away as soon as the new one signs.
    plug_in(&ca, "four", &b1, &[&b]);
    let page = until(&fairway, &load, "SIGN", "B1 +B +A").await;
    assert!(page["explanation"].as_str().unwrap().contains("still told"), "{page}");
    until(&fairway, &load, "SETTLED", "B1 +B").await;

    plug_in(&ca, "five", &c1, &[&c]);
    eventually("a root that nobody knows is refused", || async {
        let page = self::page(&fairway).await;
        let reason = page["refused"]["reason"].as_str().unwrap_or_default().to_owned();
        if reason.contains("no workload has been told") { Ok(()) } else { Err(page.to_string()) }
    })
    .await;
    until(&fairway, &load, "SETTLED", "B1 +B").await;
    let metrics = fairway.page("/metrics").await;
    assert!(metrics.contains("fairway_ca_bundle_rejected_count 1"), "it is counted");
    assert!(fairway.page("/debug/sourcez").await.contains("CA key material"), "it is a problem");

    tasks.shutdown().await;
    load.assert_good();
    let seconds = load.started.elapsed().as_secs_f64();
    let (requests, handshakes) = (load.requests.load(Ordering::Relaxed), load.handshakes.load(Ordering::Relaxed));
    let rates = (requests as f64 / seconds, handshakes as f64 / seconds);
    println!("rotation: {:.0} CSR/s, {:.0} handshakes/s in {seconds:.0} s", rates.0, rates.1);
    // These callers come to some 60 and 15 on two cores, and to fewer beside others.
    assert!(rates.0 > 10.0 && rates.1 > 2.0, "that was no load: {rates:?}");
    fairway.terminate().await;
}

/// A control plane that is restarted in the middle goes on where it was.
pub async fn restarted() {
    let folder: PathBuf = runner::folder().join("rotation-restarted");
    let (objects, state, ca) = (folder.join("objects"), folder.join("state"), folder.join("cacerts"));
    for folder in [&objects, &state, &ca] {
        std::fs::create_dir_all(folder).unwrap();
    }
    let (a, b) = (Issuer::root("A"), Issuer::root("B"));
    let (a1, b1) = (a.intermediate("A1"), b.intermediate("B1"));
    plug_in(&ca, "one", &a1, &[&a]);
    let options = Options::folder(&objects, &state)
        .env("ROOT_CA_DIR", &ca.display().to_string())
        .env("DEFAULT_WORKLOAD_CERT_TTL", &format!("{LIFETIME}s"))
        .env("FAIRWAY_CA_SPREAD", "4s");
    let mut fairway = Fairway::start(&options).await;
    let until = async |fairway: &Fairway, step: &str, wanted: &str| {
        eventually(&format!("{step}: {wanted}"), || async {
            let page = page(fairway).await;
            let roots = std::fs::read_to_string(state.join("root-cert.pem")).unwrap();
            let options = ztunnel::Options {
                tls: Some(Tls::istiod(roots)),
                token: Some(token(&state, "load", "w")),
                ..ztunnel::Options::plaintext(fairway.secure_grpc)
            };
            let channel = ztunnel::channel(&options).await.map_err(|error| format!("{error:?}"))?;
            let identity = Identity::over(channel, &options, "spiffe://cluster.local/ns/load/sa/w", LIFETIME).await?;
            let now = about(&identity);
            if page["step"] == step && now == wanted { Ok(()) } else { Err(format!("{}: {now}", page["step"])) }
        })
        .await;
    };
    until(&fairway, "SETTLED", "A1 +A").await;
    plug_in(&ca, "two", &b1, &[&b, &a]);
    until(&fairway, "STAGE", "A1 +B +A").await;
    let kept = async |key: bool| {
        eventually(&format!("the key of the issuer before is kept: {key}"), || async {
            let text = std::fs::read_to_string(state.join("ca-previous.json")).map_err(|error| error.to_string())?;
            if text.contains("ca-key.pem") == key { Ok(()) } else { Err(text) }
        })
        .await;
    };
    kept(true).await;

    plug_in(&ca, "three", &b1, &[&b]);
    fairway.kill().await;
    fairway = fairway.start_again(&options).await;
    until(&fairway, "STAGE", "A1 +B +A").await;
    until(&fairway, "SIGN", "B1 +B +A").await;
    kept(false).await;

    fairway.kill().await;
    fairway = fairway.start_again(&options).await;
    until(&fairway, "SIGN", "B1 +B +A").await;
    until(&fairway, "SETTLED", "B1 +B").await;
}
