//! What is stored beside each event: whose it is, who caused it, and when by the engine's clock. Never personal data.

use std::collections::HashMap;

use chrono::{DateTime, SecondsFormat, Utc};
use domain::aggregate::{CommandEnvelope, Position};
use domain::ids::TenantId;
use serde_json::{Map, Value};

/// Who gave a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// A holder of the API token with this public id.
    Token(String),
    /// A person at the command line.
    Operator,
    /// A part of the engine: a saga, the dispatcher, the webhook interpreter.
    Engine(&'static str),
}

impl Actor {
    fn name(&self) -> String {
        match self {
            Self::Token(id) => format!("token:{id}"),
            Self::Operator => "operator".to_owned(),
            Self::Engine(part) => format!("engine:{part}"),
        }
    }
}

/// The metadata of every event of one command.
#[derive(Debug, Clone)]
pub struct Metadata {
    tenant_id: TenantId,
    at: DateTime<Utc>,
    actor: String,
    cause: Option<Position>,
}

const TENANT: &str = "tenant_id";
const AT: &str = "at";
const ACTOR: &str = "actor";
const CAUSE: &str = "cause";

impl Metadata {
    pub fn of<C>(envelope: &CommandEnvelope<C>, actor: &Actor) -> Self {
        Self { tenant_id: envelope.tenant_id, at: envelope.at, actor: actor.name(), cause: envelope.cause }
    }

    fn entries(&self) -> impl Iterator<Item = (&'static str, String)> {
        [
            (TENANT, self.tenant_id.to_string()),
            (AT, self.at.to_rfc3339_opts(SecondsFormat::Micros, true)),
            (ACTOR, self.actor.clone()),
        ]
        .into_iter()
        .chain(self.cause.map(|cause| (CAUSE, cause.to_string())))
    }

    /// The form that cqrs-es takes.
    pub fn to_map(&self) -> HashMap<String, String> {
        self.entries().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// The stored form.
    pub fn to_json(&self) -> String {
        let entries: Map<String, Value> =
            self.entries().map(|(key, value)| (key.to_owned(), Value::String(value))).collect();
        serde_json::to_string(&entries).expect("texts have a JSON form")
    }
}
