//! What is known about an image.
#![allow(clippy::zero_sized_map_values, reason = "in the documents, sets are objects")]

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::reference::{Reference, is_hexadecimal};

/// The id of an image: the SHA-256 of its configuration. Displays as `sha256:` and 64 digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageId(String);

impl ImageId {
    /// Parses 64 lower-case hexadecimal digits, with `sha256:` before them or without.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        is_hexadecimal(digits, 64).then(|| Self(digits.to_owned()))
    }

    /// The 64 digits.
    pub fn digits(&self) -> &str {
        &self.0
    }

    /// The first twelve digits, as lists show them.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl TryFrom<String> for ImageId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or(text)
    }
}

impl From<ImageId> for String {
    fn from(id: ImageId) -> Self {
        id.to_string()
    }
}

/// An image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Its id.
    pub id: ImageId,
    /// Its tags, sorted.
    #[serde(skip)]
    pub tags: Vec<Reference>,
    /// When it was made, RFC 3339; the year 1 if it does not say.
    pub created: String,
    /// What its root file system takes on disk, in bytes.
    pub size: u64,
    /// How to run it.
    pub config: ImageConfig,
    /// `amd64`.
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// The digests of its layers, uncompressed, the lowest first: `sha256:` and 64 digits.
    pub layers: Vec<String>,
    /// Who made it, if it says.
    pub author: String,
    /// What was said when it was made.
    pub comment: String,
    /// How it was made, the first step first.
    #[serde(default)]
    pub history: Vec<History>,
}

impl Image {
    /// When it was made, in seconds since 1970, negative before.
    pub fn created_seconds(&self) -> i64 {
        OffsetDateTime::parse(&self.created, &Rfc3339).map_or(0, OffsetDateTime::unix_timestamp)
    }
}

/// How to run an image: the `config` of Docker's and OCI's documents, by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    /// The user, and perhaps group, that the program runs as; root if empty.
    #[serde(deserialize_with = "null_is_default")]
    pub user: String,
    /// `80/tcp`.
    #[serde(deserialize_with = "null_is_default")]
    pub exposed_ports: BTreeMap<String, Nothing>,
    /// `NAME=value`.
    #[serde(deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    /// What comes before the command.
    pub entrypoint: Option<Vec<String>>,
    /// The program, or the arguments of the entry point.
    pub cmd: Option<Vec<String>>,
    /// Paths that are to be volumes.
    #[serde(deserialize_with = "null_is_default")]
    pub volumes: BTreeMap<String, Nothing>,
    /// Where the program starts.
    #[serde(deserialize_with = "null_is_default")]
    pub working_dir: String,
    /// What somebody wrote on it.
    #[serde(deserialize_with = "null_is_default")]
    pub labels: BTreeMap<String, String>,
    /// The signal that asks the program to end, `SIGTERM` if none is given.
    pub stop_signal: Option<String>,
    /// Seconds from that signal to the kill.
    pub stop_timeout: Option<i64>,
    /// What runs commands that are one text.
    pub shell: Option<Vec<String>>,
}

/// A step of making an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// When, RFC 3339.
    #[serde(deserialize_with = "null_is_default")]
    pub created: String,
    /// The instruction.
    #[serde(deserialize_with = "null_is_default")]
    pub created_by: String,
    /// By whom.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// What was said.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// Whether no layer came of it.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// The `{}` beside each key of what is a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nothing {}

/// The document whose digest is the id.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Document {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) created: Option<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) author: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) comment: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) architecture: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) os: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) config: ImageConfig,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) rootfs: RootFs,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) history: Vec<History>,
}

/// The layers of a document.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct RootFs {
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) diff_ids: Vec<String>,
}

/// Go writes `null` for what is empty.
pub(super) fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// What is known when nothing was said about when.
pub(super) const NO_TIME: &str = "0001-01-01T00:00:00Z";

/// Whether `text` is a time as RFC 3339 has it.
pub(super) fn is_time(text: &str) -> bool {
    OffsetDateTime::parse(text, &Rfc3339).is_ok()
}

/// The time now as RFC 3339 has it, in seconds.
pub(super) fn now() -> String {
    let now = OffsetDateTime::now_utc();
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        now.year(),
        u8::from(now.month()),
        now.day(),
        now.hour(),
        now.minute(),
        now.second(),
    )
}
