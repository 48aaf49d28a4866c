//! Certificates for workloads, asked for by ztunnels and by themselves.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use fairway_proto::auth::{IstioCertificateRequest, IstioCertificateResponse};
use openssl::ec::{EcGroup, EcKey};
use openssl::ecdsa::EcdsaSig;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::{X509, X509Req};
use prost::Message as _;
use prost_types::{Struct, Value, value};
use tokio::task::JoinSet;

use super::churn::PODS;
use super::{Bench, Who, millis};
use crate::client::printable;
use crate::http2::{Connection, Receiver, Target, grpc};
use crate::limit::Limit;
use crate::options::{Driver, Options};
use crate::plane::Plane;
use crate::process::Meter;
use crate::progress::say;
use crate::report::{Budget, Budgets, Sample};
use crate::stats::percentile;
use crate::world::World;

const METHOD: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
/// How many requests are prepared; callers take turns with them.
const PREPARED: usize = 256;
/// How long openssl alone is measured.
const RAW: Duration = Duration::from_millis(700);

/// One caller: its token, and the identity it wants.
#[derive(Clone)]
struct Caller {
    token: String,
    identity: String,
    impersonates: bool,
}

/// A prepared certificate signing request.
struct Csr {
    pem: String,
    key: PKey<Private>,
}

/// What came of one way to ask.
pub struct Rate {
    /// Certificates a second.
    pub per_second: f64,
    /// Milliseconds.
    pub latency: Vec<f64>,
    /// Of the server, for each.
    pub cpu: Duration,
}

pub const LIMIT: &str = "one signature and one verification by openssl on all cores, which the CA and the CSR's own \
                         signature need; the token's is not counted";
const SECONDS: u64 = 10;
const CPU: &str = "server CPU each";
const WAYS: [&str; 2] = ["ztunnel for a pod", "a pod for itself"];
const AT_ONCE: &str = "a server that answers at once";

pub fn setting((): (), options: &Options) -> String {
    format!(
        "{} callers over TLS, each on a connection of its own, P-256 keys, pod-bound tokens reviewed by a \
         kube-apiserver, {} s each",
        options.callers,
        options.seconds.unwrap_or(SECONDS)
    )
}

pub fn budgets((): (), _: &Options) -> Budgets {
    vec![
        ("ztunnel for a pod: certificates a second", Budget::AtLeast(2500.0)),
        ("a pod for itself: certificates a second", Budget::AtLeast(2500.0)),
        ("ztunnel for a pod: of what its callers leave room for", Budget::AtLeast(0.6)),
        ("a pod for itself: of what its callers leave room for", Budget::AtLeast(0.6)),
    ]
}

