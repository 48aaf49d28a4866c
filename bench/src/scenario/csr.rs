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

use super::{Bench, Outcome, micros, millis};
use crate::client::printable;
use crate::http2::{Connection, Receiver, Target, grpc};
use crate::process::Meter;
use crate::progress;
use crate::report::{Budget, finding, percentile};

const METHOD: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
/// How many requests are prepared; callers take turns with them.
const PREPARED: usize = 256;

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
struct Rate {
    per_second: f64,
    latency: Vec<f64>,
    cpu: Duration,
}

/// Runs the scenario.
pub async fn run(bench: &mut Bench) -> anyhow::Result<Outcome> {
    let served = bench.serve(bench.options.small_pods).await?;
    let (fairway, mesh) = (&served.fairway, &served.mesh);
    let requests = Rc::new((0..PREPARED).map(|_| csr()).collect::<anyhow::Result<Vec<_>>>()?);
    let root = X509::from_pem(&fairway.root()?)?;
    let target = fairway.target(true)?;
    let (mut impersonating, mut own) = (Vec::new(), Vec::new());
    for at in 0..bench.options.callers {
        let (holder, node) = mesh.holder(at);
        let identity = format!("spiffe://cluster.local/ns/{}/sa/{}", holder.namespace, holder.service_account);
        let token = fairway.token(&mesh.ztunnel(node))?;
        impersonating.push(Caller { token, identity: identity.clone(), impersonates: true });
        own.push(Caller { token: fairway.token(&holder)?, identity, impersonates: false });
    }
    let (sign, verify) = signatures()?;
    let limit = sign + verify;
    let mut findings = vec![
        finding("openssl: P-256 signature, one core", micros(sign), "us"),
        finding("openssl: P-256 verification, one core", micros(verify), "us"),
    ];
    for (name, callers) in [("ztunnel for a pod", impersonating), ("a pod for itself", own)] {
        let seconds = Duration::from_secs(bench.options.seconds);
        let mut rate = measure(fairway.pid(), &target, &callers, &requests, &root, seconds).await?;
        progress(&format!("  {name}: {:.0} CSR/s, {:.0} us of server CPU each", rate.per_second, micros(rate.cpu)));
        findings.push(
            finding(format!("{name}: certificates a second"), rate.per_second, "/s").budget(Budget::AtLeast(2500.0)),
        );
        findings.push(
            finding(format!("{name}: certificates per second of server CPU"), 1.0 / rate.cpu.as_secs_f64(), "/s")
                .limit(1.0 / limit.as_secs_f64()),
        );
        findings.push(finding(format!("{name}: server CPU each"), micros(rate.cpu), "us").limit(micros(limit)));
        findings.push(finding(format!("{name}: latency p50"), percentile(&mut rate.latency, 0.5), "ms"));
        findings.push(finding(format!("{name}: latency p99"), percentile(&mut rate.latency, 0.99), "ms"));
    }
    Ok(Outcome {
        setting: format!(
            "{} callers over TLS, each on a connection of its own, P-256 keys, pod-bound tokens, {} s each",
            bench.options.callers, bench.options.seconds
        ),
        limit: "one signature and one verification by openssl, which the CA and the CSR's own signature need; the token's is not counted",
        findings,
    })
}

fn csr() -> anyhow::Result<Csr> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    let key = PKey::from_ec_key(EcKey::generate(&group)?)?;
    let mut builder = X509Req::builder()?;
    builder.set_pubkey(&key)?;
    builder.sign(&key, MessageDigest::sha256())?;
    Ok(Csr { pem: String::from_utf8(builder.build().to_pem()?)?, key })
}

/// What one signature and one verification take.
fn signatures() -> anyhow::Result<(Duration, Duration)> {
    let key = EcKey::generate(EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?.as_ref())?;
    let digest = openssl::sha::sha256(b"to be signed");
    let signature = EcdsaSig::sign(&digest, &key)?;
    let mut meter = Meter::new(std::process::id());
    let mut time = |work: &mut dyn FnMut() -> anyhow::Result<()>| {
        let (used, started, mut count) = (meter.read()?, Instant::now(), 0_u32);
        while started.elapsed() < Duration::from_secs(1) {
            for _ in 0..100 {
                work()?;
            }
            count += 100;
        }
        anyhow::Ok((meter.read()? - used) / count)
    };
    let sign = time(&mut || {
        EcdsaSig::sign(&digest, &key)?;
        Ok(())
    })?;
    let verify = time(&mut || {
        ensure!(signature.verify(&digest, &key)?, "signature does not verify");
        Ok(())
    })?;
    Ok((sign, verify))
}

async fn measure(
    pid: u32,
    target: &Target,
    callers: &[Caller],
    requests: &Rc<Vec<Csr>>,
    root: &X509,
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
                if at == number {
                    verify(&chain, csr, &caller.identity, &root)?;
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
