//! Secrets on a stream: what the caller may have of what it asks for.
//!
//! A subscription moves through views, and the views of secrets are its own:
//! names and versions, worked out for this caller. What is in a secret is looked
//! up in the vault when a response is made, and not remembered. A name that
//! nobody can answer yet is kept back until somebody can, so that a listener is
//! not told that there is no certificate while it is being fetched.

use std::collections::BTreeSet;
use std::sync::Arc;

use tonic::Status;

use super::subscription::MAX_NAMES;
use super::{Contents, Stream, Variant};
use crate::ca::identity::SpiffeId;
use crate::credential::{Asked, Part, Place, Scheme, Want};
use crate::xds::resource::{Resource, ResourceType};
use crate::xds::secret::{Answer, Vault};
use crate::xds::view::{Edits, Layer, Views};

/// How many names a client may ask for without a word on whether it may: whom
/// it trusts by Secrets of its own namespace. Each has us look at two objects.
/// All other names are looked at only if an object refers to them, or if the
/// client may read Secrets by itself.
const MOST_UNREVIEWED: usize = 1000;

/// What a stream knows of the secrets that it asks for.
#[derive(Debug)]
pub(super) struct Secrets {
    /// Names and versions, with a revision that counts their changes.
    pub(super) views: Arc<Views>,
    layer: Layer,
    /// Names that were not answered yet.
    awaited: BTreeSet<Arc<str>>,
    /// Whether names have come or gone since `renew`.
    renamed: bool,
    vault: Arc<Vault>,
    caller: Option<SpiffeId>,
}

/// What came of a look into the vault.
#[derive(Debug, Default)]
pub struct Renewed {
    /// What has to be looked at for this stream, if that may have changed.
    pub wants: Option<BTreeSet<Want>>,
    /// Names that the caller may not have, and why not.
    pub denied: Vec<(Arc<str>, &'static str)>,
}

impl Secrets {
    fn new() -> Self {
        let (layer, vault) = (Layer::default(), Arc::default());
        let views = Arc::new(Views::of_secrets(0, layer.clone()));
        Self { views, layer, awaited: BTreeSet::new(), renamed: true, vault, caller: None }
    }

    /// The secrets themselves, for what lists their names and versions. One that
    /// the caller may not have any more is left out.
    pub(super) fn opened(&self, contents: &Contents) -> Contents {
        let open = |outline: &Resource| self.vault.resource(self.caller.as_ref(), outline.name());
        let opened: Box<[_]> = match contents {
            Contents::Whole(layer) => layer.iter().filter_map(|outline| open(&outline)).collect(),
            Contents::Step(_) | Contents::Some(_) => contents.listed().iter().filter_map(open).collect(),
        };
        Contents::Some(opened)
    }
}

impl Stream {
    /// Whether the client asks for secrets.
    pub fn asks_for_secrets(&self) -> bool {
        self.secrets.is_some()
    }

    /// Notes names that the client begins and ceases to ask for.
    pub(super) fn ask_for_secrets(&mut self, new: Vec<Arc<str>>, gone: &[Arc<str>]) -> Result<(), Status> {
        let secrets = self.secrets.get_or_insert_with(|| Box::new(Secrets::new()));
        secrets.renamed |= !new.is_empty() || !gone.is_empty();
        gone.iter().for_each(|name| _ = secrets.awaited.remove(name));
        secrets.awaited.extend(new);
        let answered = self.subscriptions.iter().find(|one| one.ty == ResourceType::Secret);
        let answered = || answered.into_iter().flat_map(|one| one.names().iter());
        let all = || secrets.awaited.iter().chain(answered().filter(|name| !secrets.awaited.contains(*name)));
        if all().count() > MAX_NAMES || all().filter(|name| is_unreviewed(name)).count() > MOST_UNREVIEWED {
            return Err(Status::resource_exhausted("too many secrets on one stream"));
        }
        Ok(())
    }

    /// Looks up what the client asks for, as `caller`, which is none if it has
    /// not proved who it is.
    pub fn renew_secrets(&mut self, vault: &Arc<Vault>, caller: Option<&SpiffeId>) -> Renewed {
        let mut renewed = Renewed::default();
        let Some(secrets) = &mut self.secrets else { return renewed };
        let Some(subscription) = self.subscriptions.iter_mut().find(|one| one.ty == ResourceType::Secret) else {
            return renewed;
        };
        if Arc::ptr_eq(vault, &secrets.vault) && !secrets.renamed {
            return renewed;
        }
        let known = |name: &Arc<str>| subscription.names().contains(name);
        let mut names: BTreeSet<Arc<str>> = secrets.awaited.clone();
        let anew = secrets.renamed || secrets.vault.accounts != vault.accounts;
        if anew {
            names.extend(subscription.names().iter().cloned());
        } else {
            // Only what has changed, as every stream does this for every change.
            let changed = secrets.vault.items.diff(&vault.items).flat_map(|change| place(&change).names());
            names.extend(changed.map(Arc::from).filter(known));
        }
        let mut edits = Edits::default();
        let mut answered = Vec::new();
        for name in names {
            let answer = vault.look(caller, &name);
            match answer {
                Answer::Wait => {
                    // What the client holds from an earlier stream is not taken
                    // away on doubt.
                    if let Some(held) = subscription.held(&name).filter(|_| secrets.layer.get(&name).is_none()) {
                        edits.upsert(Resource::of_version(ResourceType::Secret, &name, held, b""));
                    }
                    continue;
                }
                Answer::There(version) => {
                    if secrets.layer.get(&name).is_none_or(|old| old.version() != version) {
                        edits.upsert(Resource::of_version(ResourceType::Secret, &name, version, b""));
                    }
                }
                Answer::Nothing(why) => {
                    edits.remove(&name);
                    renewed
                        .denied
                        .extend(why.filter(|_| secrets.awaited.contains(&name)).map(|why| (name.clone(), why)));
                }
            }
            if secrets.awaited.remove(&name) {
                answered.push(name);
            }
        }
        if secrets.renamed {
            let gone = secrets.layer.iter().filter(|outline| !subscription.names().contains(outline.name()));
            let gone: Vec<_> = gone.filter(|outline| !answered.iter().any(|name| **name == *outline.name())).collect();
            gone.iter().for_each(|outline| edits.remove(outline.name()));
        }
        if secrets.layer.apply(edits) {
            secrets.views = Arc::new(Views::of_secrets(secrets.views.revision + 1, secrets.layer.clone()));
        }
        for name in answered {
            // More than the most are not answered; there are as many waiting.
            let _ = match self.variant {
                Variant::Delta => subscription.subscribe(name),
                Variant::Sotw => subscription.follow(name),
            };
        }
        if anew {
            let asked = subscription.names().iter().chain(&secrets.awaited);
            renewed.wants = Some(asked.flat_map(|name| vault.wants(caller, name)).collect());
        }
        (secrets.vault, secrets.caller, secrets.renamed) = (vault.clone(), caller.cloned(), false);
        renewed
    }
}

/// Whether a name is looked at for whoever asks.
fn is_unreviewed(name: &str) -> bool {
    let asked = Asked::parse(name, "any");
    asked.is_some_and(|asked| (asked.scheme, asked.part) == (Scheme::Kubernetes, Part::Authority))
}

fn place<'a, V>(change: &imbl::ordmap::DiffItem<'a, 'a, Place, V>) -> &'a Place {
    match change {
        imbl::ordmap::DiffItem::Add(place, _) | imbl::ordmap::DiffItem::Remove(place, _) => place,
        imbl::ordmap::DiffItem::Update { new: (place, _), .. } => place,
    }
}
