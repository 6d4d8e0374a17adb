//! The last look before a call: at the streams of consent, run and campaign themselves, not at a projection that may
//! lag. One query for a whole batch.

use std::collections::HashMap;

use domain::aggregate::Decider;
use domain::consent::Consent;
use domain::message::{Lane, ReleaseReason};
use sqlx::PgPool;
use uuid::Uuid;

/// What has to be looked at for one message.
pub(super) struct Subject {
    pub(super) run_id: Uuid,
    pub(super) campaign_id: Option<Uuid>,
    pub(super) contact_id: Uuid,
    pub(super) lane: Lane,
}

/// Answers for each subject why it may not be sent any more, if so, in the same order.
pub(super) async fn last_look(pool: &PgPool, subjects: &[Subject]) -> Result<Vec<Option<ReleaseReason>>, sqlx::Error> {
    let distinct = |ids: &mut Vec<String>| {
        ids.sort_unstable();
        ids.dedup();
    };
    let mut runs: Vec<String> = subjects.iter().map(|subject| subject.run_id.to_string()).collect();
    let mut campaigns: Vec<String> =
        subjects.iter().filter_map(|subject| subject.campaign_id).map(|id| id.to_string()).collect();
    let mut contacts: Vec<String> = subjects.iter().map(|subject| subject.contact_id.to_string()).collect();
    distinct(&mut runs);
    distinct(&mut campaigns);
    distinct(&mut contacts);
    // Runs and campaigns: only the newest event that opens or closes them matters. Consents are short and are folded
    // whole, by the same rules as everywhere.
    let rows = sqlx::query!(
        r#"
        SELECT e.aggregate_id::uuid AS "id!", 'gate' AS "kind!", e.event_type AS "event_type!", NULL::jsonb AS payload
        FROM (
            SELECT t.aggregate_type, t.id
            FROM (SELECT 'CampaignRun' AS aggregate_type, unnest($1::text[]) AS id
                  UNION ALL SELECT 'Campaign', unnest($2::text[])) t
        ) wanted
        CROSS JOIN LATERAL (
            SELECT aggregate_id, event_type FROM events
            WHERE aggregate_type = wanted.aggregate_type AND aggregate_id = wanted.id
              AND event_type IN ('RunPaused', 'RunResumed', 'RunStalled', 'RunCancelled', 'RunExpired', 'RunCompleted',
                                 'CampaignPaused', 'CampaignResumed', 'CampaignCancelled')
            ORDER BY sequence DESC LIMIT 1
        ) e
        UNION ALL
        SELECT aggregate_id::uuid, 'consent', event_type, payload FROM (
            SELECT aggregate_id, event_type, payload FROM events
            WHERE aggregate_type = 'Consent' AND aggregate_id = ANY($3)
            ORDER BY aggregate_id, sequence
        ) c
        "#,
        &runs,
        &campaigns,
        &contacts,
    )
    .fetch_all(pool)
    .await?;
    let mut closed: HashMap<Uuid, ReleaseReason> = HashMap::new();
    let mut consents: HashMap<Uuid, Consent> = HashMap::new();
    for row in rows {
        match row.payload {
            None => {
                if let Some(reason) = closes(&row.event_type) {
                    closed.insert(row.id, reason);
                }
            }
            // A consent that cannot be read forbids: in doubt nothing is sent.
            Some(payload) => match serde_json::from_value(payload) {
                Ok(event) => consents.entry(row.id).or_default().evolve(&event),
                Err(error) => {
                    tracing::error!(contact.id = %row.id, %error, "a stored consent cannot be read; nothing is sent");
                    closed.insert(row.id, ReleaseReason::ContactOptedOut);
                }
            },
        }
    }
    Ok(subjects
        .iter()
        .map(|subject| {
            let gate = [Some(subject.run_id), subject.campaign_id, Some(subject.contact_id)]
                .into_iter()
                .flatten()
                .find_map(|id| closed.get(&id).copied());
            let refused =
                || consents.get(&subject.contact_id).is_some_and(|consent| consent.refusal(subject.lane).is_some());
            gate.or_else(|| refused().then_some(ReleaseReason::ContactOptedOut))
        })
        .collect())
}

fn closes(event_type: &str) -> Option<ReleaseReason> {
    match event_type {
        "RunPaused" | "RunStalled" => Some(ReleaseReason::RunPaused),
        "RunCancelled" | "RunExpired" | "RunCompleted" => Some(ReleaseReason::RunEnded),
        "CampaignPaused" => Some(ReleaseReason::CampaignPaused),
        "CampaignCancelled" => Some(ReleaseReason::CampaignEnded),
        _ => None,
    }
}
