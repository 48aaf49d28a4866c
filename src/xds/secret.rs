//! Secrets, and who may have them. They are no part of the views that all
//! streams share: there is a [`Vault`] instead, which is asked for one name on
//! behalf of one caller, and cannot be listed.
//!
//! | name | who may have it |
//! |---|---|
//! | `kubernetes://…` | a proxy of the Secret's namespace; a key only if its service account may list the Secrets there |
//! | `kubernetes-gateway://…` | a proxy that serves a Gateway which refers to it and may |
//! | `configmap://…` | anybody in the mesh, if something refers to it |
//!
//! Everybody else, and whoever has not proved who it is over TLS, is told that
//! there is no such secret. CVE-2021-34824 was a cache of secrets that did not
//! ask who was asking; here what is kept for a stream are names and versions,
//! and the secret itself is looked up when it is sent.

#[cfg(test)]
pub(super) mod tests;

use std::fmt;
use std::sync::Arc;

use bytes::BytesMut;

use super::resource::{FIELD_1, Resource, ResourceType, Version, put_field};
use crate::ca::identity::SpiffeId;
use crate::credential::{Account, Asked, Grant, Part, Place, Scheme, Want};

/// What an object holds, which can be asked for its parts and shows nothing.
pub trait Sealed: Send + Sync {
    /// Differs between contents of a part; none if there is nothing that can be
    /// used.
    fn version(&self, part: Part) -> Option<u64>;

    /// A part as the `type` of an `envoy.extensions.transport_sockets.tls.v3.Secret`.
    fn message(&self, part: Part) -> Option<Vec<u8>>;
}

/// What is known of a place.
#[derive(Clone)]
pub enum Content {
    /// Nobody has looked yet.
    Unknown,
    /// There is nothing.
    Missing,
    /// There is something.
    There(Arc<dyn Sealed>),
}

/// A place and who may have what is there.
#[derive(Clone)]
pub struct Item {
    /// What is there.
    pub content: Content,
    /// Who may have it by reference.
    pub grants: Arc<[Grant]>,
    /// Differs between items.
    pub print: u64,
}

impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        self.print == other.print
    }
}

impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let content = match self.content {
            Content::Unknown => "unknown",
            Content::Missing => "missing",
            Content::There(_) => "there",
        };
        f.debug_struct("Item").field("content", &content).field("grants", &self.grants).finish_non_exhaustive()
    }
}

/// Which service accounts may list the Secrets of their namespaces.
#[derive(Clone, Debug, PartialEq)]
pub enum Accounts {
    /// There is nobody to ask: a folder has no accounts.
    All,
    /// These have been asked about.
    Asked(imbl::OrdMap<Account, bool>),
}

/// All secrets that are needed, as of one moment.
#[derive(Clone, Debug)]
pub struct Vault {
    /// Grows with every change.
    pub revision: u64,
    /// What is needed.
    pub items: imbl::OrdMap<Place, Item>,
    /// Who may have Secrets of its own namespace.
    pub accounts: Accounts,
}

impl Default for Vault {
    fn default() -> Self {
        Self { revision: 0, items: imbl::OrdMap::new(), accounts: Accounts::Asked(imbl::OrdMap::new()) }
    }
}

/// What a caller is told of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is not known yet.
    Wait,
    /// There is nothing; if it is not for the caller, this is why.
    Nothing(Option<&'static str>),
    /// There is this version of it.
    There(Version),
}

impl Vault {
    /// What a caller is told of a name.
    pub fn look(&self, caller: Option<&SpiffeId>, name: &str) -> Answer {
        match self.find(caller, name) {
            Ok((sealed, part)) => match sealed.version(part) {
                Some(version) => Answer::There(Version::of(version)),
                None => Answer::Nothing(None),
            },
            Err(answer) => answer,
        }
    }

