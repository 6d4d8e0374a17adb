//! What users write to a tenant's numbers: kept, once each, and heeded where it says stop or start.
//!
//! The order is: find out who it is, give the commands, write the row. A row is there only when its command has taken
//! effect, and what has a row is passed over; so a webhook that comes again for days changes nothing, and one whose
//! process died in between is heeded again, which changes nothing either.
//!
//! Somebody unknown who says stop becomes a contact without a segment, so that a later upload finds the word. Of whom only
//! a business-scoped id is known, the word waits until that id is seen together with a contact (`waiting`).

mod identities;
mod read;
mod store;
mod waiting;
mod words;

pub use read::{InboundMessage, of_contact, of_message};
pub(crate) use words::Heard;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use domain::aggregate::CommandEnvelope;
use domain::consent::{ConsentCommand, ConsentError, ConsentSource, Keywords, Word};
use domain::ids::{ContactId, MessageId, SenderId, TenantId};
use sqlx::PgPool;

use self::identities::{Clue, Found};
use crate::contacts::ensure_contacts;
use crate::event_store::{Actor, Addressed, CommandError, ConsentStore};
use crate::whatsapp::webhook::Identity;

/// Hears what users say. A cheap handle.
#[derive(Clone)]
pub struct Listener {
    pub pool: PgPool,
    pub consents: ConsentStore,
    pub keywords: Arc<Keywords>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum InboundError {
    #[error("messages from users could not be read or stored")]
    Database(#[from] sqlx::Error),
    #[error("what a user said about consent could not be recorded")]
    Command(#[source] CommandError<ConsentError>),
}

/// Who got a message, as a status says.
pub(crate) struct Recipient {
    pub(crate) tenant_id: TenantId,
    pub(crate) sender_id: SenderId,
    pub(crate) wamid: String,
    pub(crate) message_id: Option<MessageId>,
    pub(crate) identity: Identity,
}

impl Listener {
    /// Takes in what was heard, and answers for each, in the same order, why it could not be recorded. What is an error
    /// may pass when everything is given again.
    pub(crate) async fn hear(
        &self,
        heard: &[Heard],
        recipients: &[Recipient],
        now: DateTime<Utc>,
    ) -> Result<Vec<Option<String>>, InboundError> {
        let mut clues: Vec<Clue> = heard.iter().map(Heard::clue).collect();
        clues.extend(recipients.iter().map(Clue::of_recipient));
        if clues.is_empty() {
            return Ok(Vec::new());
        }
        let mut found = identities::find(&self.pool, &clues).await?;
        let is_new = store::new_ones(&self.pool, heard).await?;
        let words: Vec<Option<Word>> =
            heard.iter().zip(is_new).map(|(heard, is_new)| heard.word(&self.keywords).filter(|_| is_new)).collect();
        self.take_in_strangers(heard, &words, &mut found, now).await?;
        identities::learn(&self.pool, &clues, &found).await?;
        // What another item of the same step has just told may name a speaker.
        if found.iter().zip(&clues).any(|(found, clue)| found.contact.is_none() && clue.identity.user_id.is_some()) {
            found = identities::find(&self.pool, &clues).await?;
        }
        self.heed_waiting(&clues, &found, now).await?;
        let refusals = self.heed(heard, &words, &found, now).await?;
        waiting::keep(&self.pool, &strangers_words(heard, &words, &found, now)).await?;
        let recorded = heard.iter().zip(&found).zip(&refusals).filter(|(_, refusal)| refusal.is_none());
        store::insert(&self.pool, recorded.map(|(row, _)| row), now).await?;
        Ok(refusals)
    }

    /// Heeds what was said by those of these whose business-scoped id has just been seen together with a contact.
    async fn heed_waiting(&self, clues: &[Clue], found: &[Found], now: DateTime<Utc>) -> Result<(), InboundError> {
        let due = waiting::due(&self.pool, clues, found).await?;
        if due.is_empty() {
            return Ok(());
        }
        let commands = due.iter().flat_map(|due| {
            let commands = commands_of(due.word, due.source, due.said_at, due.opt_in);
            commands.into_iter().map(|command| addressed(due.contact_id, due.tenant_id, command, now))
        });
        for answer in self.consents.execute_many(commands.collect()).await {
            match answer {
                Ok(_) | Err(CommandError::Refused(_)) => {}
                Err(error) if error.is_transient() => return Err(InboundError::Command(error)),
                Err(error) => tracing::error!(%error, "a word that waited for its speaker cannot be recorded"),
            }
        }
        Ok(waiting::done(&self.pool, &due).await?)
    }

    /// Makes contacts of the strangers who said stop and whose number is known.
    async fn take_in_strangers(
        &self,
        heard: &[Heard],
        words: &[Option<Word>],
        found: &mut [Found],
        now: DateTime<Utc>,
    ) -> Result<(), sqlx::Error> {
        let stops = |word: &Option<Word>| matches!(word, Some(Word::OptOut | Word::StopMarketing));
        let mut phones = Vec::new();
        for ((heard, word), found) in heard.iter().zip(words).zip(found.iter_mut()) {
            if found.contact.is_none()
                && stops(word)
                && let Some(phone) = heard.phone()
            {
                phones.push((heard.tenant_id, phone));
            }
        }
        if phones.is_empty() {
            return Ok(());
        }
        let contacts = ensure_contacts(&self.pool, &phones, now).await?;
        for (heard, found) in heard.iter().zip(found.iter_mut()) {
            if found.contact.is_none()
                && let Some(phone) = heard.phone()
                && let Some(contact) = contacts.get(&(heard.tenant_id, phone))
            {
                found.contact = Some(identities::Known { id: *contact, wa_id_is_phone: true, opt_in: None });
            }
        }
        Ok(())
    }

    /// Gives the commands and answers why those of an item could not be recorded.
    async fn heed(
        &self,
        heard: &[Heard],
        words: &[Option<Word>],
        found: &[Found],
        now: DateTime<Utc>,
    ) -> Result<Vec<Option<String>>, InboundError> {
        let mut refusals = vec![None; heard.len()];
        let mut commands = Vec::new();
        let mut places = Vec::new();
        for (place, ((heard, word), found)) in heard.iter().zip(words).zip(found).enumerate() {
            let (Some(word), Some(contact)) = (word, &found.contact) else { continue };
            for command in commands_of(*word, heard.source, heard.at.unwrap_or(now), contact.opt_in) {
                commands.push(addressed(contact.id, heard.tenant_id, command, now));
                places.push(place);
            }
        }
        if commands.is_empty() {
            return Ok(refusals);
        }
        for (place, answer) in places.into_iter().zip(self.consents.execute_many(commands).await) {
            match answer {
                Ok(_) => {}
                // An erased contact gets nothing in any case.
                Err(CommandError::Refused(refusal)) => tracing::debug!(%refusal, "a user's word changes nothing"),
                Err(error) if error.is_transient() => return Err(InboundError::Command(error)),
                Err(error) => refusals[place] = Some(error.to_string()),
            }
        }
        Ok(refusals)
    }
}

/// What a word asks of the contact's consent. Whoever says start has agreed, if nobody has recorded that yet.
fn commands_of(word: Word, source: ConsentSource, said_at: DateTime<Utc>, opt_in: Option<bool>) -> Vec<ConsentCommand> {
    match word {
        Word::OptOut => vec![ConsentCommand::OptOut { source, said_at }],
        Word::StopMarketing => vec![ConsentCommand::StopMarketing { source, said_at }],
        Word::ResumeMarketing => {
            let mut commands = vec![ConsentCommand::ResumeMarketing { source, said_at }];
            if opt_in != Some(true) {
                commands.push(ConsentCommand::OptIn { source, wording: None, said_at });
            }
            commands
        }
    }
}

fn addressed(
    contact: ContactId,
    tenant: TenantId,
    command: ConsentCommand,
    now: DateTime<Utc>,
) -> Addressed<ConsentCommand> {
    Addressed::new(contact, CommandEnvelope::new(tenant, now, command), Actor::Engine("webhooks"))
}

/// The words of those of whom only a business-scoped id is known.
fn strangers_words<'a>(
    heard: &'a [Heard],
    words: &[Option<Word>],
    found: &[Found],
    now: DateTime<Utc>,
) -> Vec<waiting::Words<'a>> {
    let unknown = heard.iter().zip(words).zip(found).filter(|(_, found)| found.contact.is_none());
    unknown
        .filter_map(|((heard, word), _)| {
            let user_id = heard.from.user_id.as_deref()?;
            let said_at = heard.at.unwrap_or(now);
            Some(waiting::Words { tenant_id: heard.tenant_id, user_id, word: (*word)?, source: heard.source, said_at })
        })
        .collect()
}
