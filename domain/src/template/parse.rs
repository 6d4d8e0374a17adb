//! Reads components in Meta's shape.

use serde_json::{Map, Value};

use super::TemplateError;
use super::slots::slots;
use super::text::{Text, Variable};
use super::{BODY_CHARS_MAX, Template};

pub(super) const HEADER_CHARS_MAX: usize = 60;
const FOOTER_CHARS_MAX: usize = 60;
pub(super) const URL_CHARS_MAX: usize = 2000;
const CARD_BODY_CHARS_MAX: usize = 160;
const OFFER_BODY_CHARS_MAX: usize = 600;
const OFFER_CHARS_MAX: usize = 16;
const BUTTONS_MAX: usize = 10;
const CARDS_MIN: usize = 2;
const CARDS_MAX: usize = 10;

/// The types of a template's components.
pub(super) const TYPES: &[&str] = &["HEADER", "BODY", "FOOTER", "BUTTONS", "CAROUSEL", "LIMITED_TIME_OFFER"];
const CARD_TYPES: &[&str] = &["HEADER", "BODY", "BUTTONS"];

/// What a template and each card of a carousel have.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Part {
    /// Before the names of its variables.
    pub(super) prefix: String,
    /// Before what its parts are called in messages for people.
    pub(super) label: String,
    pub(super) header: Option<Header>,
    /// A template has one; a card may have none.
    pub(super) body: Option<Text>,
    pub(super) body_chars_max: usize,
    /// Each at its place among all buttons.
    pub(super) buttons: Vec<Button>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Header {
    Text(Text),
    Media(Media),
    Location,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Media {
    Image,
    Video,
    Document,
}

impl Media {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Video => "video",
            Self::Document => "document",
        }
    }
}

/// By what a send request says about it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Button {
    QuickReply,
    Url(Text),
    CopyCode,
    /// The button of a one-time password, which WhatsApp takes as a URL button.
    OneTimePassword,
    Flow,
    Catalog,
    MultiProduct,
    /// Nothing is said about it.
    Plain,
}

type Components<'a> = Vec<(&'static str, &'a Map<String, Value>)>;

pub(super) fn parse(components: &Value) -> Result<Template, TemplateError> {
    let components = sorted(components, "", TYPES)?;
    let offer = find(&components, "LIMITED_TIME_OFFER").map(parse_offer).transpose()?;
    let body_chars_max = if offer.is_some() { OFFER_BODY_CHARS_MAX } else { BODY_CHARS_MAX };
    let part = parse_part(&components, "", "", body_chars_max)?;
    if part.body.is_none() {
        return Err(TemplateError::NoBody);
    }
    if let Some(footer) = find(&components, "FOOTER") {
        text_of(footer, "footer", "text", FOOTER_CHARS_MAX)?;
    }
    let cards = find(&components, "CAROUSEL").map(parse_cards).transpose()?.unwrap_or_default();
    let has_expiry = offer.unwrap_or(false);
    let slots = slots(&part, has_expiry, &cards);
    let template = Template { part, has_expiry, cards, slots };
    check_one_kind(&template)?;
    Ok(template)
}

/// The components with their types in upper case, each type once. `label` goes before their numbers.
fn sorted<'a>(
    components: &'a Value,
    label: &str,
    types: &'static [&'static str],
) -> Result<Components<'a>, TemplateError> {
    let components = components.as_array().ok_or_else(|| not_a_list(label))?;
    let mut sorted: Components<'a> = Vec::with_capacity(components.len());
    for (number, component) in (1..).zip(components) {
        let found = component.get("type").and_then(Value::as_str);
        let (Some(component), Some(found)) = (component.as_object(), found) else {
            return Err(TemplateError::NoType { part: format!("{label}component {number}"), known: types.join(", ") });
        };
        let Some(kind) = types.iter().copied().find(|known| known.eq_ignore_ascii_case(found)) else {
            let part = format!("{label}component {number}");
            return Err(TemplateError::UnknownType { part, found: found.to_owned(), known: types.join(", ") });
        };
        if find(&sorted, kind).is_some() {
            return Err(TemplateError::Repeated { part: format!("{label}{kind}") });
        }
        sorted.push((kind, component));
    }
    Ok(sorted)
}

fn not_a_list(label: &str) -> TemplateError {
    match label.trim_end() {
        "" => TemplateError::NotAList,
        card => TemplateError::NoList { part: card.to_owned(), field: "components" },
    }
}

fn find<'a>(components: &Components<'a>, kind: &str) -> Option<&'a Map<String, Value>> {
    components.iter().find(|(known, _)| *known == kind).map(|(_, component)| *component)
}

fn parse_part(
    components: &Components<'_>,
    prefix: &str,
    label: &str,
    body_chars_max: usize,
) -> Result<Part, TemplateError> {
    let body = find(components, "BODY").map(|body| {
        let part = format!("{label}body");
        Text::parse(&part, text_of(body, &part, "text", body_chars_max)?)
    });
    Ok(Part {
        prefix: prefix.to_owned(),
        label: label.to_owned(),
        header: find(components, "HEADER").map(|header| parse_header(header, label)).transpose()?,
        body: body.transpose()?,
        body_chars_max,
        buttons: find(components, "BUTTONS")
            .map(|buttons| parse_buttons(buttons, label))
            .transpose()?
            .unwrap_or_default(),
    })
}