pub async fn run((): (), bench: &mut Bench, who: Who<'_>) -> anyhow::Result<Option<Sample>> {
    let mut sample = Sample::default();
    let Who::Plane(launch) = who else {
        let cores = std::thread::available_parallelism()?.get();
        let [sign, verify] = [raw(1, false)?, raw(1, true)?];
        let [sign_all, verify_all] = [raw(cores, false)?, raw(cores, true)?];
        let both = 1.0 / (1.0 / sign_all + 1.0 / verify_all);
        say(&format!(
            "  openssl P-256: {sign:.0} signatures/s on one core, {sign_all:.0} on {cores}, {both:.0} with verification"
        ));
        for way in WAYS {
            sample.add(format!("{way}: certificates a second"), both, "/s");
            sample.add(format!("{way}: {CPU}"), (1.0 / sign + 1.0 / verify) * 1e6, "us");
        }
        sample.add("raw signatures a second, one core", sign, "/s");
        sample.add("raw signatures a second, all cores", sign_all, "/s");
        return Ok(Some(sample));
    };
    let size = bench.options.size(PODS, false);
    let world = bench.world(Driver::Kube, size).await?;
    let running = bench.serve(&world, launch, true).await?;
    let duration = Duration::from_secs(bench.options.seconds.unwrap_or(SECONDS));
    let mut waves = Vec::new();
    for (way, impersonates) in WAYS.into_iter().zip([true, false]) {
        let wave = Wave::new(&running.plane, &world, bench.options.callers, impersonates).await?;
        let answer = wave.answer().await?;
        let mut rate = wave.closed(running.plane.pid(), duration).await?;
        say(&format!(
            "  {way}: {:.0} CSR/s, {:.0} us of server CPU each",
            rate.per_second,
            rate.cpu.as_secs_f64() * 1e6
        ));
        sample.add(format!("{way}: certificates a second"), rate.per_second, "/s");
        sample.add(format!("{way}: {CPU}"), rate.cpu.as_secs_f64() * 1e6, "us");
        sample.add(format!("{way}: latency p50"), percentile(&mut rate.latency, 0.5), "ms");
        sample.add(format!("{way}: latency p99"), percentile(&mut rate.latency, 0.99), "ms");
        waves.push((way, wave, answer, rate.per_second));
    }
    running.checker.agrees(&world, super::AGREE).await?;
    running.stop().await;
    bench.keep(world);
    // So that what openssl did in this run is in the table.
    sample.add("raw signatures a second, one core", raw(1, false)?, "/s");
    let cores = std::thread::available_parallelism()?.get();
    let [sign, verify] = [raw(cores, false)?, raw(cores, true)?];
    sample.add("raw signatures a second, all cores", sign, "/s");
    for (way, wave, answer, per_second) in waves {
        beside(bench, &mut sample, way, wave, answer, per_second, 1.0 / sign + 1.0 / verify).await?;
    }
    Ok(Some(sample))
}

/// The callers are on the same cores, and need them for TLS and gRPC as the
/// server does. So the same callers are given to a server that does nothing but
/// that: what they get from it, less the time for the two signatures, is what
/// could be had.
async fn beside(
    bench: &Bench,
    sample: &mut Sample,
    way: &str,
    wave: Wave,
    answer: Vec<u8>,
    per_second: f64,
    signatures: f64,
) -> anyhow::Result<()> {
    let limit = Limit::start(bench.work(), true, &[answer], &[])?;
    let wave = Wave { target: limit.target(true)?, root: None, ..wave };
    let duration = Duration::from_secs(bench.options.seconds.unwrap_or(SECONDS).min(5));
    let at_once = wave.closed(limit.pid(), duration).await?;
    sample.add(format!("{way}: calls a second, {AT_ONCE}"), at_once.per_second, "/s");
    sample.add(format!("{way}: {CPU}, {AT_ONCE}"), at_once.cpu.as_secs_f64() * 1e6, "us");
    let possible = 1.0 / (1.0 / at_once.per_second + signatures);
    sample.add(format!("{way}: of what its callers leave room for"), per_second / possible, "x");
    Ok(())
}

/// Callers and what they need to ask.
pub struct Wave {
    target: Target,
    callers: Vec<Caller>,
    requests: Rc<Vec<Csr>>,
    /// Whose certificates they must be; none if the answers mean nothing.
    root: Option<X509>,
}

impl Wave {
    /// Prepares keys, requests and tokens.
    pub async fn new(plane: &Plane, world: &World, callers: usize, impersonates: bool) -> anyhow::Result<Self> {
        let requests = Rc::new((0..PREPARED).map(|_| csr()).collect::<anyhow::Result<Vec<_>>>()?);
        let (root, target) = (X509::from_pem(&world.root(plane).await?)?, world.target(plane, true).await?);
        let mut wave = Self { target, callers: vec![], requests, root: Some(root) };
        for at in 0..callers {
            let (holder, node) = world.mesh.holder(at);
            let identity = format!("spiffe://cluster.local/ns/{}/sa/{}", holder.namespace, holder.service_account);
            let whose = if impersonates { world.mesh.ztunnel(node) } else { holder };
            wave.callers.push(Caller { token: world.token(plane, &whose).await?, identity, impersonates });
        }
        Ok(wave)
    }

