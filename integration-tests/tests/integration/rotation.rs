//! From one issuer to the next, while certificates are asked for and used all
//! the time.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fairway_integration_tests::fairway::{Fairway, Options};
use fairway_integration_tests::identity::{Applicant, Identity, token};
use fairway_integration_tests::issuer::{Issuer, plug_in};
use fairway_integration_tests::ztunnel::{self, Tls};
use fairway_integration_tests::{eventually, runner};
use openssl::nid::Nid;
use serde_json::Value;
use tokio::task::JoinSet;
use tonic::transport::Channel;

/// How long certificates live, in seconds.
const LIFETIME: i64 = 10;
/// Workloads that ask in turn, whenever a request is due.
const BUSY: usize = 18;
/// Workloads that ask as late as real ones, and after what time each: at half of
/// the lifetime as ztunnels do, and in the last moment.
const PATIENT: &[(usize, Duration)] = &[(4, Duration::from_secs(5)), (4, Duration::from_secs(7))];
/// The connections that the busy ones share, and the time after which each is
/// made again, by what somebody trusts by then.
const CONNECTIONS: usize = 4;
const CONNECTED: Duration = Duration::from_secs(2);
/// How many requests may wait for an answer: more are not sent before one is
/// answered, and count as late.
const UNANSWERED: usize = 256;
/// From when on a request was sent late.
const LATE: Duration = Duration::from_millis(100);
/// How many pairs shake hands at a time.
const PAIRS: usize = 2;

/// How many requests fall due a second, whether or not those before are
/// answered, and which share of them has to be answered for this to be a load:
/// `FAIRWAY_TEST_CSR_RATE`, or else what a debug build bears beside other tests.
fn offered() -> (f64, f64) {
    match std::env::var("FAIRWAY_TEST_CSR_RATE") {
        Ok(rate) => (rate.parse().expect("FAIRWAY_TEST_CSR_RATE is a number of requests a second"), 0.95),
        Err(_) => (40.0, 0.25),
    }
}

/// What runs all along.
struct Load {
    applicants: Vec<Applicant>,
    held: Vec<Mutex<Arc<Identity>>>,
    options: Vec<ztunnel::Options>,
    connections: Vec<Mutex<Channel>>,
    failures: Mutex<Vec<String>>,
    /// From when a request was due until it was answered.
    answers: Mutex<Vec<Duration>>,
    due: AtomicU64,
    late: AtomicU64,
    handshakes: AtomicU64,
    started: Instant,
}

