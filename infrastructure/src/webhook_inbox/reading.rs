//! Finds the statuses in bodies: which of them may be believed, and what has to be parked. Pure.

use chrono::{DateTime, Utc};
use domain::ids::{SenderId, TenantId};
use uuid::Uuid;

use super::owners::OwnersByNumber;
use super::pending::Body;
use crate::dead_letters::{Parked, Source};
use crate::whatsapp::webhook::{StatusItem, TemplateNews, WebhookItem, parse};

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
    /// Messages from users, which count against the rate of the number that they reached: when each was sent.
    pub(super) inbound: Vec<(SenderId, DateTime<Utc>)>,
    /// Does a status name a number that nobody has?
    pub(super) has_unknown_number: bool,
}

pub(super) fn read(bodies: &[Body], owners: &OwnersByNumber) -> Contents {
    let mut contents = Contents::default();
    for body in bodies {
        contents.read_body(body, owners);
    }
    contents
}

impl Contents {
    fn read_body(&mut self, body: &Body, owners: &OwnersByNumber) {
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
                WebhookItem::Inbound { phone_number_id, at, .. } => {
                    let owner = owners.get(&phone_number_id);
                    let believed = owner.filter(|owner| body.verified_senders.contains(&owner.sender_id.0));
                    self.inbound.extend(believed.map(|owner| (owner.sender_id, at)));
                }
                WebhookItem::Template(news) => {
                    let senders = body.verified_senders.clone();
                    self.templates.push(VerifiedNews { place, senders, news });
                }
                WebhookItem::Other { .. } => {}
                WebhookItem::Unreadable { reason, .. } => self.parked.push(place.parked(None, reason.to_string())),
            }
        }
    }

    fn read_status(&mut self, body: &Body, place: Place, status: StatusItem, owners: &OwnersByNumber) {
        match owners.get(&status.phone_number_id) {
            // One sender's secret never speaks for another's number.
            Some(owner) if body.verified_senders.contains(&owner.sender_id.0) => {
                self.located.push(Located { place, sender_id: owner.sender_id, tenant_id: owner.tenant_id, status });
            }
            Some(_) => self.parked.push(place.parked(None, "foreign: signed with the secret of another number")),
            None => {
                self.has_unknown_number = true;
                self.parked.push(place.parked(None, "foreign: no sender has this phone number id"));
            }
        }
    }
}

/// `attempts` are those before this one.
fn park(reference: String, attempts: i32, tenant_id: Option<TenantId>, reason: impl Into<String>) -> Parked {
    let attempts = u32::try_from(attempts).unwrap_or_default().saturating_add(1);
    Parked { source: Source::Webhook, reference, tenant_id, reason: reason.into(), attempts }
}