    /// What one of the callers is answered.
    async fn answer(&self) -> anyhow::Result<Vec<u8>> {
        let (caller, csr) = (self.callers.first().context("no caller")?, self.requests.first().context("no request")?);
        let cert_chain = ask(&mut Connection::open(&self.target).await?, caller, csr).await?;
        Ok(IstioCertificateResponse { cert_chain }.encode_to_vec())
    }

    /// Every caller asks again as soon as it is answered.
    pub async fn closed(&self, pid: u32, duration: Duration) -> anyhow::Result<Rate> {
        measure(pid, &self.target, &self.callers, &self.requests, &self.root, duration).await
    }

    /// Asks by the clock for a while, whether or not the last was answered,
    /// and returns milliseconds from when each should have been asked for.
    pub async fn open(self, rate: f64, duration: Duration) -> anyhow::Result<Vec<f64>> {
        let lanes = self.callers.len();
        let period = Duration::from_secs_f64(lanes as f64 / rate);
        let rounds = (duration.as_secs_f64() / period.as_secs_f64()).ceil() as u32;
        let start = tokio::time::Instant::now();
        let mut tasks = JoinSet::new();
        for (lane, caller) in self.callers.into_iter().enumerate() {
            let (target, requests, root) = (self.target.clone(), self.requests.clone(), self.root.clone());
            tasks.spawn_local(async move {
                let mut connection = Connection::open(&target).await?;
                let mut latency = Vec::new();
                for round in 0..rounds {
                    let due = start + period.mul_f64(lane as f64 / lanes as f64) + period * round;
                    tokio::time::sleep_until(due).await;
                    let csr = &requests[(lane + round as usize * callers_step(&requests)) % requests.len()];
                    let chain = ask(&mut connection, &caller, csr).await?;
                    // Counted from when it was due: a caller that is still
                    // waiting for its last answer asks late.
                    latency.push(millis(due.elapsed()));
                    if round == 0
                        && let Some(root) = &root
                    {
                        verify(&chain, csr, &caller.identity, root)?;
                    }
                }
                anyhow::Ok(latency)
            });
        }
        let mut latency = Vec::new();
        while let Some(ended) = tasks.join_next().await {
            latency.extend(ended??);
        }
        Ok(latency)
    }
}

fn csr() -> anyhow::Result<Csr> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    let key = PKey::from_ec_key(EcKey::generate(&group)?)?;
    let mut builder = X509Req::builder()?;
    builder.set_pubkey(&key)?;
    builder.sign(&key, MessageDigest::sha256())?;
    Ok(Csr { pem: String::from_utf8(builder.build().to_pem()?)?, key })
}

/// Signatures or verifications that openssl does a second on some threads.
fn raw(threads: usize, verify: bool) -> anyhow::Result<f64> {
    let work = move || -> anyhow::Result<f64> {
        let key = EcKey::generate(EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?.as_ref())?;
        let digest = openssl::sha::sha256(b"to be signed");
        let signature = EcdsaSig::sign(&digest, &key)?;
        let (started, mut count) = (Instant::now(), 0_u32);
        while started.elapsed() < RAW {
            for _ in 0..100 {
                if verify {
                    ensure!(signature.verify(&digest, &key)?, "signature does not verify");
                } else {
                    EcdsaSig::sign(&digest, &key)?;
                }
            }
            count += 100;
        }
        Ok(f64::from(count) / started.elapsed().as_secs_f64())
    };
    let running: Vec<_> = (0..threads).map(|_| std::thread::spawn(work)).collect();
    let mut sum = 0.0;
    for thread in running {
        sum += thread.join().map_err(|_| anyhow::anyhow!("a thread that signs panicked"))??;
    }
    Ok(sum)
}

