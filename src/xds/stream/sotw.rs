//! The state-of-the-world variant: requests carry the whole subscription, and
//! responses everything subscribed to.

use std::collections::BTreeSet;
use std::sync::Arc;

use tonic::Status;

use super::{Received, Reply, Stream};
use crate::xds::codec::request::SotwRequest;

impl Stream {
    /// Applies a `DiscoveryRequest`. An error ends the stream.
    pub fn on_sotw_request(&mut self, request: SotwRequest) -> Result<Received, Status> {
        self.identify(request.node.as_ref())?;
        let Some(ty) = self.served(&request.type_url) else {
            return Ok(Received::UnknownType(request.type_url));
        };
        let (subscription, begins) = self.subscription(ty);
        let reply = subscription.reply(&request.response_nonce, request.rejection);
        if reply == Reply::Stale {
            return Ok(Received::Request { ty, reply });
        }

        let mut names: BTreeSet<Arc<str>> = request.resource_names.into_iter().collect();
        // No names mean everything only until the client has named something;
        // after that they mean nothing.
        let explicit = subscription.explicit(!names.is_empty());
        let wildcard = names.remove("*") || (names.is_empty() && !explicit);
        let gone: Vec<_> = subscription.names().difference(&names).cloned().collect();
        let new: Vec<_> = names.difference(subscription.names()).cloned().collect();
        let changed = !gone.is_empty() || !new.is_empty() || wildcard != subscription.wildcard();
        for name in new {
            subscription.follow(name)?;
        }
        if wildcard && !subscription.wildcard() {
            subscription.subscribe_wildcard();
        }
        subscription.unsubscribe(&gone, !wildcard);
        if begins && request.holds {
            subscription.goes_on();
        }
        if begins || (changed && !subscription.is_empty()) {
            subscription.answer();
        }
        Ok(Received::Request { ty, reply })
    }
}