    /// The secret of a name, for a caller that may have it.
    pub(super) fn resource(&self, caller: Option<&SpiffeId>, name: &str) -> Option<Resource> {
        let (sealed, part) = self.find(caller, name).ok()?;
        let (version, content) = (sealed.version(part)?, sealed.message(part)?);
        let mut message = BytesMut::with_capacity(content.len() + name.len() + 4);
        // `Secret.name`; the rest of the message is what it is.
        put_field(&mut message, FIELD_1, name.as_bytes());
        message.extend_from_slice(&content);
        Some(Resource::of_version(ResourceType::Secret, name, Version::of(version), &message))
    }

    /// What has to be looked at to answer a caller that asks for a name. What
    /// objects refer to is looked at in any case.
    pub(super) fn wants(&self, caller: Option<&SpiffeId>, name: &str) -> Vec<Want> {
        let Some((caller, asked)) = caller.and_then(|caller| Some((caller, Asked::parse(name, &caller.namespace)?)))
        else {
            return Vec::new();
        };
        if asked.scheme != Scheme::Kubernetes || !own(caller, &asked) {
            return Vec::new();
        }
        let account = (asked.part == Part::Certificate).then(|| account(caller));
        // Nothing is read on behalf of one that may not have it.
        let allowed = account.as_ref().is_none_or(|account| self.may_list(account) == Some(true));
        let places = asked.places.into_iter().filter(|_| allowed).map(Want::Place);
        let account = account.filter(|_| self.accounts != Accounts::All).map(Want::Account);
        account.into_iter().chain(places).collect()
    }

    /// Whether everything that is needed has been looked for.
    pub fn is_complete(&self) -> bool {
        !self.items.values().any(|item| matches!(item.content, Content::Unknown))
    }

    fn may_list(&self, account: &Account) -> Option<bool> {
        match &self.accounts {
            Accounts::All => Some(true),
            Accounts::Asked(known) => known.get(account).copied(),
        }
    }

    fn find(&self, caller: Option<&SpiffeId>, name: &str) -> Result<(&dyn Sealed, Part), Answer> {
        let denied = |why| Err(Answer::Nothing(Some(why)));
        let Some(caller) = caller else { return denied("the caller has not proved who it is, over TLS") };
        let Some(asked) = Asked::parse(name, &caller.namespace) else { return Err(Answer::Nothing(None)) };
        let items = || asked.places.iter().filter_map(|place| self.items.get(place));
        let granted = |item: &Item| {
            item.grants.iter().any(|grant| {
                grant.part == asked.part
                    && grant.namespace == caller.namespace
                    && grant.account.as_ref().is_none_or(|account| *account == caller.service_account)
            })
        };
        match asked.scheme {
            Scheme::Kubernetes if !own(caller, &asked) => return denied("it is in another namespace"),
            Scheme::Kubernetes if asked.part == Part::Certificate => match self.may_list(&account(caller)) {
                Some(true) => {}
                Some(false) => return denied("the service account may not list secrets"),
                None => return Err(Answer::Wait),
            },
            Scheme::Kubernetes => {}
            Scheme::Gateway if !items().any(granted) => return denied("no Gateway of the caller may refer to it"),
            Scheme::Gateway => {}
            Scheme::ConfigMap if items().next().is_none() => return denied("nothing refers to it"),
            Scheme::ConfigMap => {}
        }
        for place in &asked.places {
            // What is beside it may be there for somebody else.
            let item = self.items.get(place).filter(|item| asked.scheme != Scheme::Gateway || granted(item));
            match item.map(|item| &item.content) {
                Some(Content::There(sealed)) => return Ok((&**sealed, asked.part)),
                Some(Content::Missing) => {}
                Some(Content::Unknown) => return Err(Answer::Wait),
                // What this proxy asks for is about to be looked at.
                None if asked.scheme == Scheme::Kubernetes => return Err(Answer::Wait),
                None => {}
            }
        }
        Err(Answer::Nothing(None))
    }
}

/// Whether all that is asked for is in the caller's own namespace.
fn own(caller: &SpiffeId, asked: &Asked) -> bool {
    asked.places.iter().all(|place| place.namespace == caller.namespace)
}

fn account(caller: &SpiffeId) -> Account {
    Account { namespace: caller.namespace.clone(), name: caller.service_account.clone() }
}
