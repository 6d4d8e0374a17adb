//! WhatsApp templates in Meta's shape: which variables they have, and how they are filled for one contact.
//!
//! A template is read once, by the same code, wherever it is needed: when it is recorded, when a run freezes it, when
//! a message is sent. So what was accepted can always be sent, and a person's preview is what WhatsApp shows.
//!
//! Everything that a send request can fill has a name: `1` or `name` in the body, `header.1` in the header, `header.image`
//! for its picture, `button.0.1` by the place of the button among all buttons, `card.0.button.0.payload` for a card of
//! a carousel. `slots` is the one list of them.

mod parse;
mod request;
mod slots;
#[cfg(test)]
mod tests;
mod text;
mod value;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::Value;
use thiserror::Error;

use self::parse::{HEADER_CHARS_MAX, Header, Part, URL_CHARS_MAX};
pub use self::slots::Slot;
use self::text::Text;
pub use self::value::{BadValue, ValueKind, clean};
use crate::campaign::{ParameterMapping, ParameterSource};

pub const BODY_CHARS_MAX: usize = 1024;

/// Why components are not a template that can be sent. `part` is the component or the button meant.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TemplateError {
    /// The components are not a list.
    #[error("components must be a list such as [{{\"type\": \"BODY\", \"text\": \"Dear {{{{1}}}}\"}}]")]
    NotAList,
    #[error("there is no BODY component; a template needs one")]
    NoBody,
    #[error("there is more than one {part} component")]
    Repeated { part: String },
    /// A component without a `type`, or one that is not an object.
    #[error("{part} has no type; known types are {known}")]
    NoType { part: String, known: String },
    #[error("{part} has the type {found:?}, which is not known there; known types are {known}")]
    UnknownType { part: String, found: String, known: String },
    #[error("the {part} has the format {found:?}; TEXT, IMAGE, VIDEO, DOCUMENT and LOCATION can be sent")]
    HeaderFormat { part: String, found: String },
    #[error("the {part} needs a list \"{field}\"")]
    NoList { part: String, field: &'static str },
    #[error(
        "{part} has the type {found:?}; QUICK_REPLY, URL, PHONE_NUMBER, COPY_CODE, OTP, FLOW, CATALOG, MPM, VOICE_CALL and \
         REQUEST_CONTACT_INFO buttons can be sent"
    )]
    ButtonType { part: String, found: String },
    #[error("there are {found} buttons; WhatsApp allows {max}")]
    TooManyButtons { found: usize, max: usize },
    #[error("the carousel has {found} cards; WhatsApp allows {min} to {max}")]
    CardCount { found: usize, min: usize, max: usize },
    #[error("{part} needs a HEADER of the format IMAGE or VIDEO")]
    CardHeader { part: String },
    /// A component has no text, or a URL button no `url`.
    #[error("the {part} has no {field}")]
    TextMissing { part: String, field: &'static str },
    #[error("the {part} has {chars} characters; WhatsApp allows {chars_max}")]
    TextTooLong { part: String, chars: usize, chars_max: usize },
    /// Braces that do not enclose a variable.
    #[error(
        "the {part} has braces that are not a variable; write {{{{1}}}} or {{{{name}}}} with lower-case letters, digits \
         and underscores, without spaces"
    )]
    MalformedBraces { part: String },
    /// Numbered variables must be 1, 2, 3 and so on.
    #[error("the {part} has no variable {{{{{missing}}}}}; numbered variables start at 1 and leave no gap")]
    NumberMissing { part: String, missing: u32 },
    #[error("numbered and named variables are mixed; use only numbers or only names")]
    MixedVariables,
    #[error("the {part} has more than one variable; WhatsApp allows one there")]
    TooManyVariables { part: String },
}

/// Why a template cannot be filled for one contact. Names variables and parts, never values.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FillError {
    /// WhatsApp refuses a message without a value for it, or with an empty one.
    #[error("the variable {name} has no value")]
    Missing { name: String },
    #[error("the variable {name} has a value that cannot be sent; it takes {takes}")]
    Invalid { name: String, takes: ValueKind },
    /// WhatsApp counts the text with its values.
    #[error("the {part} has {chars} characters with its values; WhatsApp allows {chars_max}")]
    TooLong { part: String, chars: usize, chars_max: usize },
}

/// Why a send request cannot be made from a template.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RequestError {
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error(transparent)]
    Fill(#[from] FillError),
}

/// How a template's texts name their variables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParameterFormat {
    Positional,
    Named,
}

impl ParameterFormat {
    pub fn name(self) -> &'static str {
        match self {
            Self::Positional => "POSITIONAL",
            Self::Named => "NAMED",
        }
    }
}

/// A template of which every part can be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    part: Part,
    /// Does each message say when the offer ends?
    has_expiry: bool,
    /// The cards of a carousel.
    cards: Vec<Part>,
    slots: Vec<Slot>,
}

impl Template {
    pub fn parse(components: &Value) -> Result<Self, TemplateError> {
        parse::parse(components)
    }

