//! When certificates are asked for: at once, again when that failed, when half
//! of the lifetime is over, and when the mesh has new roots.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

use super::certificate::{CertificateError, Workload};
use super::upstream::chain;

/// The first wait after a failure, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// When a certificate is renewed: when this part of its lifetime is left, more
/// or less. These are `SECRET_GRACE_PERIOD_RATIO` and its jitter, which keeps
/// proxies that were started together from renewing together.
#[derive(Clone, Copy, Debug)]
pub struct Grace {
    /// The part that is left.
    pub ratio: f64,
    /// By how much it varies.
    pub jitter: f64,
}

/// How long after its issue a certificate is renewed. `chance` is between 0
/// and 1.
pub fn renew_after(lifetime: Duration, grace: Grace, chance: f64) -> Duration {
    let left = (grace.ratio + grace.jitter * (chance * 2.0 - 1.0)).clamp(0.0, 1.0);
    // Whoever asks for renewal at the very beginning does not mean a busy loop.
    lifetime.mul_f64(1.0 - left).max(BACKOFF.0)
}

/// How long to wait after some failures in a row: twice as long each time, up
/// to a limit, of which half is chance.
pub fn backoff(failures: u32, chance: f64) -> Duration {
    let doubled = BACKOFF.0.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
    doubled.min(BACKOFF.1).mul_f64(0.5 + chance / 2.0)
}

/// A number between 0 and 1.
pub fn chance() -> f64 {
    let mut bytes = [0; 4];
    // Without chance there is only less variety.
    let _ = openssl::rand::rand_bytes(&mut bytes);
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}

/// How often the file of roots is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Waits until a file has another content than at the beginning. New roots come
/// with the CA's answer only, so a proxy that waited for half of a day would
/// refuse peers that have been issued certificates of the new root.
pub async fn changed(path: Option<&Path>) {
    let Some(path) = path else { return std::future::pending().await };
    let mut known = std::fs::read(path).ok();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        // A file that is gone for a moment has not changed yet.
        let Ok(now) = std::fs::read(path) else { continue };
        match known.replace(now.clone()) {
            Some(before) if before != now => break,
            _ => {}
        }
    }
    tracing::info!(path = %path.display(), "the roots have changed");
    // All proxies of a mesh see the change at about the same time.
    tokio::time::sleep(LOOK_EVERY.mul_f64(chance())).await;
}

/// Keeps a certificate valid for as long as it runs. Each one issued is passed
/// on, as is each failure. A change of the file of roots is a reason to renew.
pub async fn keep<F>(
    grace: Grace,
    roots: Option<&Path>,
    issue: impl Fn() -> F,
    mut issued: impl FnMut(Result<Workload, ()>),
) where
    F: Future<Output = Result<Workload, CertificateError>>,
{
    let mut failures = 0;
    loop {
        let wait = match issue().await {
            Ok(workload) => {
                failures = 0;
                let lifetime =
                    Duration::try_from(workload.expires.duration_since(Timestamp::now())).unwrap_or_default();
                let wait = renew_after(lifetime, grace, chance());
                tracing::info!(
                    identity = workload.identity,
                    expires = %workload.expires,
                    renewal_in = ?Duration::from_secs(wait.as_secs()),
                    "workload certificate issued"
                );
                issued(Ok(workload));
                wait
            }
            Err(error) => {
                failures += 1;
                let wait = backoff(failures, chance());
                tracing::warn!(error = chain(&error), retry_in = ?wait, "no workload certificate");
                issued(Err(()));
                wait
            }
        };
        match failures {
            0 => _ = tokio::time::timeout(wait, changed(roots)).await,
            _ => tokio::time::sleep(wait).await,
        }
    }
}
