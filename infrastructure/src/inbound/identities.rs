//! Who somebody is: by the phone, by the message that is answered, or by an id of WhatsApp that was seen together with
//! either before.

use domain::ids::{ContactId, MessageId, SenderId, TenantId};
use domain::phone::{self, Phone};
use sqlx::PgPool;
use uuid::Uuid;

use super::Recipient;
use crate::whatsapp::webhook::Identity;

/// What leads to a contact; any part may be missing.
pub(crate) struct Clue {
    pub(super) tenant_id: TenantId,
    pub(super) sender_id: SenderId,
    pub(super) identity: Identity,
    /// WhatsApp's id of a message of ours that went to the contact.
    pub(super) wamid: Option<String>,
    /// The same message, where our id is known.
    pub(super) message_id: Option<MessageId>,
}

impl Clue {
    pub(super) fn of_recipient(recipient: &Recipient) -> Self {
        Self {
            tenant_id: recipient.tenant_id,
            sender_id: recipient.sender_id,
            identity: recipient.identity.clone(),
            wamid: Some(recipient.wamid.clone()),
            message_id: recipient.message_id,
        }
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    pub(super) contact: Option<Known>,
    /// Our message that the clue names.
    pub(super) message_id: Option<Uuid>,
}

#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) id: ContactId,
    /// Is the contact's phone what its wa_id says? Then the wa_id need not be learnt.
    pub(super) wa_id_is_phone: bool,
    /// What the uploads say.
    pub(super) opt_in: Option<bool>,
}

/// The number that a wa_id is, if a contact can have it.
pub(super) fn phone_of(wa_id: &str) -> Option<Phone> {
    phone::normalize(&format!("+{wa_id}")).ok()
}

/// One answer for each clue, in the same order. The phone goes first: it is what would be sent to.
pub(super) async fn find(pool: &PgPool, clues: &[Clue]) -> Result<Vec<Found>, sqlx::Error> {
    let mut columns = Columns::default();
    for (clue, number) in clues.iter().zip(0..) {
        columns.push(number, clue);
    }
    let rows = sqlx::query!(
        r#"SELECT t.number AS "number!", m.message_id AS "message_id?", c.id AS "contact_id?", c.phone AS "phone?",
                  c.opt_in AS "opt_in?"
           FROM unnest($1::bigint[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::uuid[])
               AS t(number, tenant_id, sender_id, phone, wa_id, user_id, wamid, message_id)
           LEFT JOIN LATERAL (
               SELECT r.message_id, r.contact_id FROM message_recipients r
               WHERE r.tenant_id = t.tenant_id
                 AND r.message_id = coalesce(
                     t.message_id,
                     (SELECT p.message_id FROM provider_messages p
                      WHERE p.sender_id = t.sender_id AND p.wamid = t.wamid))
           ) m ON true
           LEFT JOIN contacts c ON c.tenant_id = t.tenant_id AND c.id = coalesce(
               (SELECT p.id FROM contacts p WHERE p.tenant_id = t.tenant_id AND p.phone = t.phone),
               m.contact_id,
               (SELECT i.contact_id FROM contact_identities i
                WHERE i.tenant_id = t.tenant_id AND i.kind = 'wa_id' AND i.value = t.wa_id),
               (SELECT i.contact_id FROM contact_identities i
                WHERE i.tenant_id = t.tenant_id AND i.kind = 'user_id' AND i.value = t.user_id))"#,
        &columns.numbers,
        &columns.tenants,
        &columns.senders,
        &columns.phones as &[Option<String>],
        &columns.wa_ids as &[Option<String>],
        &columns.user_ids as &[Option<String>],
        &columns.wamids as &[Option<String>],
        &columns.messages as &[Option<Uuid>],
    )
    .fetch_all(pool)
    .await?;
    let mut found = vec![Found::default(); clues.len()];
    for row in rows {
        let Ok(place) = usize::try_from(row.number) else { continue };
        let (Some(found), Some(clue)) = (found.get_mut(place), clues.get(place)) else { continue };
        found.message_id = row.message_id;
        found.contact = row.contact_id.map(|id| Known {
            id: ContactId(id),
            wa_id_is_phone: clue.identity.wa_id.as_deref().and_then(phone_of).map(|phone| phone.to_string())
                == row.phone,
            opt_in: row.opt_in,
        });
    }
    Ok(found)
}

/// Keeps the ids of those who were found, as far as they are not known yet.
pub(super) async fn learn(pool: &PgPool, clues: &[Clue], found: &[Found]) -> Result<(), sqlx::Error> {
    let (mut tenants, mut kinds, mut values, mut contacts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (clue, found) in clues.iter().zip(found) {
        let Some(contact) = &found.contact else { continue };
        let wa_id = clue.identity.wa_id.as_deref().filter(|_| !contact.wa_id_is_phone).map(|value| ("wa_id", value));
        let user_id = clue.identity.user_id.as_deref().map(|value| ("user_id", value));
        for (kind, value) in [wa_id, user_id].into_iter().flatten() {
            tenants.push(clue.tenant_id.0);
            kinds.push(kind);
            values.push(value);
            contacts.push(contact.id.0);
        }
    }
    if tenants.is_empty() {
        return Ok(());
    }
    // Sorted, so that two who learn at once cannot deadlock; what is known already is not touched.
    sqlx::query!(
        "INSERT INTO contact_identities (tenant_id, kind, value, contact_id)
         SELECT DISTINCT ON (t.tenant_id, t.kind, t.value) t.tenant_id, t.kind, t.value, t.contact_id
         FROM unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[]) AS t(tenant_id, kind, value, contact_id)
         JOIN contacts c ON c.id = t.contact_id
         WHERE NOT EXISTS (SELECT FROM contact_identities i
                           WHERE i.tenant_id = t.tenant_id AND i.kind = t.kind AND i.value = t.value
                             AND i.contact_id = t.contact_id)
         ORDER BY t.tenant_id, t.kind, t.value
         ON CONFLICT (tenant_id, kind, value) DO UPDATE SET contact_id = excluded.contact_id",
        &tenants,
        &kinds as _,
        &values as _,
        &contacts,
    )
    .execute(pool)
    .await?;
    Ok(())
}

#[derive(Default)]
struct Columns {
    numbers: Vec<i64>,
    tenants: Vec<Uuid>,
    senders: Vec<Uuid>,
    phones: Vec<Option<String>>,
    wa_ids: Vec<Option<String>>,
    user_ids: Vec<Option<String>>,
    wamids: Vec<Option<String>>,
    messages: Vec<Option<Uuid>>,
}

impl Columns {
    fn push(&mut self, number: i64, clue: &Clue) {
        let Identity { wa_id, user_id } = &clue.identity;
        self.numbers.push(number);
        self.tenants.push(clue.tenant_id.0);
        self.senders.push(clue.sender_id.0);
        self.phones.push(wa_id.as_deref().and_then(phone_of).map(|phone| phone.to_string()));
        self.wa_ids.push(wa_id.clone());
        self.user_ids.push(user_id.clone());
        self.wamids.push(clue.wamid.clone());
        self.messages.push(clue.message_id.map(Uuid::from));
    }
}
