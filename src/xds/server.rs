//! The aggregated discovery service.
//!
//! It decides who may open a stream and as which node, and owns what all
//! streams share: the published views, the registry of live connections, the
//! metrics and the signal to drain. A stream itself is a response body that
//! reads its own requests ([`body`]); there is no task and no queue per client.
//!
//! Callers are authenticated before any of their messages is read. A stream
//! never ends with OK on our initiative, because ztunnel reconnects without
//! delay after that.

use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response, header};
use prometheus_client::registry::Registry;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Code, Status};
use tracing::info;

use super::codec::reader::{Reader, RequestBody};
use super::demand::Demand;
use super::secret::Vault;
use super::stream::Variant;
use super::verdict::Verdicts;
use super::view::Views;
use crate::ca::authenticate::{Authenticate, Caller, Peer};
use crate::ca::identity::SpiffeId;
use crate::credential::Want;
use crate::proxy::{Node, NodeKind};
pub use body::StreamBody;
use connections::{ConnectedCollector, Connections};
pub use fanout::Closing;
use fanout::Fanout;
use inquiry::Answers;
use metrics::Metrics;

pub mod body;
pub mod connections;
mod fanout;
pub mod inquiry;
pub mod metrics;

/// The full name of the service.
pub const NAME: &str = "envoy.service.discovery.v3.AggregatedDiscoveryService";

/// What the administrator decides about the service.
#[derive(Clone, Debug)]
pub struct Options {
    /// `control_plane.identifier` of every response: JSON with `Component`,
    /// `ID` and `Info`, as istioctl reads it.
    pub control_plane: String,
    /// Whether callers on TLS must authenticate.
    pub authenticate_encrypted: bool,
    /// Whether callers on connections without TLS must authenticate too.
    pub authenticate_plaintext: bool,
    /// Whether a caller may only act for nodes of its own namespace and
    /// service account.
    pub check_identity: bool,
    /// Whether ztunnels are served.
    pub ambient: bool,
    /// The longest request of an authenticated caller. A reconnecting ztunnel
    /// lists some 85 bytes per resource it knows.
    pub max_message: usize,
    /// The longest request of anybody else.
    pub max_message_unauthenticated: usize,
    /// After about this time a stream is ended, so that load spreads again
    /// over replicas.
    pub max_age: Option<Duration>,
    /// Over what time streams are ended when the process is to end.
    pub drain: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            control_plane: String::new(),
            authenticate_encrypted: true,
            authenticate_plaintext: false,
            check_identity: true,
            ambient: true,
            max_message: 64 << 20,
            max_message_unauthenticated: 4 << 20,
            max_age: None,
            drain: Duration::ZERO,
        }
    }
}

/// What is the same on every runtime that serves streams.
#[derive(Clone)]
pub struct Xds {
    shared: Arc<Shared>,
}

/// The service on one runtime; cheap to clone.
#[derive(Clone)]
pub struct XdsServer {
    shared: Arc<Shared>,
    fanout: Arc<Fanout>,
}

/// What all streams share.
struct Shared {
    views: watch::Receiver<Arc<Views>>,
    authenticate: Arc<dyn Authenticate>,
    options: Options,
    connections: Arc<Connections>,
    demand: Arc<Demand>,
    secrets: Secrets,
    verdicts: Verdicts,
    metrics: Metrics,
    drain: CancellationToken,
    /// For large requests, see [`Reader`].
    places: Arc<Semaphore>,
    /// Who answers questions about the control plane. Set once, as that is
    /// somebody who looks at the connections here.
    answers: OnceLock<Arc<dyn Answers>>,
}

/// Where secrets come from, and what has to be looked up for that.
#[derive(Clone, Debug)]
pub struct Secrets {
    /// The secrets.
    pub vault: watch::Receiver<Arc<Vault>>,
    /// What is asked for.
    pub asked: Arc<Demand<Want>>,
}

impl Default for Secrets {
    /// There are none.
    fn default() -> Self {
        Self { vault: watch::channel(Arc::default()).1, asked: Arc::default() }
    }
}

/// How many large requests are read at a time: enough to keep all cores busy.
const LARGE_REQUESTS: usize = 8;

impl Xds {
    /// Serves what is published through `views` until `drain` is cancelled. To
    /// be started only when the first view is complete. Which scopes those have
    /// to contain is told through `demand`, and what clients reject through
    /// `verdicts`.
    pub fn new(
        views: watch::Receiver<Arc<Views>>,
        authenticate: Arc<dyn Authenticate>,
        options: Options,
        (demand, verdicts): (Arc<Demand>, Verdicts),
        secrets: Secrets,
        drain: CancellationToken,
        registry: &mut Registry,
    ) -> Self {
        let (connections, metrics) = (Arc::<Connections>::default(), Metrics::new(registry));
        registry.register_collector(Box::new(ConnectedCollector(connections.clone())));
        Self {
            shared: Arc::new(Shared {
                views,
                authenticate,
                options,
                connections,
                demand,
                secrets,
                verdicts,
                metrics,
                drain,
                places: Arc::new(Semaphore::new(LARGE_REQUESTS)),
                answers: OnceLock::new(),
            }),
        }
    }

    /// The live connections, for the debug pages.
    pub fn connections(&self) -> &Arc<Connections> {
        &self.shared.connections
    }

    /// Says who answers questions about the control plane, for all that come
    /// after that. Without anybody they are refused.
    pub fn answer_with(&self, answers: Arc<dyn Answers>) {
        // Nobody is replaced.
        let _ = self.shared.answers.set(answers);
    }

    /// The service for connections of the runtime it is called on.
    pub fn server(&self) -> XdsServer {
        let fanout =
            Fanout::follow(self.shared.views.clone(), self.shared.secrets.vault.clone(), self.shared.drain.clone());
        XdsServer { shared: self.shared.clone(), fanout }
    }
}

