//! What one connection is sent next.
//!
//! A [`Stream`] is a pure state machine: requests and views go in, responses
//! come out, and neither a socket nor a clock is involved. It is pulled: its
//! owner reports requests as they arrive and asks for the [`next`] response
//! whenever it can send one, so views that nobody asked for cost nothing.
//!
//! This file decides the order between types; [`subscription`] decides what
//! one type is owed; [`delta`] and [`sotw`] apply the requests of the two
//! variants of the protocol.
//!
//! # Make before break
//! Within one view, additions go out in ascending rank and removals in
//! descending rank. A lower rank that waits for an acknowledgement must not
//! hold a higher one up for ever, so the higher rank may always be sent as of
//! the view the lower one has reached (its *ceiling*). Likewise a removal may
//! go out as soon as the resource is absent from the views that the higher
//! ranks are at (the *floor*), however old those are.
//!
//! Envoys are stricter than ztunnels, as what they refer to has to be there:
//! there a lower rank must have been accepted, and everything the client was
//! sent must have been asked for, before a higher one that needs it is sent.
//! What a client rejected counts as refused, not as missing: the rest goes on.
//!
//! [`next`]: Stream::next

use std::fmt;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Node as WireNode;
use smallvec::SmallVec;
use tonic::Status;

use super::resource::{Family, Framing, Resource, ResourceType};
use super::verdict::Verdict;
use super::view::{Layer, Step, Views};
use crate::proxy::{Node, NodeKind, Scope};
use secrets::Secrets;
use subscription::{Answer, Outcome, Subscription};

pub mod delta;
pub mod secrets;
pub mod sotw;
pub mod subscription;

/// The variants of the aggregated protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// `DeltaAggregatedResources`.
    Delta,
    /// `StreamAggregatedResources`, the state of the world.
    Sotw,
}

/// The state of one connection.
#[derive(Debug)]
pub struct Stream {
    variant: Variant,
    node: Option<Node>,
    /// Whose configuration the client is sent, if it has one of its own.
    scope: Option<Scope>,
    /// Ordered by type, which is also the order of ranks.
    subscriptions: Vec<Subscription>,
    /// What is known of the secrets it asks for, if it does.
    secrets: Option<Box<Secrets>>,
    /// The latest nonce.
    nonce: Nonce,
}

/// Identifies a response on its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonce {
    /// Tells the nonces of a stream from those of any other.
    salt: u64,
    /// Counts the responses of the stream.
    pub number: u64,
}

impl Nonce {
    /// Reads what [`Display`](fmt::Display) writes.
    fn parse(text: &str) -> Option<Self> {
        let (salt, number) = text.split_once('-')?;
        Some(Self { salt: u64::from_str_radix(salt, 16).ok()?, number: number.parse().ok()? })
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{}", self.salt, self.number)
    }
}

/// What a request turned out to be, for logs and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// It was applied.
    Request {
        /// The type it is about.
        ty: ResourceType,
        /// What it says about the latest response.
        reply: Reply,
    },
    /// Its type is not served; it was ignored.
    UnknownType(String),
}

/// What a request says about the latest response of its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Nothing: it has no nonce, or one from before this stream.
    Nothing,
    /// The client accepted the response.
    Ack,
    /// The client rejected the response, for this reason.
    Nack(Arc<str>),
    /// It answers a response that is not the latest one.
    Stale,
}

/// One message to the client, not yet encoded.
#[derive(Clone, Debug)]
pub struct Response {
    /// The type of its resources.
    pub ty: ResourceType,
    /// How its resources are laid out.
    pub framing: Framing,
    /// Identifies the response on this stream.
    pub nonce: Nonce,
    /// The view it was made from.
    pub views: Arc<Views>,
    /// Whether it is the first of its type on this stream.
    pub first: bool,
    /// The resources.
    pub contents: Contents,
    /// Names the client is to forget; always empty in the state of the world.
    pub removed: Arc<[Arc<str>]>,
}

/// The resources of a response.
#[derive(Clone, Debug)]
pub enum Contents {
    /// All of a layer that the type carries; a slow reader keeps only the
    /// shared layer alive.
    Whole(Layer),
    /// What is new or has changed in a step that other streams take too.
    Step(Arc<Step>),
    /// These, without duplicates.
    Some(Box<[Resource]>),
}

impl Contents {
    /// The resources one by one, unless they are a whole layer.
    pub fn listed(&self) -> &[Resource] {
        match self {
            Self::Whole(_) => &[],
            Self::Step(step) => &step.upserts,
            Self::Some(resources) => resources,
        }
    }
}

/// What is known about one type on a stream, for the debug pages.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Progress {
    /// The type.
    pub ty: ResourceType,
    /// The number of the latest response.
    pub sent: Option<u64>,
    /// The number of the response that the client acknowledged last.
    pub acked: Option<u64>,
    /// Why the client rejected the latest response, if it did.
    pub error: Option<Arc<str>>,
    /// The revision the client has been brought to.
    pub revision: Option<u64>,
}

