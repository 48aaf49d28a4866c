//! Leader election by the rules of client-go and of istiod, so that it also works
//! between us and an istiod. What is locked, and where, is a [`Lock`].
//!
//! Clocks of replicas are never compared: a lock has expired when it did not
//! change for its duration, by our own clock. A leader that cannot renew stops
//! after half of that, long before another can begin. One that was itself stopped,
//! with a request on its way out, finds a fence in it when it goes on.
//! <https://pkg.go.dev/k8s.io/client-go/tools/leaderelection>

mod lock;
#[cfg(test)]
pub(super) mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Method, Request, Response};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::PostParams;
use kube::client::Body;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tower::BoxError;

use crate::source::kube::backoff::jittered;

pub use lock::{ANNOTATION, Lock};
use lock::{Holds, Kind, Record};

/// How long a lock is valid that nobody renews.
const DURATION: Duration = Duration::from_secs(30);
/// How long after its last renewal a leader stops.
const DEADLINE: Duration = Duration::from_secs(15);
/// How often a lock is looked at or renewed, at least.
const RETRY: Duration = Duration::from_millis(7500);
/// How long one attempt may take: a hanging one must leave time for another.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Does `work` whenever this replica leads, until cancelled. The work is
/// dropped when the lock is lost, and begins again when it is won again; what
/// it spawns must end with it. All its requests go through the client it is
/// given, which sends none when another may lead.
pub async fn run_while_leader<W: Future<Output = ()>>(
    client: kube::Client,
    namespace: &str,
    lock: Lock,
    identity: &str,
    cancel: CancellationToken,
    work: impl FnMut(kube::Client) -> W,
) {
    match lock.kind {
        Kind::Lease => elect::<Lease, W>(client, namespace, lock, identity, cancel, work).await,
        Kind::ConfigMap => elect::<ConfigMap, W>(client, namespace, lock, identity, cancel, work).await,
    }
}

/// The same for one kind of lock.
async fn elect<K: Holds, W: Future<Output = ()>>(
    client: kube::Client,
    namespace: &str,
    lock: Lock,
    identity: &str,
    cancel: CancellationToken,
    mut work: impl FnMut(kube::Client) -> W,
) {
    let api = Api::<K>::namespaced(client.clone(), namespace);
    let fence = Fence::new();
    let held = Held { api: api.clone(), lock: lock.clone(), identity: identity.into() };
    let fenced = fence.before(client, held);
    let name = lock.name().to_owned();
    let mut candidate = Candidate {
        api,
        lock,
        identity: identity.into(),
        observed: None,
        yields_to: None,
        begins: Instant::now(),
        fence: fence.clone(),
    };
    loop {
        let renewed = tokio::select! {
            () = cancel.cancelled() => return,
            renewed = candidate.acquire() => renewed,
        };
        tracing::info!(lock = name, identity, "leads");
        let begins = candidate.begins;
        // The order matters after a pause of the whole process: no work is done
        // on a lock that expired meanwhile.
        tokio::select! {
            biased;
            () = cancel.cancelled() => {}
            () = candidate.renew(renewed) => {}
            () = async {
                sleep_until(begins).await;
                work(fenced.clone()).await;
            } => {}
        }
        fence.close();
        tracing::info!(lock = name, identity, "no longer leads");
        candidate.release().await;
        if cancel.is_cancelled() {
            return;
        }
        sleep(jittered(RETRY)).await;
    }
}

/// What keeps the requests of a leader back that is none any more. The work of
/// a leader ends with its lock, but what it has spawned runs on other threads,
/// and after a pause of the whole process they may be the first to go on.
#[derive(Clone)]
struct Fence {
    // Locked to copy a time.
    until: Arc<Mutex<Instant>>,
}

impl Fence {
    /// It is closed.
    fn new() -> Self {
        Self { until: Arc::new(Mutex::new(Instant::now())) }
    }

    /// The lock was asked for at a time, and given.
    fn open(&self, renewed: Instant) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = renewed + DEADLINE;
    }

    fn close(&self) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn is_open(&self) -> bool {
        Instant::now() < *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client whose requests are looked at when they are sent.
    fn before<K: Holds>(&self, client: kube::Client, held: Held<K>) -> kube::Client {
        let (fence, namespace, held) = (self.clone(), client.default_namespace().to_owned(), Arc::new(held));
        let service = tower::service_fn(move |request: Request<Body>| {
            let (fence, client, held) = (fence.clone(), client.clone(), held.clone());
            async move {
                let writes = request.method() != Method::GET;
                if !fence.is_open() || writes && !held.is_ours().await {
                    return Err::<Response<Body>, _>(BoxError::from("not sent: another replica may lead by now"));
                }
                client.send(request).await.map_err(BoxError::from)
            }
        });
        kube::Client::new(service, namespace)
    }
}

/// A lock that somebody may take without waiting for it to expire: an istiod of the
/// default revision does, and begins at once.
struct Held<K> {
    api: Api<K>,
    lock: Lock,
    identity: String,
}

impl<K: Holds> Held<K> {
    /// Whether it is still ours, as far as it may have been taken.
    async fn is_ours(&self) -> bool {
        if !self.lock.may_be_taken() {
            return true;
        }
        match self.api.get_opt(self.lock.name()).await {
            Ok(Some(object)) => object.record().is_ok_and(|record| record.holder_identity == self.identity),
            Ok(None) | Err(_) => false,
        }
    }
}

