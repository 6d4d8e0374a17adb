//! The names of everything that a send request can fill, and what each takes.

use super::parse::{Button, Header, Part};
use super::value::ValueKind;

/// One value of a send request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// The variable's name, which never changes for a template: mappings are stored by it.
    pub name: String,
    pub kind: ValueKind,
    /// WhatsApp refuses a message without it.
    pub required: bool,
}

impl Slot {
    fn required(name: String, kind: ValueKind) -> Self {
        Self { name, kind, required: true }
    }

    fn optional(name: String, kind: ValueKind) -> Self {
        Self { name, kind, required: false }
    }
}

pub(super) const EXPIRY: &str = "offer.expires_at";

/// The template's own, then the offer's, then those of the cards.
pub(super) fn slots(part: &Part, has_expiry: bool, cards: &[Part]) -> Vec<Slot> {
    let mut slots = Vec::new();
    part_slots(part, &mut slots);
    if has_expiry {
        slots.push(Slot::required(EXPIRY.to_owned(), ValueKind::Instant));
    }
    cards.iter().for_each(|card| part_slots(card, &mut slots));
    slots
}

fn part_slots(part: &Part, slots: &mut Vec<Slot>) {
    let prefix = &part.prefix;
    for variable in part.body.iter().flat_map(|body| body.variables()) {
        slots.push(Slot::required(format!("{prefix}{variable}"), ValueKind::Text));
    }
    match &part.header {
        None => {}
        Some(Header::Text(text)) => {
            for variable in text.variables() {
                slots.push(Slot::required(format!("{prefix}header.{variable}"), ValueKind::Text));
            }
        }
        Some(Header::Media(media)) => {
            slots.push(Slot::required(format!("{prefix}header.{}", media.name()), ValueKind::Media));
            if *media == super::parse::Media::Document {
                slots.push(Slot::optional(format!("{prefix}header.filename"), ValueKind::Filename));
            }
        }
        Some(Header::Location) => {
            slots.push(Slot::required(format!("{prefix}header.latitude"), ValueKind::Latitude));
            slots.push(Slot::required(format!("{prefix}header.longitude"), ValueKind::Longitude));
            slots.push(Slot::required(format!("{prefix}header.name"), ValueKind::Text));
            slots.push(Slot::required(format!("{prefix}header.address"), ValueKind::Text));
        }
    }
    for (index, button) in part.buttons.iter().enumerate() {
        button_slots(button, &format!("{prefix}button.{index}."), slots);
    }
}

fn button_slots(button: &Button, prefix: &str, slots: &mut Vec<Slot>) {
    let name = |name: &str| format!("{prefix}{name}");
    match button {
        Button::Plain => {}
        Button::QuickReply => slots.push(Slot::optional(name("payload"), ValueKind::Payload)),
        Button::Url(url) if url.has_variables() => slots.push(Slot::required(name("1"), ValueKind::UrlSuffix)),
        Button::Url(_) => {}
        Button::OneTimePassword => slots.push(Slot::required(name("1"), ValueKind::CouponCode)),
        Button::CopyCode => slots.push(Slot::required(name("coupon_code"), ValueKind::CouponCode)),
        Button::Flow => {
            slots.push(Slot::optional(name("flow_token"), ValueKind::Payload));
            slots.push(Slot::optional(name("flow_action_data"), ValueKind::Object));
        }
        Button::Catalog => slots.push(Slot::optional(name("product"), ValueKind::Payload)),
        Button::MultiProduct => {
            slots.push(Slot::required(name("product"), ValueKind::Payload));
            slots.push(Slot::required(name("sections"), ValueKind::Sections));
        }
    }
}
