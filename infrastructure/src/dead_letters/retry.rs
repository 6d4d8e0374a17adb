//! Gives letters back to the engine.

use std::collections::HashMap;

use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::selection::Pages;
use super::{DeadLetterError, HISTORY_UNREADABLE, Handled, Outcome, Report, Selection, Source, gone};
use crate::ready_list::{PutBack, lock_in_tx, put_back_in_tx};

/// Gives letters back. Each goes in the transaction in which its webhook or message comes back.
pub async fn retry(pool: &PgPool, selection: &Selection) -> Result<Report, DeadLetterError> {
    let mut report = Report::default();
    let mut pages = Pages::of(selection);
    while let Some(ids) = pages.next(pool).await? {
        report.handled.extend(retry_page(pool, &ids).await?);
    }
    report.unknown = pages.unknown(&report.handled);
    Ok(report)
}

struct Letter {
    id: i64,
    source: Source,
    reference: String,
}

async fn retry_page(pool: &PgPool, ids: &[i64]) -> Result<Vec<Handled>, DeadLetterError> {
    let mut tx = pool.begin().await?;
    // Before the letters, as whoever follows the log and parks something takes the two in this order.
    let followed = lock_in_tx(&mut tx).await?;
    let letters = lock_letters(&mut tx, ids).await?;
    let pending = make_pending(&mut tx, &letters).await?;
    let messages: Vec<Uuid> =
        letters.iter().filter(|letter| letter.source == Source::Dispatch).filter_map(message_of).collect();
    let put_back: HashMap<Uuid, PutBack> = put_back_in_tx(&mut tx, &followed, &messages).await?;
    let handled: Vec<Handled> = letters
        .into_iter()
        .map(|letter| {
            let outcome = match letter.source {
                Source::Webhook => match body_and_item(&letter.reference) {
                    Some((body, _)) if pending.contains(&body) => Outcome::Pending,
                    Some(_) => Outcome::Kept("its body is not kept any more; it can only be discarded"),
                    None => Outcome::Kept("its reference names no body; it can only be discarded"),
                },
                Source::Dispatch => match message_of(&letter).and_then(|message| put_back.get(&message)) {
                    Some(PutBack::Ready) => Outcome::Ready,
                    Some(PutBack::NotWaiting(status)) => Outcome::Obsolete(Some(*status)),
                    Some(PutBack::Unreadable) => HISTORY_UNREADABLE,
                    None => Outcome::Obsolete(None),
                },
            };
            Handled { id: letter.id, source: letter.source, reference: letter.reference, outcome }
        })
        .collect();
    let gone = gone(&handled);
    sqlx::query!("DELETE FROM dead_letters WHERE id = ANY($1)", &gone).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(handled)
}

async fn lock_letters(connection: &mut PgConnection, ids: &[i64]) -> Result<Vec<Letter>, sqlx::Error> {
    let rows =
        sqlx::query!("SELECT id, source, reference FROM dead_letters WHERE id = ANY($1) ORDER BY id FOR UPDATE", ids,)
            .fetch_all(connection)
            .await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| Some(Letter { id: row.id, source: Source::parse(&row.source)?, reference: row.reference }))
        .collect())
}

/// Makes bodies, or single items of them, pending again, and answers which bodies there are. They count as having failed
/// once, so that each is interpreted alone.
async fn make_pending(connection: &mut PgConnection, letters: &[Letter]) -> Result<Vec<i64>, sqlx::Error> {
    let (bodies, items): (Vec<i64>, Vec<Option<i32>>) = letters
        .iter()
        .filter(|letter| letter.source == Source::Webhook)
        .filter_map(|letter| body_and_item(&letter.reference))
        .unzip();
    sqlx::query_scalar!(
        "INSERT INTO webhook_pending (body_id, items, attempts)
         SELECT t.body_id, CASE WHEN bool_and(t.item IS NOT NULL) THEN array_agg(t.item ORDER BY t.item) END, 1
         FROM unnest($1::bigint[], $2::integer[]) AS t(body_id, item)
         JOIN webhook_bodies b ON b.id = t.body_id
         GROUP BY t.body_id ORDER BY t.body_id
         ON CONFLICT (body_id) DO UPDATE
         SET items = CASE WHEN webhook_pending.items IS NOT NULL AND excluded.items IS NOT NULL
                          THEN webhook_pending.items || excluded.items END
         RETURNING body_id",
        &bodies,
        &items as _,
    )
    .fetch_all(connection)
    .await
}

fn body_and_item(reference: &str) -> Option<(i64, Option<i32>)> {
    match reference.split_once('/') {
        None => Some((reference.parse().ok()?, None)),
        Some((body, item)) => Some((body.parse().ok()?, Some(item.parse().ok()?))),
    }
}

fn message_of(letter: &Letter) -> Option<Uuid> {
    letter.reference.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_names_a_body_or_one_item_of_it() {
        assert_eq!(body_and_item("17"), Some((17, None)));
        assert_eq!(body_and_item("17/3"), Some((17, Some(3))));
        for reference in ["", "x", "17/", "/3", "17/3/4", "17/x"] {
            assert_eq!(body_and_item(reference), None, "{reference}");
        }
    }
}
