//! The last look before a call: at the streams of consent, run and campaign themselves, not at a projection that may
//! lag, and at whom the message goes to. One query for a whole batch.

use std::collections::{BTreeSet, HashMap};

use domain::aggregate::Decider;
use domain::consent::Consent;
use domain::message::{Lane, ReleaseReason};
use sqlx::PgPool;
use uuid::Uuid;

/// What has to be looked at for one message.
pub(super) struct Subject {
    pub(super) message_id: Uuid,
    pub(super) run_id: Uuid,
    pub(super) campaign_id: Option<Uuid>,
    pub(super) lane: Lane,
}

/// What the look has shown.
pub(super) enum Seen {
    MaySend(Recipient),
    Forbidden(ReleaseReason),
    /// Nobody is written down for the message any more: the contact was erased.
    Nobody,
}

pub(super) struct Recipient {
    /// E.164 with the leading +.
    pub(super) phone: String,
    /// The frozen values of the template's variables, as JSON.
    pub(super) variables: String,
}

/// Answers for each subject, in the same order.
pub(super) async fn last_look(pool: &PgPool, subjects: &[Subject]) -> Result<Vec<Seen>, sqlx::Error> {
    let runs: BTreeSet<String> = subjects.iter().map(|subject| subject.run_id.to_string()).collect();
    let campaigns: BTreeSet<String> =
        subjects.iter().filter_map(|subject| subject.campaign_id).map(|id| id.to_string()).collect();
    let messages: Vec<Uuid> = subjects.iter().map(|subject| subject.message_id).collect();
    // Runs and campaigns: only the newest event that opens or closes them matters. Consents are short and are folded
    // whole, by the same rules as everywhere.
    let rows = sqlx::query!(
        r#"
        SELECT e.aggregate_id::uuid AS "id!", e.event_type AS gate, NULL::text AS phone, NULL::text AS variables,
               NULL::text[] AS consents
        FROM (SELECT 'CampaignRun' AS aggregate_type, unnest($1::text[]) AS id
              UNION ALL SELECT 'Campaign', unnest($2::text[])) wanted
        CROSS JOIN LATERAL (
            SELECT aggregate_id, event_type FROM events
            WHERE aggregate_type = wanted.aggregate_type AND aggregate_id = wanted.id
              AND event_type IN ('RunPaused', 'RunResumed', 'RunStalled', 'RunCancelled', 'RunExpired', 'RunCompleted',
                                 'CampaignPaused', 'CampaignResumed', 'CampaignCancelled')
            ORDER BY sequence DESC LIMIT 1
        ) e
        UNION ALL
        SELECT r.message_id, NULL, r.phone, r.variables::text,
               ARRAY(SELECT c.payload::text FROM events c
                     WHERE c.aggregate_type = 'Consent' AND c.aggregate_id = r.contact_id::text ORDER BY c.sequence)
        FROM unnest($3::uuid[]) AS message (id)
        JOIN message_recipients r ON r.message_id = message.id
        "#,
        &runs.into_iter().collect::<Vec<_>>(),
        &campaigns.into_iter().collect::<Vec<_>>(),
        &messages,
    )
    .fetch_all(pool)
    .await?;
    let mut closed: HashMap<Uuid, ReleaseReason> = HashMap::new();
    let mut recipients: HashMap<Uuid, (Recipient, Vec<String>)> = HashMap::new();
    for row in rows {
        if let (Some(phone), Some(variables)) = (row.phone, row.variables) {
            recipients.insert(row.id, (Recipient { phone, variables }, row.consents.unwrap_or_default()));
        } else if let Some(reason) = row.gate.as_deref().and_then(closes) {
            closed.insert(row.id, reason);
        }
    }
    Ok(subjects
        .iter()
        .map(|subject| {
            let gates = [Some(subject.run_id), subject.campaign_id];
            if let Some(reason) = gates.into_iter().flatten().find_map(|id| closed.get(&id)) {
                return Seen::Forbidden(*reason);
            }
            match recipients.remove(&subject.message_id) {
                None => Seen::Nobody,
                Some((_, consents)) if refuses(&consents, subject.lane) => {
                    Seen::Forbidden(ReleaseReason::ContactOptedOut)
                }
                Some((recipient, _)) => Seen::MaySend(recipient),
            }
        })
        .collect())
}

/// A consent that cannot be read forbids: in doubt nothing is sent.
fn refuses(consents: &[String], lane: Lane) -> bool {
    let mut consent = Consent::default();
    for payload in consents {
        match serde_json::from_str(payload) {
            Ok(event) => consent.evolve(&event),
            Err(error) => {
                tracing::error!(%error, "a stored consent cannot be read; nothing is sent to its contact");
                return true;
            }
        }
    }
    consent.refusal(lane).is_some()
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