struct Candidate<K> {
    api: Api<K>,
    lock: Lock,
    identity: String,
    /// The version of the object when it was last seen to change, and when that was.
    observed: Option<(Option<String>, Instant)>,
    /// The revision that took the lock from us although we are the default one: it
    /// says the same of itself. Whoever came last keeps it, or they took turns.
    yields_to: Option<String>,
    /// When whoever the lock was taken from has noticed. istiod goes on for as long
    /// as it would without an API server.
    begins: Instant,
    fence: Fence,
}

impl<K: Holds> Candidate<K> {
    /// Tries until the lock is ours. Returns when it was asked for.
    async fn acquire(&mut self) -> Instant {
        loop {
            let asked = Instant::now();
            match timeout_at(asked + ATTEMPT, self.attempt(false)).await {
                Ok(Ok(true)) => {
                    self.fence.open(asked);
                    return asked;
                }
                Ok(Ok(false)) => {}
                // Somebody else was faster.
                Ok(Err(kube::Error::Api(status))) if status.code == 409 => {}
                Ok(Err(error)) => tracing::warn!(lock = self.lock.name(), %error, "cannot be acquired"),
                Err(_) => tracing::warn!(lock = self.lock.name(), "cannot be acquired in time"),
            }
            sleep(jittered(RETRY)).await;
        }
    }

    /// Renews the lock until that is no longer possible.
    async fn renew(&mut self, mut renewed: Instant) {
        loop {
            let deadline = renewed + DEADLINE;
            sleep_until(deadline.min(Instant::now() + jittered(RETRY))).await;
            let asked = Instant::now();
            if asked >= deadline {
                return;
            }
            match timeout_at(deadline.min(asked + ATTEMPT), self.attempt(true)).await {
                Ok(Ok(true)) => {
                    self.fence.open(asked);
                    renewed = asked;
                }
                Ok(Ok(false)) => return,
                Ok(Err(error)) => tracing::warn!(lock = self.lock.name(), %error, "cannot be renewed"),
                Err(_) => tracing::warn!(lock = self.lock.name(), "cannot be renewed in time"),
            }
        }
    }

    /// Takes or renews the lock, unless another holds it. Of two replicas that
    /// write at the same time, the API server refuses one.
    async fn attempt(&mut self, leads: bool) -> Result<bool, kube::Error> {
        let now = Some(Timestamp::now());
        let mut wanted = Record {
            holder_identity: self.identity.clone(),
            holder_key: self.lock.key(),
            lease_duration_seconds: DURATION.as_secs() as i32,
            acquire_time: now,
            renew_time: now,
            leader_transitions: 0,
        };
        let name = self.lock.name();
        let Some(mut object) = self.api.get_opt(name).await? else {
            let mut object = K::default();
            object.meta_mut().name = Some(name.to_owned());
            object.enter(&wanted)?;
            self.api.create(&PostParams::default(), &object).await?;
            return Ok(true);
        };
        let record = object.record()?;
        let changed = match self.observed.take() {
            Some((seen, at)) if seen == object.meta().resource_version => at,
            _ => Instant::now(),
        };
        self.observed = Some((object.meta().resource_version.clone(), changed));
        let ours = record.holder_identity == self.identity;
        let valid = Duration::from_secs(record.lease_duration_seconds.max(0) as u64);
        let is_held = !ours && !record.holder_identity.is_empty() && changed.elapsed() < valid;
        let precedes = self.lock.precedes(&record.holder_key);
        if !precedes {
            // There is no quarrel, or none any more: a tag may come back.
            self.yields_to = None;
        }
        if is_held && (leads || !precedes || self.yields_to.as_ref() == Some(&record.holder_key)) {
            if leads && precedes {
                self.yields_to = Some(record.holder_key);
            }
            return Ok(false);
        }
        if ours {
            wanted.acquire_time = record.acquire_time;
            wanted.leader_transitions = record.leader_transitions;
        } else {
            wanted.leader_transitions = record.leader_transitions.saturating_add(1);
        }
        object.enter(&wanted)?;
        self.api.replace(name, &PostParams::default(), &object).await?;
        if is_held {
            self.begins = Instant::now() + DURATION;
            tracing::info!(lock = name, from = record.holder_key, "taken; its leader has {DURATION:?} to notice");
        }
        Ok(true)
    }

    /// Gives the lock to whoever comes next, if it is still ours.
    async fn release(&self) {
        let release = async {
            let name = self.lock.name();
            let Some(mut object) = self.api.get_opt(name).await? else { return Ok(()) };
            let mut record = object.record()?;
            if record.holder_identity == self.identity {
                record.holder_identity.clear();
                record.holder_key.clear();
                record.lease_duration_seconds = 1;
                object.enter(&record)?;
                self.api.replace(name, &PostParams::default(), &object).await?;
            }
            Ok::<(), kube::Error>(())
        };
        match timeout_at(Instant::now() + ATTEMPT, release).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(lock = self.lock.name(), %error, "cannot be released; it expires"),
            Err(_) => tracing::warn!(lock = self.lock.name(), "cannot be released in time; it expires"),
        }
    }
}