impl XdsServer {
    /// Completes when connections of this runtime are to close.
    pub fn closing(&self) -> Closing {
        Closing::new(self.fanout.clone())
    }

    /// Whether a path is one of this service.
    pub fn serves(path: &str) -> bool {
        path.strip_prefix('/').is_some_and(|path| path.starts_with(NAME))
    }

    /// The response to a call: a body that is the stream, or a refusal without
    /// one, which makes clients back off.
    pub async fn open<B>(self, request: Request<B>) -> Result<Response<StreamBody<B>>, Status>
    where
        B: RequestBody,
    {
        let shared = self.shared;
        let method = request.uri().path().strip_prefix('/').and_then(|path| path.strip_prefix(NAME));
        let variant = match method {
            Some("/DeltaAggregatedResources") => Variant::Delta,
            Some("/StreamAggregatedResources") => Variant::Sotw,
            _ => return Err(Status::unimplemented("")),
        };
        if shared.drain.is_cancelled() {
            return Err(closing());
        }
        let (parts, body) = request.into_parts();
        let peer = parts.extensions.get::<Peer>().cloned();
        let caller = shared.caller(peer.as_ref(), &parts.headers).await?;

        let limits = (shared.options.max_message, shared.options.max_message_unauthenticated);
        let limit = if caller.is_some() { limits.0 } else { limits.1 };
        let reader = Reader::new(body, limit, shared.places.clone());
        let goodbye = parts.extensions.get::<Goodbye>().cloned().unwrap_or_default();
        let connected = Connected { caller, peer: peer.unwrap_or_default(), goodbye };
        let body = StreamBody::new(shared, self.fanout, variant, reader, connected);
        let mut response = Response::new(body);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        Ok(response)
    }
}

impl NamedService for XdsServer {
    const NAME: &'static str = NAME;
}

impl<B: RequestBody> tower::Service<Request<B>> for XdsServer {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let server = self.clone();
        async move { Ok(server.open(request).await.map_or_else(Status::into_http, |response| response.map(Body::new))) }
            .boxed()
    }
}

impl Shared {
    /// Who is calling, or `None` if that does not have to be known.
    async fn caller(&self, peer: Option<&Peer>, headers: &http::HeaderMap) -> Result<Option<Caller>, Status> {
        // A connection nothing is known about is a mistake in the wiring, and
        // must not be a way around authentication.
        let unknown = Peer { encrypted: true, ..Peer::default() };
        let peer = peer.unwrap_or(&unknown);
        let Options { authenticate_encrypted, authenticate_plaintext, .. } = self.options;
        let asked = if peer.encrypted { authenticate_encrypted } else { authenticate_plaintext };
        if !asked {
            return Ok(None);
        }
        match self.authenticate.authenticate(peer, headers).await {
            Ok(caller) => Ok(Some(caller)),
            Err(denial) => {
                self.metrics.unauthenticated.inc();
                info!(address = ?peer.address, %denial, "xDS caller refused");
                Err(Status::unauthenticated("authentication failure"))
            }
        }
    }

    /// Whether a caller may have the stream of a node.
    fn authorize(&self, caller: Option<&Caller>, node: &Node) -> Result<(), Status> {
        if node.kind == NodeKind::Ztunnel && !self.options.ambient {
            return Err(Status::failed_precondition("ztunnel needs ambient mode, which is disabled"));
        }
        let Some(caller) = caller.filter(|_| self.options.check_identity) else { return Ok(()) };
        let allowed = caller.identities.iter().any(|identity| acts_for(identity, node));
        if allowed { Ok(()) } else { Err(Status::permission_denied("the caller may not act for this node")) }
    }
}

/// Who is at the other end.
#[derive(Debug)]
struct Connected {
    /// Who it has proved to be, if that was asked.
    caller: Option<Caller>,
    /// What the transport knows.
    peer: Peer,
    /// Closes the connection.
    goodbye: Goodbye,
}

/// Has a connection closed when what is under way on it has ended. In the
/// extensions of each request on it.
#[derive(Clone, Debug, Default)]
pub struct Goodbye(CancellationToken);

impl Goodbye {
    fn say(&self) {
        self.0.cancel();
    }

    /// Completes when it was said.
    pub fn said(&self) -> impl Future<Output = ()> + Send + 'static {
        self.0.clone().cancelled_owned()
    }
}

impl Connected {
    /// The identity by which it may have secrets as this node. Over a connection
    /// that anybody can read there are none, whoever is calling.
    fn identity(&self, node: &Node) -> Option<&SpiffeId> {
        let caller = self.caller.as_ref().filter(|_| self.peer.encrypted)?;
        caller.identities.iter().find(|identity| acts_for(identity, node))
    }
}

/// Whether an identity is that of a node's namespace and service account.
fn acts_for(identity: &SpiffeId, node: &Node) -> bool {
    let account = node.service_account.as_ref();
    identity.namespace == node.namespace && account.is_none_or(|account| *account == identity.service_account)
}

/// What a stream ends with when it is drained. ztunnel takes these very words
/// as an invitation to reconnect soon.
fn closing() -> Status {
    Status::new(Code::Unavailable, "transport is closing")
}

/// Some number between 0 and 1 that differs from call to call.
fn jitter() -> f64 {
    salt() as f64 / u64::MAX as f64
}

/// A number that is unlikely to come twice.
fn salt() -> u64 {
    RandomState::new().hash_one(0)
}

/// The start of what a client wrote: enough to recognise it in a log.
fn clip(text: &str) -> &str {
    &text[..text.floor_char_boundary(1024)]
}

#[cfg(test)]
mod tests;