impl Stream {
    /// A stream on which nothing was said yet. `salt` should differ between
    /// streams, so that a nonce of an earlier one is recognised as stale.
    pub fn new(variant: Variant, salt: u64) -> Self {
        let nonce = Nonce { salt, number: 0 };
        Self { variant, node: None, scope: None, subscriptions: Vec::new(), secrets: None, nonce }
    }

    /// The client, once its first request has arrived.
    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// Whose configuration the client is sent, once its first request has
    /// arrived.
    pub fn scope(&self) -> Option<&Scope> {
        self.scope.as_ref()
    }

    /// What has been sent and acknowledged, by type.
    pub fn progress(&self) -> impl Iterator<Item = Progress> {
        self.subscriptions.iter().map(Subscription::progress)
    }

    /// Whether the client has and has judged all that it is to be told as of
    /// these views.
    pub fn is_settled(&self, newest: &Arc<Views>) -> bool {
        let settled = |one: &Subscription| one.is_at(self.newest(one.ty, newest)) && !one.is_outstanding();
        newest.knows(self.scope.as_ref()) && self.subscriptions.iter().all(settled)
    }

    /// A nonce for something that no subscription is answered with.
    pub fn own_nonce(&mut self) -> Nonce {
        self.nonce.number += 1;
        self.nonce
    }

    /// Whether a nonce is of this stream.
    pub fn is_own_nonce(&self, text: &str) -> bool {
        Nonce::parse(text).is_some_and(|nonce| nonce.salt == self.nonce.salt)
    }

    /// What the client makes of the latest response of a type.
    pub fn verdict(&self, ty: ResourceType, error: Option<Arc<str>>) -> Option<Verdict> {
        let subscription = self.subscriptions.iter().find(|subscription| subscription.ty == ty)?;
        let (accepted, sent, blank) = subscription.exchange()?;
        let proxy = self.node.as_ref()?.name.clone();
        Some(Verdict { scope: self.scope.clone(), proxy, ty, error, accepted, sent, blank })
    }

    /// The next response, if anything is due and may be sent now. To be asked
    /// again until it returns `None`.
    pub fn next(&mut self, newest: &Arc<Views>) -> Option<Response> {
        // By far the most frequent question, after each acknowledgement.
        if self.subscriptions.iter().all(|subscription| subscription.is_at(self.newest(subscription.ty, newest))) {
            return None;
        }
        // Somebody works it out.
        if !newest.knows(self.scope.as_ref()) {
            return None;
        }
        loop {
            let mut advanced = false;
            // What the types of the current rank, and those after it, may see;
            // nothing at all if one they refer to has not been accepted yet.
            let (mut ceiling, mut higher_ceiling) = (Some(newest.clone()), Some(newest.clone()));
            let mut place = (Family::Ambient, 0);
            for at in 0..self.subscriptions.len() {
                let ty = self.subscriptions[at].ty;
                if ty.family() != place.0 {
                    higher_ceiling = Some(self.newest(ty, newest).clone());
                }
                if (ty.family(), ty.rank()) != place {
                    place = (ty.family(), ty.rank());
                    ceiling = higher_ceiling.clone();
                }
                let Some(ceiling) = &ceiling else { continue };
                let floor = self.floor(ty);
                let subscription = &mut self.subscriptions[at];
                match subscription.step(self.variant, self.scope.as_ref(), ceiling, &floor) {
                    Outcome::Idle => {}
                    Outcome::Advanced => advanced = true,
                    Outcome::Blocked(reached) => higher_ceiling = older(higher_ceiling, reached),
                    Outcome::Send(answer) => return Some(self.response(at, answer)),
                }
                if let Some(leader) = ty.follows() {
                    let covered = self.covered(at, leader, ceiling);
                    higher_ceiling = older(higher_ceiling, covered);
                }
            }
            // A type that had nothing to send may still have reached a view
            // that lets the removals of a lower rank go.
            if !advanced {
                return None;
            }
        }
    }

    /// The newest view that a type is served from: secrets have their own.
    fn newest<'a>(&'a self, ty: ResourceType, shared: &'a Arc<Views>) -> &'a Arc<Views> {
        match (&self.secrets, ty) {
            (Some(secrets), ResourceType::Secret) => &secrets.views,
            _ => shared,
        }
    }

    /// The newest view, `ceiling` at most, for which the client has asked for
    /// everything that the resources of `leader` need. It does so when it was
    /// sent those, unless it rejected one.
    fn covered(&mut self, at: usize, leader: ResourceType, ceiling: &Arc<Views>) -> Option<Arc<Views>> {
        let leader = self.subscriptions.iter().find(|subscription| subscription.ty == leader);
        if leader.is_none_or(|leader| !leader.wildcard() || leader.error().is_some()) {
            return Some(ceiling.clone());
        }
        self.subscriptions[at].covered(self.scope.as_ref(), ceiling)
    }

