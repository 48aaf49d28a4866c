//! `istio.v1.auth.IstioCertificateService` on the wire: authenticate, decide
//! which identity is meant, sign.
//!
//! Error texts are istiod's, because agents and people look for them. They
//! never say why a caller was refused; the log and a debug page do, under an id
//! that the caller is told.

use std::fmt::Display;
use std::sync::Arc;

use fairway_proto::auth::istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer};
use fairway_proto::auth::{IstioCertificateRequest, IstioCertificateResponse};
use jiff::Timestamp;
use prost_types::value::Kind;
use tonic::{Request, Response, Status};

use super::authenticate::{Authenticate, Caller, Denial, Peer};
use super::authority::{Authority, Sources};
use super::csr::{Csr, CsrError, MAX_CSR};
use super::denials::Denials;
use super::identity::SpiffeId;
use super::issue::{IssueError, Lifetimes};
use super::metrics::{CaMetrics, SignErrorLabels};
use super::node::NodeAuthorizer;
use super::signing::Signing;

/// A CSR, its framing and a SPIFFE ID, with room to spare. Read before the
/// caller is known, so it is small.
const MAX_REQUEST: usize = MAX_CSR + (16 << 10);

/// Signs for callers who prove who they are.
pub struct CertificateService {
    authority: Arc<Authority>,
    authenticator: Arc<dyn Authenticate>,
    nodes: Option<NodeAuthorizer>,
    lifetimes: Lifetimes,
    metrics: CaMetrics,
    denials: Denials,
    signing: Signing,
}

