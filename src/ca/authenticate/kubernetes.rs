//! Service account tokens, which the API server vouches for (TokenReview).
//!
//! istiod asks for every stream and every signing request. Here a positive
//! answer is remembered for a minute at most, and requests that arrive while
//! the question is open wait for its answer: a node that renews a hundred
//! certificates asks once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt, Shared};
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::Api;
use kube::api::PostParams;
use tokio::sync::Semaphore;

use super::chain::{Bearer, TokenAuthenticator};
use super::jwt::{Jwt, clip};
use super::remembered::{Remembered, TokenHash, lifetime, token_hash};
use super::{Caller, Denial, PodBinding, Proof, service_account};
use crate::ca::identity::{SpiffeId, TrustDomains};

/// How many questions are open at the API server at a time.
const MAX_REVIEWS: usize = 32;
const REVIEW_TIMEOUT: Duration = Duration::from_secs(10);
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Asks the API server about a token.
pub trait TokenReviewer: Send + Sync + 'static {
    /// What the API server knows of a token for one of the audiences; the
    /// error says why it could not be asked.
    fn review(&self, token: String, audiences: Vec<String>) -> BoxFuture<'static, Result<TokenReviewStatus, String>>;
}

/// Asks with TokenReviews.
pub struct KubeReviewer(Api<TokenReview>);

impl KubeReviewer {
    /// A reviewer for the cluster of a client.
    pub fn new(client: kube::Client) -> Self {
        Self(Api::all(client))
    }
}

impl TokenReviewer for KubeReviewer {
    fn review(&self, token: String, audiences: Vec<String>) -> BoxFuture<'static, Result<TokenReviewStatus, String>> {
        let api = self.0.clone();
        async move {
            let spec = TokenReviewSpec { token, audiences: Some(audiences) };
            let review = TokenReview { spec, ..TokenReview::default() };
            let answer = api.create(&PostParams::default(), &review).await.map_err(|error| error.to_string())?;
            answer.status.ok_or_else(|| "the answer has no status".to_owned())
        }
        .boxed()
    }
}

type Answer = Shared<BoxFuture<'static, Result<Caller, Denial>>>;

/// Accepts the service account tokens of one cluster.
pub struct KubernetesTokens {
    reviewer: Arc<dyn TokenReviewer>,
    audiences: Vec<String>,
    cluster: String,
    trust_domains: Arc<TrustDomains>,
    /// Locked for single map operations only.
    answers: Mutex<Remembered<Answer>>,
    permits: Arc<Semaphore>,
}

impl KubernetesTokens {
    /// An authenticator for tokens with one of the audiences, for callers who
    /// say they are of this cluster or say nothing.
    pub fn new(
        reviewer: Arc<dyn TokenReviewer>,
        audiences: Vec<String>,
        cluster: &str,
        trust_domains: Arc<TrustDomains>,
    ) -> Self {
        Self {
            reviewer,
            audiences,
            cluster: cluster.to_owned(),
            trust_domains,
            answers: Mutex::new(Remembered::new()),
            permits: Arc::new(Semaphore::new(MAX_REVIEWS)),
        }
    }

    async fn reviewed(&self, bearer: Bearer<'_>, now: Timestamp) -> Result<Caller, Denial> {
        if !bearer.cluster.is_empty() && bearer.cluster != self.cluster {
            return Err(Denial(format!("cluster {:?} is not {:?}", clip(bearer.cluster), self.cluster)));
        }
        let key = token_hash(bearer.token);
        let known = self.answers().get(&key);
        let answer = match known {
            // An answer is not known for longer than the token is good.
            Some(answer) => answer,
            None => {
                // What is no token at all, or expired by its own words, is not
                // worth a question.
                let claims = Jwt::parse(bearer.token)?.claims;
                claims.check_time(now)?;
                self.answer(key, bearer.token, lifetime(&claims, now))
            }
        };
        let caller = answer.clone().await;
        if caller.is_err() {
            // Only this refusal: a newer question may be open by now.
            self.answers().forget(&key, |other| other.ptr_eq(&answer));
        }
        caller
    }

    /// The answer that is known or awaited, or a new question.
    fn answer(&self, key: TokenHash, token: &str, lifetime: Duration) -> Answer {
        let mut answers = self.answers();
        if let Some(answer) = answers.get(&key) {
            return answer;
        }
        let answer = self.question(token).shared();
        answers.insert(key, answer.clone(), lifetime);
        answer
    }

    fn question(&self, token: &str) -> BoxFuture<'static, Result<Caller, Denial>> {
        let (reviewer, permits) = (self.reviewer.clone(), self.permits.clone());
        let (audiences, trust_domains) = (self.audiences.clone(), self.trust_domains.clone());
        let token = token.to_owned();
        async move {
            let asked = async {
                // The semaphore is never closed.
                let _permit = permits.acquire().await;
                reviewer.review(token, audiences.clone()).await
            };
            match tokio::time::timeout(REVIEW_TIMEOUT, asked).await {
                Ok(Ok(status)) => caller(&status, &audiences, &trust_domains),
                Ok(Err(error)) => Err(Denial(format!("token review failed: {error}"))),
                Err(_) => Err(Denial("token review failed: timed out".into())),
            }
        }
        .boxed()
    }

    fn answers(&self) -> MutexGuard<'_, Remembered<Answer>> {
        // No operation on the map leaves it half changed.
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TokenAuthenticator for KubernetesTokens {
    fn name(&self) -> &str {
        "Kubernetes token"
    }

    fn caller<'a>(&'a self, bearer: Bearer<'a>) -> BoxFuture<'a, Result<Caller, Denial>> {
        self.reviewed(bearer, Timestamp::now()).boxed()
    }
}

/// The caller of a positive review.
fn caller(status: &TokenReviewStatus, audiences: &[String], trust_domains: &TrustDomains) -> Result<Caller, Denial> {
    if status.authenticated != Some(true) {
        let error = status.error.as_deref().unwrap_or("no reason given");
        return Err(Denial(format!("the API server does not vouch for the token: {}", clip(error))));
    }
    // An authenticator that ignores audiences answers without any; it would
    // accept tokens that were meant for somebody else.
    let granted = status.audiences.as_deref().unwrap_or_default();
    if !granted.iter().any(|audience| audiences.contains(audience)) {
        return Err(Denial(format!("token audience {granted:?} is not one of {audiences:?}")));
    }
    let user = status.user.as_ref().ok_or_else(|| Denial("the token review names no user".into()))?;
    let name = user.username.as_deref().unwrap_or_default();
    let (namespace, account) =
        service_account(name).ok_or_else(|| Denial(format!("user {:?} is not a service account", clip(name))))?;
    let identity = SpiffeId::new(trust_domains.own(), namespace, account).map_err(|error| Denial(error.to_string()))?;
    let extra = |key| user.extra.as_ref()?.get(key)?.first().filter(|value| !value.is_empty());
    let pod = match (extra(POD_NAME), extra(POD_UID)) {
        (Some(name), Some(uid)) => Some(PodBinding { name: name.as_str().into(), uid: uid.as_str().into() }),
        _ => None,
    };
    Ok(Caller { identities: vec![identity], proof: Proof::KubernetesToken, pod })
}
