use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};

use super::{BODY_CHARS_MAX, TemplateError};

const HEADER_CHARS_MAX: usize = 60;
const FOOTER_CHARS_MAX: usize = 60;
const URL_CHARS_MAX: usize = 2000;

/// A template of which every part can be sent.
pub(super) struct Template {
    pub(super) header: Option<Text>,
    pub(super) body: Text,
    /// With the button's place among all buttons.
    pub(super) url_buttons: Vec<(usize, Text)>,
}

impl Template {
    pub(super) fn parse(components: &Value) -> Result<Self, TemplateError> {
        let components = components.as_array().ok_or(TemplateError::NotAList)?;
        let mut by_type: BTreeMap<String, &Map<String, Value>> = BTreeMap::new();
        for (index, component) in components.iter().enumerate() {
            let found = component.get("type").and_then(Value::as_str);
            let (Some(component), Some(found)) = (component.as_object(), found) else {
                return Err(TemplateError::NoType { number: index + 1 });
            };
            let part = found.to_ascii_uppercase();
            if !matches!(part.as_str(), "HEADER" | "BODY" | "FOOTER" | "BUTTONS") {
                return Err(TemplateError::UnknownType { found: found.to_owned() });
            }
            if by_type.contains_key(&part) {
                return Err(TemplateError::Repeated { part });
            }
            by_type.insert(part, component);
        }
        let body = by_type.get("BODY").ok_or(TemplateError::NoBody)?;
        let body = Text::parse("body", text_of(body, "body", "text", BODY_CHARS_MAX)?)?;
        if let Some(footer) = by_type.get("FOOTER") {
            text_of(footer, "footer", "text", FOOTER_CHARS_MAX)?;
        }
        let header = by_type.get("HEADER").map(|header| parse_header(header)).transpose()?;
        let url_buttons =
            by_type.get("BUTTONS").map(|buttons| parse_url_buttons(buttons)).transpose()?.unwrap_or_default();
        let template = Self { header, body, url_buttons };
        template.check_one_kind()?;
        Ok(template)
    }

    pub(super) fn variables(&self) -> Vec<String> {
        let body = self.body.variables().into_iter().map(|variable| variable.to_string());
        let header = self.header.iter().flat_map(Text::variables).map(|variable| format!("header.{variable}"));
        let buttons = self.url_buttons.iter().filter(|(_, url)| url.has_variables());
        body.chain(header).chain(buttons.map(|(index, _)| button_variable(*index))).collect()
    }

    /// Header and body share one kind of variable: WhatsApp knows one parameter format for a template.
    fn check_one_kind(&self) -> Result<(), TemplateError> {
        let mut kinds = self.header.iter().chain([&self.body]).flat_map(Text::variables).map(|v| v.is_number());
        match kinds.next() {
            Some(first) if kinds.any(|kind| kind != first) => Err(TemplateError::MixedVariables),
            _ => Ok(()),
        }
    }
}

pub(super) fn button_variable(index: usize) -> String {
    format!("button.{index}.1")
}

fn parse_header(header: &Map<String, Value>) -> Result<Text, TemplateError> {
    let format = header.get("format").and_then(Value::as_str).unwrap_or("TEXT");
    if !format.eq_ignore_ascii_case("TEXT") {
        return Err(TemplateError::HeaderFormat { found: format.to_owned() });
    }
    Text::parse("header", text_of(header, "header", "text", HEADER_CHARS_MAX)?)?.with_one_variable_at_most("header")
}

