//! Finds the statuses and what users said in bodies: what of it may be believed, and what has to be parked. Pure.

use chrono::{DateTime, Utc};
use domain::ids::{SenderId, TenantId};
use uuid::Uuid;

use super::owners::{Owner, OwnersByNumber};
use super::pending::Body;
use super::unknown::{Unknown, UnknownKind};
use crate::dead_letters::{Parked, Source};
use crate::inbound::{Heard, Recipient};
use crate::whatsapp::webhook::{StatusItem, StatusKind, TemplateNews, WebhookItem, parse};

/// Where a status came from. The same body always gives each item the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) body_id: i64,
    pub(super) item: i32,
    /// How often its body has failed before.
    pub(super) attempts: i32,
}

impl Place {
    pub(super) fn parked(self, tenant_id: Option<TenantId>, reason: impl Into<String>) -> Parked {
        park(format!("{}/{}", self.body_id, self.item), self.attempts, tenant_id, reason)
    }
}

/// A status that may be believed.
pub(super) struct Located {
    pub(super) place: Place,
    pub(super) sender_id: SenderId,
    pub(super) tenant_id: TenantId,
    pub(super) status: StatusItem,
}

/// News about a template, with the senders whose secret signed it.
pub(super) struct VerifiedNews {
    pub(super) place: Place,
    pub(super) senders: Vec<Uuid>,
    pub(super) news: TemplateNews,
}

/// What bodies hold.
#[derive(Default)]
pub(super) struct Contents {
    pub(super) located: Vec<Located>,
    pub(super) templates: Vec<VerifiedNews>,
    pub(super) parked: Vec<Parked>,
    /// What users said.
    pub(super) heard: Vec<(Place, Heard)>,
    /// Who got messages, where statuses say more than the phone.
    pub(super) recipients: Vec<Recipient>,
    /// Messages from users, which count against the rate of the number that they reached: when each was sent.
    pub(super) inbound: Vec<(SenderId, DateTime<Utc>)>,
    /// What this release does not interpret.
    pub(super) unknown: Unknown,
    /// Does an item name a number that nobody has?
    pub(super) has_unknown_number: bool,
}

pub(super) fn read(bodies: &[Body], owners: &OwnersByNumber, now: DateTime<Utc>) -> Contents {
    let mut contents = Contents::default();
    for body in bodies {
        contents.read_body(body, owners, now);
    }
    contents
}

impl Contents {
    fn read_body(&mut self, body: &Body, owners: &OwnersByNumber, now: DateTime<Utc>) {
        let items = match parse(&body.body) {
            Ok(items) => items,
            Err(error) => {
                self.parked.push(park(body.id.to_string(), body.attempts, None, error.to_string()));
                return;
            }
        };
        for (item, index) in items.into_iter().zip(0..) {
            if body.items.as_ref().is_some_and(|wanted| !wanted.contains(&index)) {
                continue;
            }
            let place = Place { body_id: body.id, item: index, attempts: body.attempts };
            match item {
                WebhookItem::Status(status) => self.read_status(body, place, status, owners),
                WebhookItem::Inbound(inbound) => {
                    let Some(owner) = self.owner(body, place, &inbound.phone_number_id, owners) else { continue };
                    self.inbound.push((owner.sender_id, inbound.at.unwrap_or_default()));
                    if !inbound.has_known_kind() {
                        self.unknown.count(UnknownKind::Message, &inbound.kind, body.id);
                    }
                    self.heard.push((place, Heard::message(owner.tenant_id, owner.sender_id, *inbound)));
                }
                WebhookItem::Template(news) => {
                    let senders = body.verified_senders.clone();
                    self.templates.push(VerifiedNews { place, senders, news });
                }
                WebhookItem::Preference(preference) => {
                    let Some(owner) = self.owner(body, place, &preference.phone_number_id, owners) else { continue };
                    let heard = Heard::preference(owner.tenant_id, owner.sender_id, preference, now);
                    self.heard.push((place, heard));
                }
                WebhookItem::Other { field } => self.unknown.count(UnknownKind::Field, &field, body.id),
                WebhookItem::Unreadable { reason, .. } => self.parked.push(place.parked(None, reason.to_string())),
            }
        }
    }

    fn read_status(&mut self, body: &Body, place: Place, mut status: StatusItem, owners: &OwnersByNumber) {
        let Some(owner) = self.owner(body, place, &status.phone_number_id, owners) else { return };
        let Owner { sender_id, tenant_id } = owner;
        if let StatusKind::Other(name) = &status.status {
            self.unknown.count(UnknownKind::Status, name, body.id);
        }
        if let Some(identity) = status.recipient.take() {
            let (wamid, message_id) = (status.wamid.clone(), status.callback);
            self.recipients.push(Recipient { tenant_id, sender_id, wamid, message_id, identity });
        }
        self.located.push(Located { place, sender_id, tenant_id, status });
    }

    /// Whose the number of an item is. One sender's secret never speaks for another's number: then it is parked.
    fn owner(&mut self, body: &Body, place: Place, number: &str, owners: &OwnersByNumber) -> Option<Owner> {
        match owners.get(number) {
            Some(owner) if body.verified_senders.contains(&owner.sender_id.0) => return Some(*owner),
            Some(_) => self.parked.push(place.parked(None, "foreign: signed with the secret of another number")),
            None => {
                self.has_unknown_number = true;
                self.parked.push(place.parked(None, "foreign: no sender has this phone number id"));
            }
        }
        None
    }
}

/// `attempts` are those before this one.
fn park(reference: String, attempts: i32, tenant_id: Option<TenantId>, reason: impl Into<String>) -> Parked {
    let attempts = u32::try_from(attempts).unwrap_or_default().saturating_add(1);
    Parked { source: Source::Webhook, reference, tenant_id, reason: reason.into(), attempts }
}
