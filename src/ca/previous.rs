//! What a change of the root has to know after a restart: the issuer that still
//! signs while the new root is being told, and then when it stopped.
//!
//! It is kept in a Secret beside the one with the new key, or in the state
//! directory, for as long as the change takes. The key leaves it as soon as the
//! new issuer signs.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::PathBuf;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};

use super::files::{self, CaFiles};
use super::handover::Pace;
use super::root_store::{StoreError, private_dir, private_file};

/// The name of the Secret.
const NAME: &str = "fairway-ca-previous";
/// The name of the file in the state directory.
const FILE: &str = "ca-previous.json";
const SECRET_TYPE: &str = "fairway.istio.io/ca-previous";
/// Tells the root of the issuer that follows from others.
const NEXT: &str = "next";
const STAGED: &str = "staged";
const SIGNED: &str = "signed";
const UNTIL: &str = "until";
const ENDS: &str = "ends";
/// How much later certificates may end than is noted.
const COARSE: SignedDuration = SignedDuration::from_mins(10);

/// The issuer before the newest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Previous {
    /// Tells the root of the newest issuer from others.
    pub next: String,
    /// What is known of the one before.
    pub state: State,
    /// When the step that is under way ends.
    pub until: Timestamp,
    /// When the last certificate ends that was issued until now.
    pub ends: Timestamp,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It signs, and the new root is told since a time.
    Signs(CaFiles, Timestamp),
    /// Its root, and when it stopped.
    Signed(Bytes, Timestamp),
}

impl Previous {
    fn step(&self) -> (&str, bool) {
        (&self.next, self.signs())
    }

    /// Whether it is an issuer that goes on, and not only a root that is still told.
    pub fn signs(&self) -> bool {
        matches!(self.state, State::Signs(..))
    }

    /// From when on nobody needs it any more.
    pub fn over(&self, pace: Pace) -> Timestamp {
        let (State::Signs(_, since) | State::Signed(_, since)) = self.state;
        pace.after(since).max(self.until).max(self.ends)
    }

    /// What two replicas know, of which `self` came first; nothing if that is no
    /// more.
    fn with(&self, other: &Self) -> Option<Self> {
        let grown = other.until > self.until || other.ends > self.ends.saturating_add(COARSE).unwrap_or(Timestamp::MAX);
        let (until, ends) = (self.until.max(other.until), self.ends.max(other.ends));
        grown.then(|| Self { until, ends, ..self.clone() })
    }

    fn entries(&self) -> BTreeMap<String, Bytes> {
        let mut entries = match &self.state {
            State::Signs(files, staged) => [
                (files::CA_CERT, files.cert.clone()),
                (files::CA_KEY, files.key.clone()),
                (files::CERT_CHAIN, files.chain.clone()),
                (files::ROOT_CERT, files.root.clone()),
                (STAGED, staged.to_string().into()),
            ]
            .to_vec(),
            State::Signed(root, at) => vec![(files::ROOT_CERT, root.clone()), (SIGNED, at.to_string().into())],
        };
        entries.push((NEXT, self.next.clone().into()));
        entries.push((UNTIL, self.until.to_string().into()));
        entries.push((ENDS, self.ends.to_string().into()));
        entries.into_iter().map(|(name, content)| (name.to_owned(), content)).collect()
    }

    /// `None` where there is nothing, or nothing that can be made sense of: then
    /// nothing is known.
    fn from_entries(entries: &BTreeMap<String, Bytes>) -> Option<Self> {
        let text = |name: &str| entries.get(name).and_then(|content| std::str::from_utf8(content).ok());
        let content = |name: &str| entries.get(name).cloned().unwrap_or_default();
        let time = |name: &str| text(name).and_then(|text| text.parse::<Timestamp>().ok());
        let state = match (time(STAGED), time(SIGNED)) {
            (Some(staged), _) => {
                let (cert, key, root) = (content(files::CA_CERT), content(files::CA_KEY), content(files::ROOT_CERT));
                State::Signs(CaFiles { cert, key, chain: content(files::CERT_CHAIN), root, crl: None }, staged)
            }
            (None, Some(signed)) => State::Signed(content(files::ROOT_CERT), signed),
            (None, None) => return None,
        };
        let [until, ends] = [UNTIL, ENDS].map(|name| time(name).unwrap_or(Timestamp::MIN));
        Some(Self { next: text(NEXT)?.to_owned(), state, until, ends })
    }
}