impl Load {
    async fn start(fairway: &Fairway, state: &Path) -> (Arc<Self>, JoinSet<()>) {
        let roots = std::fs::read_to_string(state.join("root-cert.pem")).unwrap();
        let pauses: Vec<_> = PATIENT.iter().flat_map(|(count, pause)| std::iter::repeat_n(*pause, *count)).collect();
        let asking = |number| ztunnel::Options {
            tls: Some(Tls::istiod(roots.clone())),
            token: Some(token(state, "load", &format!("w{number}"))),
            ..ztunnel::Options::plaintext(fairway.secure_grpc)
        };
        let options: Vec<_> = (0..BUSY + pauses.len()).map(asking).collect();
        let name = |number| format!("spiffe://cluster.local/ns/load/sa/w{number}");
        let applicants: Vec<_> = (0..options.len()).map(|number| Applicant::new(name(number))).collect();
        let mut connections = vec![];
        for options in &options[..CONNECTIONS] {
            connections.push(ztunnel::channel(options).await.unwrap());
        }
        let mut held = vec![];
        for (applicant, options) in applicants.iter().zip(&options) {
            let identity = applicant.ask(connections[0].clone(), options, LIFETIME).await.unwrap();
            held.push(Mutex::new(Arc::new(identity)));
        }
        let load = Arc::new(Self {
            applicants,
            held,
            options,
            connections: connections.into_iter().map(Mutex::new).collect(),
            failures: Mutex::default(),
            answers: Mutex::default(),
            due: AtomicU64::new(0),
            late: AtomicU64::new(0),
            handshakes: AtomicU64::new(0),
            started: Instant::now(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(load.clone().offer(offered().0));
        for number in 0..CONNECTIONS {
            tasks.spawn(load.clone().reconnect(number));
        }
        for (number, pause) in pauses.into_iter().enumerate() {
            tasks.spawn(load.clone().renew(BUSY + number, pause));
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

    /// A connection of a workload, which trusts the control plane by what its last
    /// certificate came with.
    async fn connect(&self, number: usize) -> Option<Channel> {
        let held = self.holds(number);
        let roots = held.roots.iter().map(|root| String::from_utf8(root.to_pem().unwrap()).unwrap()).collect();
        let options = ztunnel::Options { tls: Some(Tls::istiod(roots)), ..self.options[number].clone() };
        match ztunnel::channel(&options).await {
            Ok(channel) => Some(channel),
            Err(error) => {
                self.failed(format!("{} cannot connect: {error:?}", held.name));
                None
            }
        }
    }

    /// Asks for a certificate, and holds it from then on.
    async fn ask(&self, number: usize, channel: Channel) -> bool {
        let applicant = &self.applicants[number];
        match applicant.ask(channel, &self.options[number], LIFETIME).await {
            Ok(identity) => {
                *self.held[number].lock().unwrap() = Arc::new(identity);
                true
            }
            Err(reason) => {
                self.failed(format!("{} gets no certificate: {reason}", applicant.name));
                false
            }
        }
    }

    /// Sends requests when they are due, however long those before take.
    async fn offer(self: Arc<Self>, rate: f64) {
        let begin = tokio::time::Instant::now();
        let mut unanswered = JoinSet::new();
        for turn in 0.. {
            let due = begin + Duration::from_secs_f64(turn as f64 / rate);
            tokio::time::sleep_until(due).await;
            while unanswered.try_join_next().is_some() {}
            if unanswered.len() >= UNANSWERED {
                unanswered.join_next().await;
            }
            self.due.fetch_add(1, Ordering::Relaxed);
            if due.elapsed() > LATE {
                self.late.fetch_add(1, Ordering::Relaxed);
            }
            let (load, channel) = (self.clone(), self.connections[turn % CONNECTIONS].lock().unwrap().clone());
            unanswered.spawn(async move {
                if load.ask(turn % BUSY, channel).await {
                    load.answers.lock().unwrap().push(due.elapsed());
                }
            });
        }
    }

    /// Makes a connection again and again, each time by what another one trusts.
    async fn reconnect(self: Arc<Self>, number: usize) {
        for turn in (number..).step_by(CONNECTIONS) {
            tokio::time::sleep(CONNECTED).await;
            if let Some(channel) = self.connect(turn % BUSY).await {
                *self.connections[number].lock().unwrap() = channel;
            }
        }
    }

    /// Asks for a certificate after a time, over a connection of its own.
    async fn renew(self: Arc<Self>, number: usize, pause: Duration) {
        loop {
            tokio::time::sleep(pause).await;
            if let Some(channel) = self.connect(number).await {
                self.ask(number, channel).await;
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
    let mut answers = std::mem::take(&mut *load.answers.lock().unwrap());
    answers.sort();
    let after = |share: f64| answers[((answers.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    let (requests, handshakes) =
        (answers.len() as f64 / seconds, load.handshakes.load(Ordering::Relaxed) as f64 / seconds);
    let (rate, share) = offered();
    println!(
        "rotation: {requests:.1} CSR/s of {rate} offered, {handshakes:.0} handshakes/s in {seconds:.0} s; {} of {} sent \
         late; answered {:.1} ms after they were due, {:.1} ms at the 99th percentile, {:.1} ms at worst",
        load.late.load(Ordering::Relaxed),
        load.due.load(Ordering::Relaxed),
        after(0.5),
        after(0.99),
        after(1.0)
    );
    assert!(requests >= rate * share && handshakes > 2.0, "that was no load");
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
    let applicant = Applicant::new("spiffe://cluster.local/ns/load/sa/w".into());
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
            let identity = applicant.ask(channel, &options, LIFETIME).await?;
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
