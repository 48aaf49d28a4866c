//! What may be asked of the graph. Answers are given between commits, so they are
//! of one moment each.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::Writer;
use crate::api::{self, Kind, Meta, ObjectKey};
use crate::graph::{Diagnostic, Dump, Provenance};
use crate::proxy::Scope;
use crate::status;
pub use crate::translation::Registry;
use crate::translation::rejections::RejectedResource;
use crate::xds::resource::ResourceType;

/// A question to the graph, answered between commits.
pub enum Question {
    /// What is there to say about objects?
    Diagnostics(oneshot::Sender<Vec<Diagnostic>>),
    /// Where does this resource come from?
    Provenance(ResourceType, Arc<str>, oneshot::Sender<Option<Provenance>>),
    /// What did the proxies of these scopes reject? Answered for each.
    Rejected(Vec<Option<Scope>>, oneshot::Sender<Vec<Vec<RejectedResource>>>),
    /// What is in force of this object?
    Object(Kind, ObjectKey, oneshot::Sender<InForce>),
    /// Which objects of these kinds are in force?
    Objects(Vec<Kind>, oneshot::Sender<Vec<api::Object>>),
    /// Which services are there, and which gateways to other networks?
    Registry(oneshot::Sender<Registry>),
    /// What is in the collection of this name: in the row of this key, or in so
    /// many rows?
    Rows(String, Option<String>, usize, oneshot::Sender<Option<Dump>>),
}

/// What is in force of an object.
#[derive(Clone, Debug)]
pub struct InForce {
    /// Its metadata; none if it is not there.
    pub meta: Option<Meta>,
    /// The revision of the newest views. What is made of the object is in them.
    pub revision: u64,
}

/// Where questions are asked.
pub type Questions = tokio::sync::mpsc::Sender<Question>;

impl Writer {
    pub(super) fn answer(&self, question: Question) {
        let (translation, graph) = (&self.translation, &self.translation.graph);
        // Whoever asked may have gone.
        match question {
            Question::Diagnostics(answer) => {
                let mut all = graph.diagnostics();
                all.extend(self.rejected.iter().map(|(object, message)| status::diagnostic(object, message)));
                drop(answer.send(all));
            }
            Question::Provenance(ty, name, answer) => drop(answer.send(translation.provenance(ty, &name))),
            Question::Rejected(scopes, answer) => {
                let rejected = scopes.iter().map(|scope| translation.rejected(scope.as_ref()));
                drop(answer.send(rejected.collect()));
            }
            Question::Object(kind, key, answer) => {
                let meta = translation.inputs.meta(graph, kind, &key);
                drop(answer.send(InForce { meta, revision: self.views.borrow().revision }));
            }
            Question::Objects(kinds, answer) => {
                let objects = kinds.into_iter().flat_map(|kind| translation.inputs.objects(graph, kind));
                drop(answer.send(objects.collect()));
            }
            Question::Registry(answer) => drop(answer.send(translation.registry())),
            Question::Rows(collection, key, most, answer) => {
                drop(answer.send(graph.dump(&collection, key.as_deref(), most)));
            }
        }
    }
}