    /// Everything that can be filled, each once: the body's in order of first appearance, the header's, the buttons',
    /// the offer's, and the same for each card.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    pub fn slot(&self, name: &str) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.name == name)
    }

    /// The names of those that WhatsApp wants.
    pub fn variables(&self) -> Vec<String> {
        self.names(true)
    }

    /// The names of those that may be left out.
    pub fn optional_variables(&self) -> Vec<String> {
        self.names(false)
    }

    fn names(&self, required: bool) -> Vec<String> {
        self.slots.iter().filter(|slot| slot.required == required).map(|slot| slot.name.clone()).collect()
    }

    /// Named only if a text has a name in it.
    pub fn parameter_format(&self) -> ParameterFormat {
        if self.texts().flat_map(Text::variables).any(|variable| !variable.is_number()) {
            ParameterFormat::Named
        } else {
            ParameterFormat::Positional
        }
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        std::iter::once(&self.part).chain(&self.cards)
    }

    /// Headers and bodies.
    fn texts(&self) -> impl Iterator<Item = &Text> {
        self.parts().flat_map(|part| {
            let header = part.header.as_ref().and_then(|header| match header {
                Header::Text(text) => Some(text),
                Header::Media(_) | Header::Location => None,
            });
            header.into_iter().chain(&part.body)
        })
    }

    /// The values for one contact, in the form in which they are sent: the mapped attribute or else the fallback, or
    /// the constant. `at` is when the message is made; an offer must end later.
    pub fn fill(
        &self,
        mapping: &ParameterMapping,
        attributes: &BTreeMap<String, String>,
        at: DateTime<Utc>,
    ) -> Result<BTreeMap<String, String>, FillError> {
        let mut values = BTreeMap::new();
        for slot in &self.slots {
            match mapping.get(&slot.name).and_then(|source| source.value(attributes)) {
                Some(text) => drop(values.insert(slot.name.clone(), slot.read(text, at)?)),
                None if slot.required => return Err(FillError::Missing { name: slot.name.clone() }),
                None => {}
            }
        }
        self.check_lengths(&values)?;
        Ok(values)
    }

    /// Values that were given one by one, in the form in which they are sent.
    pub fn fill_with(
        &self,
        given: &BTreeMap<String, String>,
        at: DateTime<Utc>,
    ) -> Result<BTreeMap<String, String>, FillError> {
        let constant =
            |(name, value): (&String, &String)| (name.clone(), ParameterSource::Constant { value: value.clone() });
        self.fill(&given.iter().map(constant).collect(), &BTreeMap::new(), at)
    }

    fn check_lengths(&self, values: &BTreeMap<String, String>) -> Result<(), FillError> {
        let check = |text: &Text, prefix: &str, part: String, chars_max: usize| {
            let chars = text.filled(prefix, values).chars().count();
            if chars > chars_max { Err(FillError::TooLong { part, chars, chars_max }) } else { Ok(()) }
        };
        for part in self.parts() {
            let (prefix, label) = (&part.prefix, &part.label);
            if let Some(body) = &part.body {
                check(body, prefix, format!("{label}body"), part.body_chars_max)?;
            }
            if let Some(Header::Text(text)) = &part.header {
                check(text, &format!("{prefix}header."), format!("{label}header"), HEADER_CHARS_MAX)?;
            }
            for (index, button) in part.buttons.iter().enumerate() {
                if let parse::Button::Url(url) = button {
                    check(url, &format!("{prefix}button.{index}."), format!("{label}button {index}"), URL_CHARS_MAX)?;
                }
            }
        }
        Ok(())
    }

    /// The `template.components` of a send request. Components without variables are left out, as WhatsApp wants it.
    pub fn request(&self, values: &BTreeMap<String, String>) -> Result<Vec<Value>, FillError> {
        request::components(self, values)
    }

    /// The body as its reader sees it. A variable without a value stays as it is written.
    pub fn preview(&self, values: &BTreeMap<String, String>) -> String {
        self.part.body.as_ref().map(|body| body.filled("", values)).unwrap_or_default()
    }
}

impl Slot {
    fn read(&self, text: &str, at: DateTime<Utc>) -> Result<String, FillError> {
        let invalid = || FillError::Invalid { name: self.name.clone(), takes: self.kind };
        let value = self.kind.read(text).map_err(|_| invalid())?;
        let is_past = self.kind == ValueKind::Instant
            && value.parse::<i64>().is_ok_and(|expires_at| expires_at <= at.timestamp_millis());
        if is_past { Err(invalid()) } else { Ok(value) }
    }
}

/// The names of a template's variables that WhatsApp wants.
pub fn variables(components: &Value) -> Result<Vec<String>, TemplateError> {
    Ok(Template::parse(components)?.variables())
}

/// The `template.components` of a send request.
pub fn request_components(components: &Value, values: &BTreeMap<String, String>) -> Result<Vec<Value>, RequestError> {
    Ok(Template::parse(components)?.request(values)?)
}
