//! The report `adit.verify/1`. Within `/1` fields are only ever added, and readers ignore unknown ones.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Failure, Stage};

/// The name of the report's format.
pub const SCHEMA: &str = "adit.verify/1";

/// The JSON Schema of the report (draft 2020-12).
pub const JSON_SCHEMA: &str = include_str!("../schema/adit.verify.1.json");

/// What a verification found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// The version of adit.
    pub adit: String,
    /// Whether every target passed its deepest requested stage.
    pub ok: bool,
    /// The code that the process ends with.
    pub exit_code: u8,
    /// The profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// The provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// The access mode that the targets were reached through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// When the verification began (RFC 3339).
    pub started: String,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// How much is proved.
    pub verified: Verified,
    /// The last stage that was passed or tried.
    pub furthest_stage: Stage,
    /// Who we are inside the network.
    #[serde(rename = "self", default, skip_serializing_if = "Option::is_none")]
    pub this: Option<Node>,
    /// The way to the far end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathReport>,
    /// Each stage, per target where it has targets, in the order of the stages.
    pub stages: Vec<StageReport>,
    /// The first failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Failures of further targets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_failures: Vec<Failure>,
    /// What does not end the run.
    pub warnings: Vec<Warning>,
}

impl Report {
    /// The report of a run that ended in a stage before there was a network.
    pub fn ended_early(started: String, stage: Stage, failures: Vec<Failure>) -> Self {
        let mut failures = failures.into_iter();
        let failure = failures.next();
        Self {
            schema: SCHEMA.to_owned(),
            adit: env!("CARGO_PKG_VERSION").to_owned(),
            ok: false,
            exit_code: failure.as_ref().map_or(stage.exit(), |failure| failure.exit).code(),
            profile: None,
            provider: None,
            mode: None,
            started,
            duration_ms: 0,
            verified: Verified::None,
            furthest_stage: stage,
            this: None,
            path: None,
            stages: Vec::new(),
            failure,
            other_failures: failures.collect(),
            warnings: Vec::new(),
        }
    }

    /// Every failure, the first one first.
    pub fn failures(&self) -> impl Iterator<Item = &Failure> {
        self.failure.iter().chain(&self.other_failures)
    }
}

/// How much a verification proved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verified {
    /// Nothing.
    #[default]
    None,
    /// The tunnel carried a packet back and forth; no target was named.
    TunnelOnly,
    /// Every target answered.
    Targets,
}

/// Who we are inside the network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// A name or a public key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Our addresses.
    pub addresses: Vec<IpAddr>,
    /// Tags, where the provider has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Whether the node vanishes when it leaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ephemeral: Option<bool>,
}

/// The way to the far end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PathReport {
    /// `direct`, or `relay` while packets to a peer go through one.
    pub kind: String,
    /// Which relay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<String>,
    /// The round-trip time through the tunnel, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_ms: Option<f64>,
    /// The largest packet inside the tunnel, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
}

/// The outcome of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StageStatus {
    /// It passed.
    Ok,
    /// It passed, with something to know.
    Warn,
    /// It failed.
    Fail,
    /// It was not needed, or an earlier stage failed.
    Skipped,
}

/// What a stage found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageReport {
    /// Which stage.
    pub id: Stage,
    /// Its outcome.
    pub status: StageStatus,
    /// How long it took, in milliseconds.
    pub ms: u64,
    /// The target, for the stages that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// How often it was tried, where more than once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// How often a failure was taken for a network that is still propagating.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provisional_retries: Option<u32>,
    /// The class of its failure or warning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// What was observed.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub evidence: Map<String, Value>,
}

impl StageReport {
    /// A stage with its outcome and nothing else.
    pub fn new(id: Stage, status: StageStatus, ms: u64) -> Self {
        Self {
            id,
            status,
            ms,
            target: None,
            attempts: None,
            provisional_retries: None,
            class: None,
            evidence: Map::new(),
        }
    }

    /// Adds an observation.
    pub fn seen(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.evidence.insert(name.to_owned(), value.into());
        self
    }
}

/// Something to know that does not end the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// The stable class.
    pub class: String,
    /// One sentence.
    pub summary: String,
}
