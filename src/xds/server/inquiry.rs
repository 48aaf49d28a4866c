//! Questions about the control plane itself, asked in the protocol of xDS:
//! types such as `istio.io/debug/syncz`, which is how istioctl asks
//! (<https://istio.io/latest/docs/ops/diagnostic-tools/proxy-cmd/>).
//!
//! They are answered once, to callers who have proved who they are over a
//! connection that nobody else can read, whatever else is asked without proof
//! (ISTIO-SECURITY-2026-001: they were answered on the plaintext port). Who may
//! see what is decided by whoever answers; this module knows no answers.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use envoy_types::pb::envoy::config::core::v3::ControlPlane;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse, Resource};
use envoy_types::pb::google::protobuf::Any;
use futures::future::{BoxFuture, FutureExt};
use prost::Message;
use tonic::Status;

use crate::ca::authenticate::Caller;
use crate::xds::codec::request::Request;
use crate::xds::stream::Variant;

/// What the types of questions begin with.
pub const DEBUG: &str = "istio.io/debug";

/// What is asked.
#[derive(Clone, Debug)]
pub struct Inquiry {
    /// The type, such as `istio.io/debug/syncz`.
    pub type_url: String,
    /// What it is about.
    pub names: Vec<Arc<str>>,
    /// Who asks.
    pub caller: Caller,
}

/// One resource of an answer.
#[derive(Clone, Debug)]
pub struct Told {
    /// Its name, which may be empty.
    pub name: String,
    /// What is said.
    pub message: Any,
}

/// Who answers. A status ends the stream of whoever asked.
pub trait Answers: Send + Sync {
    /// The answer.
    fn answer(&self, inquiry: Inquiry) -> BoxFuture<'static, Result<Vec<Told>, Status>>;
}

/// A question as it was read, of somebody who may not have proved anything.
pub(super) struct Asked {
    pub(super) type_url: String,
    pub(super) names: Vec<Arc<str>>,
    pub(super) nonce: String,
}

impl Asked {
    /// The question that a request is, if it is one.
    pub(super) fn read(request: &Request) -> Option<Self> {
        let (type_url, names, nonce) = match request {
            Request::Delta(request) => (&request.type_url, &request.subscribe, &request.response_nonce),
            Request::Sotw(request) => (&request.type_url, &request.resource_names, &request.response_nonce),
        };
        let debug = type_url.strip_prefix(DEBUG).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        debug.then(|| Self { type_url: type_url.clone(), names: names.clone(), nonce: nonce.clone() })
    }
}

/// A question that is being answered.
pub(super) struct Answering {
    type_url: String,
    nonce: String,
    answer: BoxFuture<'static, Result<Vec<Told>, Status>>,
}

impl Answering {
    pub(super) fn new(answers: &dyn Answers, inquiry: Inquiry, nonce: String) -> Self {
        Self { type_url: inquiry.type_url.clone(), nonce, answer: answers.answer(inquiry) }
    }

    /// The response as it is written to a stream.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        variant: Variant,
        (revision, control_plane): (u64, &str),
    ) -> Poll<Result<Bytes, Status>> {
        let told = ready!(Pin::new(&mut self.answer).poll_unpin(cx))?;
        let (type_url, nonce) = (std::mem::take(&mut self.type_url), std::mem::take(&mut self.nonce));
        let (version, identifier) = (revision.to_string(), control_plane.to_owned());
        let control_plane = Some(ControlPlane { identifier });
        let message = match variant {
            Variant::Sotw => DiscoveryResponse {
                version_info: version,
                resources: told.into_iter().map(|one| one.message).collect(),
                type_url,
                nonce,
                control_plane,
                ..Default::default()
            }
            .encode_to_vec(),
            Variant::Delta => {
                let resource = |one: Told| Resource {
                    name: one.name,
                    version: version.clone(),
                    resource: Some(one.message),
                    ..Default::default()
                };
                DeltaDiscoveryResponse {
                    resources: told.into_iter().map(resource).collect(),
                    system_version_info: version,
                    type_url,
                    nonce,
                    control_plane,
                    ..Default::default()
                }
                .encode_to_vec()
            }
        };
        let length = u32::try_from(message.len()).map_err(|_| Status::internal("response exceeds 4 GiB"));
        Poll::Ready(length.map(|length| {
            let mut framed = BytesMut::with_capacity(message.len() + 5);
            framed.put_u8(0);
            framed.put_u32(length);
            framed.put_slice(&message);
            framed.freeze()
        }))
    }
}