/// Buttons that need no value when the template is sent are only checked to be of such a type.
fn parse_url_buttons(component: &Map<String, Value>) -> Result<Vec<(usize, Text)>, TemplateError> {
    let buttons = component.get("buttons").and_then(Value::as_array).ok_or(TemplateError::NoButtons)?;
    let mut urls = Vec::new();
    for (index, button) in buttons.iter().enumerate() {
        let found = button.get("type").and_then(Value::as_str).unwrap_or_default();
        match (found.to_ascii_uppercase().as_str(), button.as_object()) {
            ("URL", Some(button)) => {
                let part = format!("button {index}");
                let url = Text::parse(&part, text_of(button, &part, "url", URL_CHARS_MAX)?)?;
                urls.push((index, url.with_one_variable_at_most(&part)?));
            }
            ("QUICK_REPLY" | "PHONE_NUMBER", Some(_)) => {}
            _ => return Err(TemplateError::ButtonType { found: found.to_owned() }),
        }
    }
    Ok(urls)
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

/// A variable as it stands in the text. Numbers sort by value, so that the tenth comes after the ninth.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Variable {
    Number(u32),
    Name(String),
}

impl Variable {
    fn parse(name: &str) -> Option<Self> {
        if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()) {
            return name.parse().ok().filter(|number: &u32| number.to_string() == name).map(Self::Number);
        }
        let is_name = name.bytes().any(|byte| byte.is_ascii_lowercase())
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        is_name.then(|| Self::Name(name.to_owned()))
    }

    fn is_number(&self) -> bool {
        matches!(self, Self::Number(_))
    }
}

impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

enum Piece {
    Literal(String),
    Variable(Variable),
}

/// A text in pieces.
pub(super) struct Text(Vec<Piece>);

impl Text {
    fn parse(part: &str, text: &str) -> Result<Self, TemplateError> {
        let malformed = || TemplateError::MalformedBraces { part: part.to_owned() };
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((literal, tail)) = rest.split_once("{{") {
            let (name, tail) = tail.split_once("}}").ok_or_else(malformed)?;
            pieces.push(Piece::Literal(literal.to_owned()));
            pieces.push(Piece::Variable(Variable::parse(name).ok_or_else(malformed)?));
            rest = tail;
        }
        pieces.push(Piece::Literal(rest.to_owned()));
        if pieces.iter().any(|piece| matches!(piece, Piece::Literal(literal) if literal.contains("}}"))) {
            return Err(malformed());
        }
        let text = Self(pieces);
        text.check_numbers(part)?;
        Ok(text)
    }

    fn check_numbers(&self, part: &str) -> Result<(), TemplateError> {
        let variables = self.variables();
        if variables.iter().any(Variable::is_number) && !variables.iter().all(Variable::is_number) {
            return Err(TemplateError::MixedVariables);
        }
        let mut numbers: Vec<u32> = variables
            .iter()
            .filter_map(|v| if let Variable::Number(number) = v { Some(*number) } else { None })
            .collect();
        numbers.sort_unstable();
        match (1..).zip(numbers).find(|(expected, number)| expected != number) {
            Some((missing, _)) => Err(TemplateError::NumberMissing { part: part.to_owned(), missing }),
            None => Ok(()),
        }
    }

    fn with_one_variable_at_most(self, part: &str) -> Result<Self, TemplateError> {
        if self.0.iter().filter(|piece| matches!(piece, Piece::Variable(_))).count() > 1 {
            return Err(TemplateError::TooManyVariables { part: part.to_owned() });
        }
        Ok(self)
    }

    pub(super) fn has_variables(&self) -> bool {
        self.0.iter().any(|piece| matches!(piece, Piece::Variable(_)))
    }

    /// Each variable once, in order of first appearance.
    pub(super) fn variables(&self) -> Vec<Variable> {
        let mut variables: Vec<Variable> = Vec::new();
        for piece in &self.0 {
            if let Piece::Variable(variable) = piece
                && !variables.contains(variable)
            {
                variables.push(variable.clone());
            }
        }
        variables
    }

    pub(super) fn filled(&self, values: &BTreeMap<String, String>) -> String {
        self.0
            .iter()
            .map(|piece| match piece {
                Piece::Literal(literal) => literal.clone(),
                Piece::Variable(variable) => {
                    values.get(&variable.to_string()).cloned().unwrap_or_else(|| format!("{{{{{variable}}}}}"))
                }
            })
            .collect()
    }
}
