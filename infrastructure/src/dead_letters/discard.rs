//! Takes letters away for good.

use std::collections::HashMap;

use domain::aggregate::CommandEnvelope;
use domain::ids::TenantId;
use domain::message::{MessageCommand, MessageError};
use sqlx::PgPool;
use uuid::Uuid;

use super::selection::Pages;
use super::{DeadLetterError, HISTORY_UNREADABLE, Handled, Outcome, Report, Selection, Source, gone};
use crate::clock::Clock;
use crate::event_store::{Actor, Addressed, CommandError, MessageStore};

/// Discards letters. A message is cancelled first: if the letter then stays, because something dies in between,
/// discarding it again changes nothing else.
pub async fn discard(
    pool: &PgPool,
    messages: &MessageStore,
    clock: &Clock,
    selection: &Selection,
) -> Result<Report, DeadLetterError> {
    let mut report = Report::default();
    let mut pages = Pages::of(selection);
    while let Some(ids) = pages.next(pool).await? {
        report.handled.extend(discard_page(pool, messages, clock, &ids).await?);
    }
    report.unknown = pages.unknown(&report.handled);
    Ok(report)
}

async fn discard_page(
    pool: &PgPool,
    messages: &MessageStore,
    clock: &Clock,
    ids: &[i64],
) -> Result<Vec<Handled>, DeadLetterError> {
    let rows = sqlx::query!("SELECT id, source, reference FROM dead_letters WHERE id = ANY($1) ORDER BY id", ids,)
        .fetch_all(pool)
        .await?;
    let mut handled: Vec<Handled> = rows
        .into_iter()
        .filter_map(|row| {
            let source = Source::parse(&row.source)?;
            let outcome = match source {
                Source::Webhook => Outcome::Discarded,
                Source::Dispatch => Outcome::Obsolete(None),
            };
            Some(Handled { id: row.id, source, reference: row.reference, outcome })
        })
        .collect();
    cancel(pool, messages, clock, &mut handled).await?;
    let gone = gone(&handled);
    sqlx::query!("DELETE FROM dead_letters WHERE id = ANY($1)", &gone).execute(pool).await?;
    Ok(handled)
}

/// Cancels the messages of letters and says of each what became of it.
async fn cancel(
    pool: &PgPool,
    messages: &MessageStore,
    clock: &Clock,
    handled: &mut [Handled],
) -> Result<(), DeadLetterError> {
    let dispatch = handled.iter_mut().filter(|handled| handled.source == Source::Dispatch);
    let (ids, outcomes): (Vec<Uuid>, Vec<&mut Outcome>) =
        dispatch.filter_map(|handled| Some((handled.reference.parse::<Uuid>().ok()?, &mut handled.outcome))).unzip();
    // The log knows whose a message is; a letter may not.
    let tenants = tenants_of(pool, &ids).await?;
    let mut commands = Vec::with_capacity(ids.len());
    let mut of_command = Vec::with_capacity(ids.len());
    for (id, outcome) in ids.into_iter().zip(outcomes) {
        let Some(tenant) = tenants.get(&id) else { continue };
        let envelope = CommandEnvelope::new(*tenant, clock.now(), MessageCommand::Cancel);
        commands.push(Addressed::new(id, envelope, Actor::Operator));
        of_command.push(outcome);
    }
    for (outcome, answer) in of_command.into_iter().zip(messages.execute_many(commands).await) {
        *outcome = match answer {
            Ok(_) => Outcome::Cancelled,
            Err(CommandError::Refused(MessageError::NotAllowed { status })) => Outcome::Obsolete(Some(status)),
            Err(CommandError::Refused(_)) => Outcome::Obsolete(None),
            Err(CommandError::Unreadable { .. }) => HISTORY_UNREADABLE,
            Err(error) => return Err(error.into()),
        };
    }
    Ok(())
}

async fn tenants_of(pool: &PgPool, messages: &[Uuid]) -> Result<HashMap<Uuid, TenantId>, sqlx::Error> {
    let ids: Vec<String> = messages.iter().map(Uuid::to_string).collect();
    let rows = sqlx::query!(
        r#"SELECT aggregate_id::uuid AS "id!", tenant_id AS "tenant_id!" FROM events
           WHERE aggregate_type = 'Message' AND aggregate_id = ANY($1) AND sequence = 1"#,
        &ids,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|row| (row.id, TenantId(row.tenant_id))).collect())
}
