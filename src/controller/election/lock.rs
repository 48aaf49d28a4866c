//! What the record of an election is kept in.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::{Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize, Serializer};
use tokio::sync::watch;

use crate::model::revision::{DEFAULT, Revisions};

/// The annotation of a ConfigMap with the record: client-go's.
pub const ANNOTATION: &str = "control-plane.alpha.kubernetes.io/leader";
/// The annotation of a Lease with the revision that holds it: istiod's.
const KEY: &str = "leader.istio.io/holder-key";

/// What is locked, by the name and in the kind of object that istiod has for it.
///
/// The revisions of a mesh share most locks. Whoever holds one keeps it, but the
/// default revision takes it from others.
/// <https://github.com/istio/istio/blob/master/pilot/pkg/leaderelection/leaderelection.go>
#[derive(Clone)]
pub struct Lock {
    name: String,
    pub(super) kind: Kind,
    /// Our revision, and which one is the default, if several share the lock.
    shared: Option<watch::Receiver<Arc<Revisions>>>,
}

#[derive(Clone, Copy)]
pub(super) enum Kind {
    Lease,
    ConfigMap,
}

impl Lock {
    /// What the object is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A Lease of each revision, whose name ends with that of the revision.
    pub fn of_revision(name: &str, revisions: watch::Receiver<Arc<Revisions>>) -> Self {
        let name = format!("{name}-{}", revisions.borrow().name());
        Self { name, kind: Kind::Lease, shared: None }
    }

    /// A Lease that all revisions share.
    pub fn lease(name: &str, revisions: watch::Receiver<Arc<Revisions>>) -> Self {
        Self { name: name.into(), kind: Kind::Lease, shared: Some(revisions) }
    }

    /// A ConfigMap that all revisions share, as istiod has them for what it did
    /// before there were Leases.
    pub fn config_map(name: &str, revisions: watch::Receiver<Arc<Revisions>>) -> Self {
        Self { name: name.into(), kind: Kind::ConfigMap, shared: Some(revisions) }
    }

    /// The same, but with a name of its own for each revision that has a name: for
    /// what each does for its own objects only, so that none waits for another's
    /// leader.
    pub fn apart(self) -> Self {
        let revision = self.shared.as_ref().map(|revisions| revisions.borrow().name().to_owned());
        match revision {
            Some(revision) if revision != DEFAULT => {
                Self { name: format!("{}-{revision}", self.name), kind: self.kind, shared: None }
            }
            _ => self,
        }
    }

    /// What is noted of whoever holds it: its revision, if others may.
    pub(super) fn key(&self) -> String {
        self.shared.as_ref().map(|revisions| revisions.borrow().name().to_owned()).unwrap_or_default()
    }

    /// Whether another revision may take the lock while we hold it: the default one.
    pub(super) fn may_be_taken(&self) -> bool {
        self.shared.as_ref().is_some_and(|revisions| !revisions.borrow().is_default())
    }

    /// Whether the revision of a holder has to leave the lock to ours. One that
    /// does not say which it is has not, unlike in istiod.
    pub(super) fn precedes(&self, key: &str) -> bool {
        let precedes = |revisions: &Revisions| revisions.is_default() && key != revisions.name();
        !key.is_empty() && self.shared.as_ref().is_some_and(|revisions| precedes(&revisions.borrow()))
    }
}

/// Who leads, as the annotation of a ConfigMap says it.
/// <https://pkg.go.dev/k8s.io/client-go/tools/leaderelection/resourcelock#LeaderElectionRecord>
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Record {
    /// Empty: nobody.
    pub(super) holder_identity: String,
    /// The revision of the holder, in locks that several share.
    pub(super) holder_key: String,
    pub(super) lease_duration_seconds: i32,
    #[serde(serialize_with = "seconds")]
    pub(super) acquire_time: Option<Timestamp>,
    #[serde(serialize_with = "seconds")]
    pub(super) renew_time: Option<Timestamp>,
    pub(super) leader_transitions: i32,
}

/// Go writes no parts of seconds here.
fn seconds<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    time.and_then(|time| Timestamp::from_second(time.as_second()).ok()).serialize(serializer)
}

/// An object with the record of an election.
pub(super) trait Holds:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Default
    + fmt::Debug
    + Serialize
    + DeserializeOwned
    + 'static
{
    /// What it says; nobody leads if it says nothing.
    ///
    /// # Errors
    ///
    /// If what it says is no record: whoever wrote that may lead.
    fn record(&self) -> Result<Record, kube::Error>;

    /// Has it say a record, and leaves all else as it is.
    fn enter(&mut self, record: &Record) -> Result<(), kube::Error>;
}

impl Holds for Lease {
    fn record(&self) -> Result<Record, kube::Error> {
        let spec = self.spec.clone().unwrap_or_default();
        Ok(Record {
            holder_identity: spec.holder_identity.unwrap_or_default(),
            holder_key: self.annotations().get(KEY).cloned().unwrap_or_default(),
            lease_duration_seconds: spec.lease_duration_seconds.unwrap_or_default(),
            acquire_time: spec.acquire_time.map(|time| time.0),
            renew_time: spec.renew_time.map(|time| time.0),
            leader_transitions: spec.lease_transitions.unwrap_or_default(),
        })
    }

    fn enter(&mut self, record: &Record) -> Result<(), kube::Error> {
        if record.holder_key.is_empty() {
            self.annotations_mut().remove(KEY);
        } else {
            self.annotations_mut().insert(KEY.into(), record.holder_key.clone());
        }
        self.spec = Some(LeaseSpec {
            holder_identity: Some(record.holder_identity.clone()),
            lease_duration_seconds: Some(record.lease_duration_seconds),
            acquire_time: record.acquire_time.map(MicroTime),
            renew_time: record.renew_time.map(MicroTime),
            lease_transitions: Some(record.leader_transitions),
            ..LeaseSpec::default()
        });
        Ok(())
    }
}

impl Holds for ConfigMap {
    fn record(&self) -> Result<Record, kube::Error> {
        let Some(text) = self.annotations().get(ANNOTATION) else { return Ok(Record::default()) };
        serde_json::from_str(text).map_err(kube::Error::SerdeError)
    }

    fn enter(&mut self, record: &Record) -> Result<(), kube::Error> {
        let text = serde_json::to_string(record).map_err(kube::Error::SerdeError)?;
        self.annotations_mut().insert(ANNOTATION.into(), text);
        Ok(())
    }
}