/// Everything that can be wrong with a request once the caller is known.
#[derive(Debug, thiserror::Error)]
enum SignError {
    #[error(transparent)]
    Csr(#[from] CsrError),
    #[error(transparent)]
    Issue(#[from] IssueError),
}

impl CertificateService {
    /// A service; without an authorizer for nodes nobody can ask for another's
    /// certificate.
    pub fn new(
        authority: Arc<Authority>,
        authenticator: Arc<dyn Authenticate>,
        nodes: Option<NodeAuthorizer>,
        lifetimes: Lifetimes,
        metrics: CaMetrics,
        denials: Denials,
    ) -> Self {
        Self { authority, authenticator, nodes, lifetimes, metrics, denials, signing: Signing::new() }
    }

    /// The service with the size of requests bounded.
    pub fn into_server(self) -> IstioCertificateServiceServer<Self> {
        Self::server(&Arc::new(self))
    }

    /// The same, of a service that several servers share.
    pub fn server(this: &Arc<Self>) -> IstioCertificateServiceServer<Self> {
        IstioCertificateServiceServer::from_arc(this.clone()).max_decoding_message_size(MAX_REQUEST)
    }

    fn unauthenticated(
        &self,
        peer: &Peer,
        caller: Option<&Caller>,
        message: &'static str,
        reason: &dyn Display,
    ) -> Status {
        self.metrics.authentication_failures.inc();
        let id = self.denials.note(peer, caller, message, reason);
        let address = peer.address.map(tracing::field::display);
        let caller = caller.map(|caller| tracing::field::debug(&caller.identities));
        tracing::warn!(%id, peer = address, caller, %reason, "{message}");
        Status::unauthenticated(format!("{message} (id {id})"))
    }

    /// The identity to certify: the caller's own, or the one it asks for.
    fn identity(&self, peer: &Peer, caller: &Caller, request: &IstioCertificateRequest) -> Result<SpiffeId, Status> {
        let impersonated = request.metadata.as_ref().and_then(|metadata| metadata.fields.get("ImpersonatedIdentity"));
        match impersonated.map(|value| &value.kind) {
            None => match caller.identities.as_slice() {
                [identity] => Ok(identity.clone()),
                identities => {
                    self.metrics.identity_errors.inc();
                    let count = identities.len();
                    Err(self.unauthenticated(
                        peer,
                        Some(caller),
                        AUTHENTICATION,
                        &format!("caller has {count} identities, not one"),
                    ))
                }
            },
            Some(Some(Kind::StringValue(text))) => self
                .impersonated(caller, text)
                .map_err(|denial| self.unauthenticated(peer, Some(caller), IMPERSONATION, &denial)),
            Some(_) => {
                Err(self.unauthenticated(peer, Some(caller), IMPERSONATION, &"ImpersonatedIdentity is not a string"))
            }
        }
    }

    fn impersonated(&self, caller: &Caller, text: &str) -> Result<SpiffeId, Denial> {
        let requested: SpiffeId =
            text.parse().map_err(|error: super::identity::IdentityError| Denial(error.to_string()))?;
        let nodes = self.nodes.as_ref().ok_or_else(|| Denial("impersonation is turned off".into()))?;
        let asked = |Denial(reason)| Denial(format!("{reason} (asked for {requested})"));
        nodes.authorize(caller, &requested).map_err(asked)?;
        Ok(requested)
    }

    async fn signed(
        &self,
        request: IstioCertificateRequest,
        identity: SpiffeId,
        holder: u32,
    ) -> Result<Vec<String>, Status> {
        let (authority, lifetimes) = (self.authority.clone(), self.lifetimes);
        let subject = identity.clone();
        let signed = self.signing.run(move || {
            let csr = Csr::parse(&request.csr)?;
            let (bundle, now, ttl) = (authority.bundle(), Timestamp::now(), request.validity_duration);
            let chain = bundle.workload_chain(&csr, &subject, ttl, lifetimes, now)?;
            authority.holders().issued(&bundle, &subject, holder, bundle.workload_end(ttl, lifetimes, now)?);
            Ok(chain)
        });
        match signed.await {
            Ok(Ok(chain)) => Ok(chain),
            Ok(Err(error)) => Err(self.refused(&identity, &error)),
            Err(error) => {
                tracing::error!(%identity, %error, "signing failed");
                Err(Status::internal("CSR signing error"))
            }
        }
    }

    fn refused(&self, identity: &SpiffeId, error: &SignError) -> Status {
        tracing::warn!(%identity, error = %Sources(error), "CSR signing error");
        let message = format!("CSR signing error ({error})");
        let (kind, status) = match error {
            SignError::Csr(_) => {
                self.metrics.parse_errors.inc();
                ("CSR_ERROR", Status::invalid_argument(message))
            }
            SignError::Issue(IssueError::Ttl { .. }) => ("TTL_ERROR", Status::invalid_argument(message)),
            // The state of the signer is not the caller's business.
            SignError::Issue(IssueError::Expired(_)) => {
                ("CA_NOT_READY", Status::unavailable("CSR signing error (the CA is not ready)"))
            }
            SignError::Issue(IssueError::OpenSsl(_)) => ("CERT_GEN_ERROR", Status::internal("CSR signing error")),
        };
        self.metrics.sign_errors.get_or_create(&SignErrorLabels { error: kind }).inc();
        status
    }
}

const AUTHENTICATION: &str = "request authenticate failure";
const IMPERSONATION: &str = "request impersonation authentication failure";

#[tonic::async_trait]
impl IstioCertificateService for CertificateService {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        self.metrics.requests.inc();
        let peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
        if !peer.encrypted {
            return Err(self.unauthenticated(&peer, None, AUTHENTICATION, &"the connection is not encrypted"));
        }
        let caller = self
            .authenticator
            .authenticate(&peer, request.metadata().as_ref())
            .await
            .map_err(|denial| self.unauthenticated(&peer, None, AUTHENTICATION, &denial))?;
        let request = request.into_inner();
        let identity = self.identity(&peer, &caller, &request)?;
        let cert_chain = self.signed(request, identity.clone(), holder(&peer, &caller)).await?;
        self.metrics.issued.inc();
        tracing::debug!(%identity, proof = ?caller.proof, "certificate issued");
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

/// Tells callers apart that ask for certificates of one identity: by the pod of
/// the token, or else by the address.
fn holder(peer: &Peer, caller: &Caller) -> u32 {
    let hash = match (&caller.pod, peer.address) {
        (Some(pod), _) => openssl::sha::sha256(pod.uid.as_bytes()),
        (None, Some(address)) => openssl::sha::sha256(address.ip().to_string().as_bytes()),
        (None, None) => return 0,
    };
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]])
}

#[cfg(test)]
mod tests;
