//! What a transform says about an object besides its rows. Diagnostics are
//! output like any other: they come and go with the row that made them.

use std::sync::Arc;

/// The object a diagnostic is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    /// The object's kind, such as `AuthorizationPolicy`.
    pub kind: &'static str,
    /// Its namespace; empty for cluster-scoped kinds.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// How much of the object is affected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Legal, but probably not what was meant.
    Warning,
    /// Part of the object, or all of it, has no effect.
    Error,
}

/// A finding about one field of one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Diagnostic {
    /// The object.
    pub subject: Subject,
    /// The field, as a path such as `spec.rules[0].to[1].operation.methods`.
    pub field: String,
    /// How bad it is.
    pub severity: Severity,
    /// A CamelCase reason, fit for a status condition.
    pub reason: &'static str,
    /// What is wrong and what happens instead, for a person.
    pub message: String,
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.namespace.is_empty() {
            true => write!(f, "{} {}", self.kind, self.name),
            false => write!(f, "{} {}/{}", self.kind, self.namespace, self.name),
        }
    }
}

impl std::fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}: {} ({})", self.subject, self.field, self.message, self.reason)
    }
}
