//! From a claim to a request that is ready to leave: the last look, the run's definition, and the body.

use std::collections::HashMap;
use std::sync::Arc;

use domain::campaign_run::RunDefinition;
use domain::ids::RunId;
use domain::message::{Lane, ReleaseReason};
use uuid::Uuid;

use super::claim::Claim;
use super::last_look::{Recipient, Seen, Subject, last_look};
use super::supervisor::Dispatcher;
use crate::senders::Sender;
use crate::whatsapp::client::DEFAULT_BASE_URL;
use crate::whatsapp::{PreparedCall, SendRequest};

/// Definitions of runs kept in memory.
const RUNS_CACHED_MAX: usize = 200;

pub(super) enum Readied {
    Call(Box<PreparedCall>),
    Blocked(ReleaseReason),
    /// It can never be sent as it is.
    Unsendable,
}

/// A run is defined once, when it starts.
#[derive(Default)]
pub(super) struct RunDefinitions(HashMap<RunId, Arc<RunDefinition>>);

impl RunDefinitions {
    async fn of(&mut self, dispatcher: &Dispatcher, id: RunId) -> Result<Option<Arc<RunDefinition>>, sqlx::Error> {
        if let Some(known) = self.0.get(&id) {
            return Ok(Some(known.clone()));
        }
        let run = dispatcher
            .runs
            .load(id)
            .await
            .map_err(|error| sqlx::Error::Protocol(format!("run {id} could not be loaded: {error}")))?;
        let Some(definition) = run.definition().cloned().map(Arc::new) else { return Ok(None) };
        if self.0.len() >= RUNS_CACHED_MAX {
            self.0.clear();
        }
        self.0.insert(id, definition.clone());
        Ok(Some(definition))
    }
}

/// Builds the calls, after the last look at what forbids them; one answer for each claim, in the same order.
pub(super) async fn ready(
    dispatcher: &Dispatcher,
    sender: &Sender,
    runs: &mut RunDefinitions,
    claims: &[Claim],
) -> Result<Vec<Readied>, sqlx::Error> {
    let mut definitions = Vec::with_capacity(claims.len());
    for claim in claims {
        definitions.push(runs.of(dispatcher, claim.item.run_id).await?);
    }
    let subjects: Vec<Subject> = claims
        .iter()
        .zip(&definitions)
        .map(|(claim, run)| Subject {
            message_id: claim.item.message_id.0,
            run_id: claim.item.run_id.0,
            campaign_id: run.as_ref().and_then(|run| run.campaign_id).map(Uuid::from),
            lane: claim.lane,
        })
        .collect();
    let seen = last_look(&dispatcher.pool, &subjects).await?;
    Ok(claims
        .iter()
        .zip(definitions)
        .zip(seen)
        .map(|((claim, run), seen)| match (seen, run) {
            (Seen::Forbidden(reason), _) => Readied::Blocked(reason),
            (Seen::MaySend(recipient), Some(run)) => prepare(dispatcher, sender, claim, &run, &recipient),
            (Seen::MaySend(_), None) | (Seen::Nobody, _) => Readied::Unsendable,
        })
        .collect())
}

fn prepare(
    dispatcher: &Dispatcher,
    sender: &Sender,
    claim: &Claim,
    run: &RunDefinition,
    recipient: &Recipient,
) -> Readied {
    let Ok(values) = serde_json::from_str(&recipient.variables) else { return Readied::Unsendable };
    let Ok(components) = domain::template::request_components(&run.template.components, &values) else {
        return Readied::Unsendable;
    };
    let request = SendRequest {
        base_url: sender.base_url.as_deref().unwrap_or(DEFAULT_BASE_URL),
        api_version: sender.api_version.as_deref(),
        marketing: sender.marketing.filter(|_| claim.lane == Lane::Marketing),
        phone_number_id: &sender.phone_number_id,
        access_token: sender.access_token.expose(),
        to: &recipient.phone,
        template_name: &run.template.name,
        language: &run.template.language,
        components,
        callback: claim.item.message_id,
    };
    match dispatcher.client.prepare(&request) {
        Ok(call) => Readied::Call(Box::new(call)),
        Err(error) => {
            tracing::warn!(message.id = %claim.item.message_id, %error, "a message cannot be sent as it is");
            Readied::Unsendable
        }
    }
}
