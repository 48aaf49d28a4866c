//! The incremental variant: requests carry changes of the subscription.

use tonic::Status;

use super::{Received, Stream};
use crate::xds::codec::request::DeltaRequest;
use crate::xds::resource::ResourceType;

impl Stream {
    /// Applies a `DeltaDiscoveryRequest`. An error ends the stream.
    pub fn on_delta_request(&mut self, request: DeltaRequest) -> Result<Received, Status> {
        self.identify(request.node.as_ref())?;
        let Some(ty) = self.served(&request.type_url) else {
            return Ok(Received::UnknownType(request.type_url));
        };
        let (subscription, begins) = self.subscription(ty);
        // The specification has changes honoured whatever the nonce says; only
        // the acknowledgement can be stale.
        let reply = subscription.reply(&request.response_nonce, request.rejection);

        // A first request without names is a wildcard for historical reasons.
        // Later ones are not: then the client just has nothing to add.
        if begins && request.subscribe.is_empty() {
            subscription.subscribe_wildcard();
        }
        let mut secrets = Vec::new();
        for name in request.subscribe {
            match &*name {
                "*" => subscription.subscribe_wildcard(),
                // Answered when it is known whether there is one.
                _ if ty == ResourceType::Secret => secrets.push(name),
                _ => subscription.subscribe(name)?,
            }
        }
        if !request.unsubscribe.is_empty() {
            let wildcard = request.unsubscribe.iter().any(|name| **name == *"*");
            subscription.unsubscribe(&request.unsubscribe, wildcard);
        }
        if begins {
            if let Some(versions) = request.initial_versions {
                subscription.resume(versions)?;
            }
            // A client is not ready before it got one response of each type it
            // wants; one that wants nothing yet is not waiting.
            if !subscription.is_empty() {
                subscription.answer();
            }
        }
        if ty == ResourceType::Secret {
            self.ask_for_secrets(secrets, &request.unsubscribe)?;
        }
        Ok(Received::Request { ty, reply })
    }
}