/// Where it is kept.
pub enum PreviousStore {
    /// A Secret of the cluster, in the namespace of the control plane.
    Secret(Box<Api<Secret>>),
    /// The state directory.
    Directory(PathBuf),
}

impl PreviousStore {
    /// What is kept.
    pub async fn load(&self) -> Result<Option<Previous>, StoreError> {
        let entries = match self {
            Self::Secret(secrets) => {
                let secret = secrets.get_opt(NAME).await.map_err(failed("get"))?;
                let data = secret.and_then(|secret| secret.data).unwrap_or_default();
                data.into_iter().map(|(name, content)| (name, content.0.into())).collect()
            }
            Self::Directory(state) => {
                let text = files::read(&state.join(FILE))?.unwrap_or_default();
                let entries: BTreeMap<String, String> = serde_json::from_slice(&text).unwrap_or_default();
                entries.into_iter().map(|(name, content)| (name, content.into())).collect()
            }
        };
        Ok(Previous::from_entries(&entries))
    }

    /// Keeps something else. Of a step that another replica has already noted, only
    /// what ends later.
    pub async fn keep(&self, previous: Option<&Previous>) -> Result<(), StoreError> {
        let entries = match (self.load().await?, previous) {
            (Some(kept), Some(previous)) if kept.step() == previous.step() => match kept.with(previous) {
                Some(both) => both.entries(),
                None => return Ok(()),
            },
            (_, previous) => previous.map(Previous::entries).unwrap_or_default(),
        };
        match self {
            Self::Secret(secrets) => {
                let nothing = entries.is_empty();
                let data = entries.into_iter().map(|(name, content)| (name, ByteString(content.into()))).collect();
                let stored = secrets.get_opt(NAME).await.map_err(failed("get"))?;
                let known = stored.is_some();
                let mut secret = stored.unwrap_or_else(|| Secret {
                    metadata: ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() },
                    type_: Some(SECRET_TYPE.to_owned()),
                    ..Secret::default()
                });
                secret.data = Some(data);
                // Of two replicas that write at the same time the API server
                // refuses one, which has the same to say.
                let written = match known {
                    true => secrets.replace(NAME, &PostParams::default(), &secret).await,
                    false if nothing => return Ok(()),
                    false => secrets.create(&PostParams::default(), &secret).await,
                };
                match written {
                    Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => Ok(()),
                    other => other.map(drop).map_err(failed("write")),
                }
            }
            Self::Directory(state) => {
                let (path, staging) = (state.join(FILE), state.join(format!(".{FILE}")));
                let failed = |verb, path: &PathBuf| {
                    let path = path.clone();
                    move |source| StoreError::Directory { verb, path, source }
                };
                if entries.is_empty() {
                    return match std::fs::remove_file(&path) {
                        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("remove", &path)(error)),
                        _ => Ok(()),
                    };
                }
                let text = |content: &Bytes| String::from_utf8_lossy(content).into_owned();
                let entries: BTreeMap<_, _> = entries.iter().map(|(name, content)| (name, text(content))).collect();
                private_dir(state)?;
                // What a process that was killed has left.
                let _ = std::fs::remove_file(&staging);
                // One file, so that a process may be killed at any moment.
                private_file(&staging, serde_json::json!(entries).to_string().as_bytes())?;
                std::fs::rename(&staging, &path).map_err(failed("replace", &path))
            }
        }
    }
}

fn failed(verb: &'static str) -> impl FnOnce(kube::Error) -> StoreError {
    move |source| StoreError::Api { verb, namespace: String::new(), name: NAME.to_owned(), source: source.into() }
}

#[cfg(test)]
mod tests;