async fn measure(
    pid: u32,
    target: &Target,
    callers: &[Caller],
    requests: &Rc<Vec<Csr>>,
    root: &Option<X509>,
    duration: Duration,
) -> anyhow::Result<Rate> {
    let latency = Rc::<RefCell<Vec<f64>>>::default();
    let (measuring, stop) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
    let mut tasks = JoinSet::new();
    for (number, caller) in callers.iter().cloned().enumerate() {
        let (target, requests, root) = (target.clone(), requests.clone(), root.clone());
        let (latency, measuring, stop) = (latency.clone(), measuring.clone(), stop.clone());
        tasks.spawn_local(async move {
            let mut connection = Connection::open(&target).await?;
            let mut at = number;
            while !stop.get() {
                let csr = &requests[at % requests.len()];
                let (started, counts) = (Instant::now(), measuring.get());
                let chain = ask(&mut connection, &caller, csr).await?;
                if counts {
                    latency.borrow_mut().push(millis(started.elapsed()));
                }
                if at == number
                    && let Some(root) = &root
                {
                    verify(&chain, csr, &caller.identity, root)?;
                }
                at += callers_step(&requests);
            }
            anyhow::Ok(())
        });
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut meter = Meter::new(pid);
    let (used, started) = (meter.read()?, Instant::now());
    measuring.set(true);
    tokio::time::sleep(duration).await;
    measuring.set(false);
    let (used, elapsed) = (meter.read()? - used, started.elapsed());
    stop.set(true);
    let ended = async {
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(10), ended).await.context("callers did not end")??;
    let latency = latency.take();
    ensure!(!latency.is_empty(), "no certificate was issued");
    let count = latency.len() as u32;
    Ok(Rate { per_second: f64::from(count) / elapsed.as_secs_f64(), latency, cpu: used / count })
}

/// Callers walk through the requests in the same steps from different places.
fn callers_step(requests: &[Csr]) -> usize {
    requests.len() / 2 + 1
}

/// The answer to one call.
#[derive(Default)]
struct Answer {
    bytes: Vec<u8>,
    ended: bool,
    failure: Option<String>,
}

impl Receiver for Answer {
    fn data(&mut self, bytes: &[u8], _: &mut Vec<u8>) -> anyhow::Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn ended(&mut self, headers: &[u8]) -> anyhow::Result<()> {
        self.ended = true;
        if self.bytes.is_empty() {
            self.failure = Some(printable(headers));
        }
        Ok(())
    }
}

async fn ask(connection: &mut Connection, caller: &Caller, csr: &Csr) -> anyhow::Result<Vec<String>> {
    let identity = Value { kind: Some(value::Kind::StringValue(caller.identity.clone())) };
    let metadata = Struct { fields: [("ImpersonatedIdentity".to_string(), identity)].into() };
    let request = IstioCertificateRequest {
        csr: csr.pem.clone(),
        validity_duration: 86_400,
        metadata: caller.impersonates.then_some(metadata),
    };
    connection.call(METHOD, Some(&caller.token), &grpc(&request.encode_to_vec()), true);
    let mut answer = Answer::default();
    let wait = async {
        while !answer.ended {
            connection.exchange(&mut answer).await?;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.context("no certificate in time")??;
    if let Some(failure) = answer.failure {
        bail!("refused: {failure}");
    }
    let message = answer.bytes.get(5..).context("no message")?;
    Ok(IstioCertificateResponse::decode(message)?.cert_chain)
}

/// Whether a chain is what was asked for.
fn verify(chain: &[String], csr: &Csr, identity: &str, root: &X509) -> anyhow::Result<()> {
    let leaf = X509::from_pem(chain.first().context("void: empty chain")?.as_bytes())?;
    ensure!(leaf.public_key()?.public_eq(&csr.key), "void: certificate for another key");
    ensure!(leaf.verify(root.public_key()?.as_ref())?, "void: certificate not signed by the root");
    let names = leaf.subject_alt_names().context("void: no identity")?;
    let found = names.iter().any(|name| name.uri() == Some(identity));
    ensure!(found && names.len() == 1, "void: certificate for another identity than {identity}");
    Ok(())
}
