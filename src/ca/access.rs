//! Which service accounts may list the Secrets of their namespaces, which the
//! API server is asked (SubjectAccessReview). A gateway is only given a key
//! that it could read by itself, as with istiod.
//!
//! As there, a yes counts for five minutes and a no for one. An answer that
//! cannot be had leaves the last one in force: to take a certificate away
//! because the API server hiccups would end the traffic that it is for.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::credential::{Account, Want};

/// How long a yes counts.
const YES: Duration = Duration::from_secs(300);
/// How long a no counts.
const NO: Duration = Duration::from_secs(60);
/// When it is asked again after there was no answer.
const AGAIN: Duration = Duration::from_secs(5);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many questions are open at a time.
const AT_ONCE: usize = 16;

/// What was answered.
pub type Access = imbl::OrdMap<Account, bool>;

/// Asks the API server of a client.
pub fn reviewer(client: kube::Client) -> impl Fn(Account) -> BoxFuture<'static, Result<bool, String>> {
    let api = Api::<SubjectAccessReview>::all(client);
    move |account| {
        let api = api.clone();
        async move {
            let Account { namespace, name } = account;
            let attributes = ResourceAttributes {
                namespace: Some(namespace.to_string()),
                verb: Some("list".into()),
                resource: Some("secrets".into()),
                ..ResourceAttributes::default()
            };
            let spec = SubjectAccessReviewSpec {
                user: Some(format!("system:serviceaccount:{namespace}:{name}")),
                resource_attributes: Some(attributes),
                ..SubjectAccessReviewSpec::default()
            };
            let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
            let answer = api.create(&PostParams::default(), &review).await.map_err(|error| error.to_string())?;
            Ok(answer.status.is_some_and(|status| status.allowed && status.denied != Some(true)))
        }
        .boxed()
    }
}

/// What is known of an account.
struct Known {
    /// When it is to be asked; `None` while it is.
    due: Option<Instant>,
}

/// Keeps the answers that are wanted until nobody can want any.
pub async fn keep<F, R>(
    review: F,
    mut wanted: watch::Receiver<imbl::OrdMap<Want, usize>>,
    access: watch::Sender<Access>,
) where
    F: Fn(Account) -> R,
    R: Future<Output = Result<bool, String>> + Send + 'static,
{
    let mut known: BTreeMap<Account, Known> = BTreeMap::new();
    let mut running = JoinSet::new();
    want(&mut known, &wanted.borrow_and_update().clone(), &access);
    loop {
        let now = Instant::now();
        for (account, one) in &mut known {
            if running.len() < AT_ONCE && one.due.is_some_and(|due| due <= now) {
                one.due = None;
                let (account, asking) = (account.clone(), review(account.clone()));
                running.spawn(async move { (account, tokio::time::timeout(PATIENCE, asking).await) });
            }
        }
        let full = running.len() >= AT_ONCE;
        let next = known.values().filter_map(|one| one.due).min().filter(|_| !full);
        tokio::select! {
            changed = wanted.changed() => {
                if changed.is_err() {
                    return;
                }
                want(&mut known, &wanted.borrow_and_update().clone(), &access);
            }
            Some(Ok((account, answer))) = running.join_next() => {
                let Some(one) = known.get_mut(&account) else { continue };
                let answer = answer.unwrap_or_else(|_| Err("timed out".into()));
                let Account { namespace, name } = &account;
                let after = match answer {
                    Ok(allowed) => {
                        access.send_if_modified(|known| known.insert(account.clone(), allowed) != Some(allowed));
                        if allowed { YES } else { NO }
                    }
                    Err(reason) => {
                        tracing::warn!(%namespace, account = %name, reason, "cannot ask what a service account may do");
                        AGAIN
                    }
                };
                one.due = Some(Instant::now() + after);
            }
            () = at(next) => {}
        }
    }
}

/// Asks about the accounts that are wanted, and forgets all others.
fn want(known: &mut BTreeMap<Account, Known>, wanted: &imbl::OrdMap<Want, usize>, access: &watch::Sender<Access>) {
    let account = |want: &Want| match want {
        Want::Account(account) => Some(account.clone()),
        Want::Place(_) => None,
    };
    known.retain(|account, _| wanted.contains_key(&Want::Account(account.clone())));
    for account in wanted.keys().filter_map(account) {
        known.entry(account).or_insert_with(|| Known { due: Some(Instant::now()) });
    }
    access.send_if_modified(|answers| {
        let gone: Vec<_> = answers.keys().filter(|account| !known.contains_key(*account)).cloned().collect();
        gone.iter().for_each(|account| _ = answers.remove(account));
        !gone.is_empty()
    });
}

/// Until a time; for ever if there is none.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
