//! Leader election over a `coordination.k8s.io/v1` Lease, by the rules of
//! client-go, so that it also works between us and an istiod.
//!
//! Clocks of replicas are never compared: a lease has expired when its record
//! did not change for its duration, by our own clock. A leader that cannot
//! renew stops after half of that, long before another can begin. One that was
//! itself stopped, with a request on its way out, finds a fence in it when it
//! goes on.
//! <https://pkg.go.dev/k8s.io/client-go/tools/leaderelection>

#[cfg(test)]
pub(super) mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Request, Response};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use kube::client::Body;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tower::BoxError;

use crate::source::kube::backoff::jittered;

/// How long a lease is valid that nobody renews.
const DURATION: Duration = Duration::from_secs(30);
/// How long after its last renewal a leader stops.
const DEADLINE: Duration = Duration::from_secs(15);
/// How often a lease is looked at or renewed, at least.
const RETRY: Duration = Duration::from_millis(7500);
/// How long one attempt may take: a hanging one must leave time for another.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Does `work` whenever this replica leads, until cancelled. The work is
/// dropped when the lease is lost, and begins again when it is won again; what
/// it spawns must end with it. All its requests go through the client it is
/// given, which sends none when another may lead.
pub async fn run_while_leader<W: Future<Output = ()>>(
    client: kube::Client,
    namespace: &str,
    name: &str,
    identity: &str,
    cancel: CancellationToken,
    mut work: impl FnMut(kube::Client) -> W,
) {
    let api = Api::namespaced(client.clone(), namespace);
    let fence = Fence::new();
    let fenced = fence.before(client);
    let mut candidate =
        Candidate { api, name: name.into(), identity: identity.into(), observed: None, fence: fence.clone() };
    loop {
        let renewed = tokio::select! {
            () = cancel.cancelled() => return,
            renewed = candidate.acquire() => renewed,
        };
        tracing::info!(lease = name, identity, "leads");
        // The order matters after a pause of the whole process: no work is done
        // on a lease that ended meanwhile.
        tokio::select! {
            biased;
            () = cancel.cancelled() => {}
            () = candidate.renew(renewed) => {}
            () = work(fenced.clone()) => {}
        }
        fence.close();
        tracing::info!(lease = name, identity, "no longer leads");
        candidate.release().await;
        if cancel.is_cancelled() {
            return;
        }
        sleep(jittered(RETRY)).await;
    }
}

/// What keeps the requests of a leader back that is none any more. The work of
/// a leader ends with its lease, but what it has spawned runs on other threads,
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

    /// The lease was asked for at a time, and given.
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
    fn before(&self, client: kube::Client) -> kube::Client {
        let (fence, namespace) = (self.clone(), client.default_namespace().to_owned());
        let service = tower::service_fn(move |request: Request<Body>| {
            let (fence, client) = (fence.clone(), client.clone());
            async move {
                if !fence.is_open() {
                    return Err::<Response<Body>, _>(BoxError::from("not sent: another replica may lead by now"));
                }
                client.send(request).await.map_err(BoxError::from)
            }
        });
        kube::Client::new(service, namespace)
    }
}

struct Candidate {
    api: Api<Lease>,
    name: String,
    identity: String,
    /// The record as it was last seen to change, and when that was.
    observed: Option<(LeaseSpec, Instant)>,
    fence: Fence,
}

impl Candidate {
    /// Tries until the lease is ours. Returns when it was asked for.
    async fn acquire(&mut self) -> Instant {
        loop {
            let asked = Instant::now();
            match timeout_at(asked + ATTEMPT, self.attempt()).await {
                Ok(Ok(true)) => {
                    self.fence.open(asked);
                    return asked;
                }
                Ok(Ok(false)) => {}
                Ok(Err(error)) => tracing::warn!(lease = self.name, %error, "cannot be acquired"),
                Err(_) => tracing::warn!(lease = self.name, "cannot be acquired in time"),
            }
            sleep(jittered(RETRY)).await;
        }
    }

    /// Renews the lease until that is no longer possible.
    async fn renew(&mut self, mut renewed: Instant) {
        loop {
            let deadline = renewed + DEADLINE;
            sleep_until(deadline.min(Instant::now() + jittered(RETRY))).await;
            let asked = Instant::now();
            if asked >= deadline {
                return;
            }
            match timeout_at(deadline.min(asked + ATTEMPT), self.attempt()).await {
                Ok(Ok(true)) => {
                    self.fence.open(asked);
                    renewed = asked;
                }
                Ok(Ok(false)) => return,
                Ok(Err(error)) => tracing::warn!(lease = self.name, %error, "cannot be renewed"),
                Err(_) => tracing::warn!(lease = self.name, "cannot be renewed in time"),
            }
        }
    }

    /// Takes or renews the lease, unless another holds it. Of two replicas that
    /// write at the same time, the API server refuses one.
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        let now = MicroTime(Timestamp::now());
        let mut spec = LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(DURATION.as_secs() as i32),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(0),
            ..LeaseSpec::default()
        };
        let Some(mut lease) = self.api.get_opt(&self.name).await? else {
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(spec) };
            self.api.create(&PostParams::default(), &lease).await?;
            return Ok(true);
        };
        let record = lease.spec.take().unwrap_or_default();
        let changed = match self.observed.take() {
            Some((seen, at)) if seen == record => at,
            _ => Instant::now(),
        };
        let holder = record.holder_identity.as_deref().unwrap_or_default();
        let ours = holder == self.identity;
        let transitions = record.lease_transitions.unwrap_or(0);
        let valid = Duration::from_secs(record.lease_duration_seconds.unwrap_or(0).max(0) as u64);
        if !ours && !holder.is_empty() && changed.elapsed() < valid {
            self.observed = Some((record, changed));
            return Ok(false);
        }
        if ours {
            spec.acquire_time = record.acquire_time;
            spec.lease_transitions = Some(transitions);
        } else {
            spec.lease_transitions = Some(transitions.saturating_add(1));
            // Should the write fail, the record is as old as it was.
            self.observed = Some((record, changed));
        }
        lease.spec = Some(spec);
        self.api.replace(&self.name, &PostParams::default(), &lease).await?;
        Ok(true)
    }

    /// Gives the lease to whoever comes next, if it is still ours.
    async fn release(&self) {
        let release = async {
            let Some(mut lease) = self.api.get_opt(&self.name).await? else { return Ok(()) };
            let Some(spec) = lease.spec.as_mut() else { return Ok(()) };
            if spec.holder_identity.as_ref() == Some(&self.identity) {
                spec.holder_identity = Some(String::new());
                spec.lease_duration_seconds = Some(1);
                self.api.replace(&self.name, &PostParams::default(), &lease).await?;
            }
            Ok::<(), kube::Error>(())
        };
        match timeout_at(Instant::now() + ATTEMPT, release).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(lease = self.name, %error, "cannot be released; it expires"),
            Err(_) => tracing::warn!(lease = self.name, "cannot be released in time; it expires"),
        }
    }
}
