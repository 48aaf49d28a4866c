//! What can go wrong between us and the API server.

use std::time::Duration;

use serde::Deserialize;

/// Why a list or watch did not work. None of these withdraws anything.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There is no connection, or it broke.
    #[error("the API server cannot be reached: {0}")]
    Unreachable(String),
    /// The API server does not do what it is asked.
    #[error("the API server answers {code}: {message}")]
    Refused {
        /// The HTTP status, also of errors inside a watch.
        code: u16,
        /// What it says.
        message: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// The version to continue from is no longer known: list again.
    #[error("the API server has forgotten version {0}")]
    Expired(u64),
    /// The API server is at an older version than it was.
    #[error(
        "the API server is at version {newest}, and was at {seen} before; nothing is believed of it until it has caught up"
    )]
    Past {
        /// Where it is.
        newest: u64,
        /// Where it was.
        seen: u64,
    },
    /// A list lacks nearly all that was there.
    #[error(
        "a list lacks {missing} of the {known} objects that were there; nothing is taken away before it has said so for {} s", wait.as_secs()
    )]
    Lost {
        /// How many are not in the list.
        missing: usize,
        /// How many were known.
        known: usize,
        /// How long it must say so.
        wait: Duration,
    },
    /// The connection is there, but nothing comes.
    #[error("nothing was heard from the API server for {} s", .0.as_secs())]
    Silent(Duration),
    /// A watch that ends as soon as it begins.
    #[error("the watch ends at once")]
    Ended,
    /// The answer is not what the protocol says.
    #[error("the answer cannot be read: {0}")]
    Garbled(String),
}

/// What the API server says when it does not do what it is asked, as the body
/// of an answer or inside a watch that began with status 200.
/// <https://kubernetes.io/docs/reference/using-api/api-concepts/>
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    code: u16,
    message: Option<String>,
    details: Option<Details>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Details {
    retry_after_seconds: Option<u32>,
}

impl Status {
    /// Reads the status in an answer. Anything between us and the API server
    /// may answer too, and in any format; the text is the message then.
    pub fn read(code: u16, text: &str) -> Self {
        let status = serde_json::from_str(text)
            .unwrap_or_else(|_| Self { message: Some(text.trim().chars().take(200).collect()), ..Self::default() });
        Self { code, ..status }
    }

    /// As a failure of something that began at a version.
    pub fn failure(self, version: u64) -> Failure {
        let seconds = self.details.and_then(|details| details.retry_after_seconds);
        match self.code {
            410 => Failure::Expired(version),
            code => Failure::Refused {
                code,
                message: self.message.unwrap_or_default(),
                retry_after: seconds.map(|seconds| Duration::from_secs(seconds.into())),
            },
        }
    }
}

impl Failure {
    /// An error of the connection, with all its causes.
    pub fn unreachable(error: impl Into<anyhow::Error>) -> Self {
        Self::Unreachable(format!("{:#}", error.into()))
    }

    /// When the API server wants to be asked again, within reason.
    pub fn retry_after(&self) -> Duration {
        match self {
            Self::Refused { retry_after: Some(after), .. } => (*after).min(Duration::from_secs(60)),
            _ => Duration::ZERO,
        }
    }
}