    /// Where the types of the family that may refer to `ty` are.
    fn floor(&self, ty: ResourceType) -> Floor {
        let mut floor = Floor { shut: false, views: SmallVec::new(), scope: self.scope.clone() };
        let refers = |other: ResourceType| other.family() == ty.family() && other.rank() > ty.rank();
        for higher in self.subscriptions.iter().filter(|subscription| refers(subscription.ty)) {
            for views in higher.at() {
                match views {
                    Some(views) if floor.views.iter().any(|known| known.revision == views.revision) => {}
                    Some(views) => floor.views.push(views.clone()),
                    None => floor.shut = true,
                }
            }
        }
        floor
    }

    fn response(&mut self, at: usize, answer: Answer) -> Response {
        let nonce = self.own_nonce();
        let subscription = &mut self.subscriptions[at];
        let first = subscription.nonce.replace(nonce).is_none();
        let framing = match self.variant {
            Variant::Sotw => Framing::Sotw,
            // Aliases tell an on-demand client which of its keys this answers;
            // a wildcard client has no keys, and nothing of Envoy's has aliases.
            Variant::Delta if subscription.wildcard() || subscription.ty.family() != Family::Ambient => Framing::Delta,
            Variant::Delta => Framing::DeltaWithAliases,
        };
        let Answer { views, mut contents, removed } = answer;
        let ty = subscription.ty;
        if let (ResourceType::Secret, Some(secrets)) = (ty, &self.secrets) {
            contents = secrets.opened(&contents);
        }
        if let Some(follower) = self.subscriptions.iter_mut().find(|other| other.ty.follows() == Some(ty)) {
            follower.repeat(&contents);
        }
        Response { ty, framing, nonce, views, first, contents, removed }
    }

    /// Every stream must begin with the node; later requests may repeat it,
    /// but a stream cannot become another client's.
    fn identify(&mut self, node: Option<&WireNode>) -> Result<(), Status> {
        match (&self.node, node) {
            (None, None) => Err(Status::invalid_argument("the first request has no node")),
            (None, Some(node)) => {
                let node = Node::parse(node)?;
                self.scope = Scope::of(&node);
                self.node = Some(node);
                Ok(())
            }
            (Some(known), Some(node)) if *known.id != *node.id => {
                Err(Status::invalid_argument("the node id changed within the stream"))
            }
            (Some(_), _) => Ok(()),
        }
    }

    /// The type of a request, if this client is served it.
    fn served(&self, type_url: &str) -> Option<ResourceType> {
        let ty = ResourceType::from_type_url(type_url)?;
        (ty.family() == Family::Ambient || self.scope.is_some()).then_some(ty)
    }

    /// The subscription of a type, and whether this request begins it.
    fn subscription(&mut self, ty: ResourceType) -> (&mut Subscription, bool) {
        let at = self.subscriptions.partition_point(|subscription| subscription.ty < ty);
        let begins = self.subscriptions.get(at).is_none_or(|subscription| subscription.ty != ty);
        if begins {
            let local = match &self.node {
                // Unasked resources are an idea of on-demand ztunnels alone.
                Some(node) if node.kind == NodeKind::Ztunnel && self.variant == Variant::Delta && ty.node_local() => {
                    node.node_name.clone()
                }
                _ => None,
            };
            // Few types, many streams: no room for types that never come.
            self.subscriptions.reserve_exact(1);
            self.subscriptions.insert(at, Subscription::new(ty, local));
        }
        (&mut self.subscriptions[at], begins)
    }
}

/// Where the types of higher rank are: the views whose resources the client may
/// still hold, and which may refer to what is about to be removed.
#[derive(Clone, Debug)]
struct Floor {
    /// Whether one of them has not been sent at all.
    shut: bool,
    views: SmallVec<[Arc<Views>; 2]>,
    scope: Option<Scope>,
}

impl Floor {
    /// Whether nothing the client holds can refer to a resource.
    fn confirms(&self, ty: ResourceType, gone: &str) -> bool {
        !self.shut && !self.views.iter().any(|views| views.layer(ty, self.scope.as_ref()).contains(gone))
    }

    /// How far a type is complete once it has been brought to `views` and has
    /// removed all that is confirmed.
    fn complete(&self, views: &Arc<Views>) -> Option<Arc<Views>> {
        let oldest = |a: Arc<Views>, b: Arc<Views>| if b.revision < a.revision { b } else { a };
        (!self.shut).then(|| self.views.iter().cloned().fold(views.clone(), oldest))
    }
}

/// The older of two views; nothing is older than any.
fn older(a: Option<Arc<Views>>, b: Option<Arc<Views>>) -> Option<Arc<Views>> {
    let (a, b) = (a?, b?);
    Some(if b.revision < a.revision { b } else { a })
}

#[cfg(test)]
pub(super) mod tests;