fn parse_header(header: &Map<String, Value>, label: &str) -> Result<Header, TemplateError> {
    let part = format!("{label}header");
    let format = header.get("format").and_then(Value::as_str).unwrap_or("TEXT");
    Ok(match format.to_ascii_uppercase().as_str() {
        "TEXT" => {
            let text = Text::parse(&part, text_of(header, &part, "text", HEADER_CHARS_MAX)?)?;
            Header::Text(text.with_one_variable_at_most(&part)?)
        }
        "IMAGE" => Header::Media(Media::Image),
        "VIDEO" => Header::Media(Media::Video),
        "DOCUMENT" => Header::Media(Media::Document),
        "LOCATION" => Header::Location,
        _ => return Err(TemplateError::HeaderFormat { part, found: format.to_owned() }),
    })
}

fn parse_buttons(component: &Map<String, Value>, label: &str) -> Result<Vec<Button>, TemplateError> {
    let no_list = || TemplateError::NoList { part: format!("{label}BUTTONS component"), field: "buttons" };
    let buttons = component.get("buttons").and_then(Value::as_array).ok_or_else(no_list)?;
    if buttons.len() > BUTTONS_MAX {
        return Err(TemplateError::TooManyButtons { found: buttons.len(), max: BUTTONS_MAX });
    }
    buttons.iter().enumerate().map(|(index, button)| parse_button(button, &format!("{label}button {index}"))).collect()
}

fn parse_button(button: &Value, part: &str) -> Result<Button, TemplateError> {
    let found = button.get("type").and_then(Value::as_str).unwrap_or_default();
    let unknown = || TemplateError::ButtonType { part: part.to_owned(), found: found.to_owned() };
    let button = button.as_object().ok_or_else(unknown)?;
    Ok(match found.to_ascii_uppercase().as_str() {
        "QUICK_REPLY" => Button::QuickReply,
        "URL" => {
            let url = Text::parse(part, text_of(button, part, "url", URL_CHARS_MAX)?)?;
            Button::Url(url.with_one_variable_at_most(part)?)
        }
        "COPY_CODE" => Button::CopyCode,
        "OTP" => Button::OneTimePassword,
        "FLOW" => Button::Flow,
        "CATALOG" => Button::Catalog,
        "MPM" => Button::MultiProduct,
        "PHONE_NUMBER" | "VOICE_CALL" | "REQUEST_CONTACT_INFO" => Button::Plain,
        _ => return Err(unknown()),
    })
}

fn parse_cards(carousel: &Map<String, Value>) -> Result<Vec<Part>, TemplateError> {
    let no_list = || TemplateError::NoList { part: "CAROUSEL component".to_owned(), field: "cards" };
    let cards = carousel.get("cards").and_then(Value::as_array).ok_or_else(no_list)?;
    if !(CARDS_MIN..=CARDS_MAX).contains(&cards.len()) {
        return Err(TemplateError::CardCount { found: cards.len(), min: CARDS_MIN, max: CARDS_MAX });
    }
    cards
        .iter()
        .enumerate()
        .map(|(index, card)| {
            let (prefix, label) = (format!("card.{index}."), format!("card {index} "));
            let components = sorted(card.get("components").unwrap_or(&Value::Null), &label, CARD_TYPES)?;
            let part = parse_part(&components, &prefix, &label, CARD_BODY_CHARS_MAX)?;
            match part.header {
                Some(Header::Media(Media::Image | Media::Video)) => Ok(part),
                _ => Err(TemplateError::CardHeader { part: format!("card {index}") }),
            }
        })
        .collect()
}

/// Does the offer show when it ends? Then each message says when that is.
fn parse_offer(component: &Map<String, Value>) -> Result<bool, TemplateError> {
    let part = "limited-time offer";
    let missing = || TemplateError::TextMissing { part: part.to_owned(), field: "limited_time_offer" };
    let offer = component.get("limited_time_offer").and_then(Value::as_object).ok_or_else(missing)?;
    text_of(offer, part, "text", OFFER_CHARS_MAX)?;
    Ok(offer.get("has_expiration").and_then(Value::as_bool).unwrap_or(false))
}

/// Headers and bodies share one kind of variable: WhatsApp knows one parameter format for a template.
fn check_one_kind(template: &Template) -> Result<(), TemplateError> {
    let mut kinds = template.texts().flat_map(Text::variables).map(|variable| Variable::is_number(&variable));
    match kinds.next() {
        Some(first) if kinds.any(|kind| kind != first) => Err(TemplateError::MixedVariables),
        _ => Ok(()),
    }
}

fn text_of<'a>(
    component: &'a Map<String, Value>,
    part: &str,
    field: &'static str,
    chars_max: usize,
) -> Result<&'a str, TemplateError> {
    let text = component.get(field).and_then(Value::as_str).filter(|text| !text.trim().is_empty());
    let text = text.ok_or_else(|| TemplateError::TextMissing { part: part.to_owned(), field })?;
    let chars = text.chars().count();
    if chars > chars_max {
        return Err(TemplateError::TextTooLong { part: part.to_owned(), chars, chars_max });
    }
    Ok(text)
}
