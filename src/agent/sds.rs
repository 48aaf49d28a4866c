//! The secret discovery service that Envoy asks for its certificates.
//! <https://www.envoyproxy.io/docs/envoy/latest/configuration/security/secret>
//!
//! Whoever can open the socket may have the key, so only its owner can.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use futures::Stream;
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use super::secrets::{SECRET_TYPE, Secrets, Table};

/// The service.
pub struct Sds(Secrets);

impl Sds {
    /// The service, as it is added to a server.
    pub fn server(secrets: Secrets) -> SecretDiscoveryServiceServer<Self> {
        SecretDiscoveryServiceServer::new(Self(secrets))
    }
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SecretDiscoveryService for Sds {
    type DeltaSecretsStream = Responses<DeltaDiscoveryResponse>;
    type StreamSecretsStream = Responses<DiscoveryResponse>;

    async fn delta_secrets(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Ok(Response::new(stream::<Delta>(self.0.clone(), request.into_inner())))
    }

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        Ok(Response::new(stream::<Whole>(self.0.clone(), request.into_inner())))
    }

    async fn fetch_secrets(&self, _: Request<DiscoveryRequest>) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("secrets are streamed"))
    }
}

/// What a stream knows of its client.
trait Subscription: Default + Send + 'static {
    type Request: Send + 'static;
    type Response: Send + 'static;

    /// Takes a request. Returns the names that were not asked for before.
    fn request(&mut self, request: Self::Request) -> Vec<String>;

    /// What the client does not have yet of what it asked for.
    fn response(&mut self, table: &Table) -> Option<Self::Response>;
}

fn stream<S: Subscription>(secrets: Secrets, requests: Streaming<S::Request>) -> Responses<S::Response> {
    struct State<S: Subscription> {
        subscription: S,
        secrets: Secrets,
        requests: Streaming<S::Request>,
        table: watch::Receiver<Table>,
    }
    let table = secrets.follow();
    let state = State { subscription: S::default(), secrets, requests, table };
    Box::pin(futures::stream::try_unfold(state, |mut state| async move {
        loop {
            tokio::select! {
                request = state.requests.message() => {
                    let Some(request) = request? else { return Ok(None) };
                    for name in state.subscription.request(request) {
                        match state.secrets.want(&name) {
                            true => tracing::info!(name, "Envoy asks for a secret"),
                            false => tracing::warn!(name, "Envoy asks for a secret that the agent has no way to get"),
                        }
                    }
                }
                changed = state.table.changed() => {
                    if changed.is_err() {
                        return Ok(None);
                    }
                }
            }
            let response = state.subscription.response(&state.table.borrow_and_update());
            if let Some(response) = response {
                return Ok(Some((response, state)));
            }
        }
    }))
}

/// Names that were asked for, each with the version that was sent.
type Sent = BTreeMap<String, Option<String>>;

/// A rejected secret is not sent again until it changes, since what was sent is
/// remembered either way. The message is Envoy's, which does not quote keys.
fn log_rejection(detail: Option<&envoy_types::pb::google::rpc::Status>) {
    if let Some(detail) = detail {
        tracing::warn!(reason = detail.message, "Envoy rejected a secret");
    }
}

/// State of the world.
#[derive(Default)]
struct Whole {
    sent: Sent,
    responses: u64,
}

impl Subscription for Whole {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn request(&mut self, request: DiscoveryRequest) -> Vec<String> {
        // Names count even if the request crossed a response, as the protocol
        // says; what was sent is remembered in any case.
        log_rejection(request.error_detail.as_ref());
        let names: BTreeSet<_> = request.resource_names.into_iter().collect();
        self.sent.retain(|name, _| names.contains(name));
        let new: Vec<_> = names.into_iter().filter(|name| !self.sent.contains_key(name)).collect();
        self.sent.extend(new.iter().map(|name| (name.clone(), None)));
        new
    }

    fn response(&mut self, table: &Table) -> Option<DiscoveryResponse> {
        let held: Vec<_> = self.sent.keys().filter_map(|name| Some((name.clone(), table.get(name)?.clone()))).collect();
        let changed = held.iter().any(|(name, held)| self.sent[name].as_ref() != Some(&held.version));
        if !changed {
            return None;
        }
        self.responses += 1;
        let versions: Vec<_> = held.iter().map(|(_, held)| held.version.as_str()).collect();
        let version_info = versions.join(".");
        for (name, held) in &held {
            self.sent.insert(name.clone(), Some(held.version.clone()));
        }
        Some(DiscoveryResponse {
            version_info,
            type_url: SECRET_TYPE.into(),
            nonce: self.responses.to_string(),
            resources: held.into_iter().map(|(_, held)| held.resource).collect(),
            ..Default::default()
        })
    }
}

/// Incremental.
#[derive(Default)]
struct Delta {
    sent: Sent,
    responses: u64,
}

impl Subscription for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn request(&mut self, request: DeltaDiscoveryRequest) -> Vec<String> {
        log_rejection(request.error_detail.as_ref());
        for name in &request.resource_names_unsubscribe {
            self.sent.remove(name);
        }
        let mut new = Vec::new();
        for name in request.resource_names_subscribe {
            // A name that is asked for again is sent again.
            let version = request.initial_resource_versions.get(&name).cloned();
            if self.sent.insert(name.clone(), version).is_none() {
                new.push(name);
            }
        }
        new
    }

    fn response(&mut self, table: &Table) -> Option<DeltaDiscoveryResponse> {
        let mut resources = Vec::new();
        for (name, sent) in &mut self.sent {
            let Some(held) = table.get(name).filter(|held| sent.as_ref() != Some(&held.version)) else { continue };
            *sent = Some(held.version.clone());
            resources.push(Resource {
                name: name.clone(),
                version: held.version.clone(),
                resource: Some(held.resource.clone()),
                ..Default::default()
            });
        }
        if resources.is_empty() {
            return None;
        }
        self.responses += 1;
        Some(DeltaDiscoveryResponse {
            type_url: SECRET_TYPE.into(),
            nonce: self.responses.to_string(),
            resources,
            ..Default::default()
        })
    }
}
