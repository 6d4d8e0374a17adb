//! WhatsApp templates in Meta's shape: which variables they have, and how they are filled for one contact.
//!
//! A template is read once, by the same code, wherever it is needed: when it is recorded, when a run freezes it, when
//! a message is sent. So what was accepted can always be sent, and a person's preview is what WhatsApp shows.

mod parse;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use thiserror::Error;

use self::parse::{Template, Text, Variable};
use crate::campaign::ParameterMapping;

pub const BODY_CHARS_MAX: usize = 1024;
/// WhatsApp refuses a value with more spaces in a row.
const SPACES_IN_A_ROW_MAX: usize = 4;

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
    #[error("component {number} has no type; known types are HEADER, BODY, FOOTER, BUTTONS")]
    NoType { number: usize },
    #[error("component type {found:?} is not known; known types are HEADER, BODY, FOOTER, BUTTONS")]
    UnknownType { found: String },
    #[error("a header of the format {found:?} cannot be sent yet; only TEXT headers can")]
    HeaderFormat { found: String },
    /// The BUTTONS component holds no list of buttons.
    #[error("the BUTTONS component needs a list \"buttons\"")]
    NoButtons,
    #[error("a button of the type {found:?} cannot be sent yet; URL, QUICK_REPLY and PHONE_NUMBER buttons can")]
    ButtonType { found: String },
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

/// Why a send request cannot be made from a template.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FillError {
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error(transparent)]
    Missing(#[from] MissingVariable),
}

/// A variable has no value; WhatsApp refuses a message with an empty one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the variable {name} has no value")]
pub struct MissingVariable {
    pub name: String,
}

/// The names of a template's variables, each once: those of the body in order of their first appearance (`1` or
/// `name`), then the header's (`header.1` or `header.name`), then one for each URL button (`button.0.1`, by the place
/// of the button among all buttons).
pub fn variables(components: &Value) -> Result<Vec<String>, TemplateError> {
    Ok(Template::parse(components)?.variables())
}

/// The `template.components` of a send request. Components without variables are left out, as WhatsApp wants it.
pub fn request_components(components: &Value, values: &BTreeMap<String, String>) -> Result<Vec<Value>, FillError> {
    let template = Template::parse(components)?;
    let mut request = Vec::new();
    if let Some(header) = template.header.as_ref().filter(|header| header.has_variables()) {
        let parameters = text_parameters(header, "header.", values)?;
        request.push(json!({"type": "header", "parameters": parameters}));
    }
    if template.body.has_variables() {
        let parameters = text_parameters(&template.body, "", values)?;
        request.push(json!({"type": "body", "parameters": parameters}));
    }
    for (index, _) in template.url_buttons.iter().filter(|(_, url)| url.has_variables()) {
        let text = value_of(&parse::button_variable(*index), values)?;
        request.push(json!({
            "type": "button",
            "sub_type": "url",
            "index": index.to_string(),
            "parameters": [{"type": "text", "text": text}],
        }));
    }
    Ok(request)
}

/// Positional parameters are matched by their place in the list, so they come in the order of their numbers, however
/// the text orders them. Named ones carry their names.
fn text_parameters(
    text: &Text,
    prefix: &str,
    values: &BTreeMap<String, String>,
) -> Result<Vec<Value>, MissingVariable> {
    let mut variables = text.variables();
    variables.sort();
    variables
        .into_iter()
        .map(|variable| {
            let value = value_of(&format!("{prefix}{variable}"), values)?;
            Ok(match variable {
                Variable::Number(_) => json!({"type": "text", "text": value}),
                Variable::Name(name) => json!({"type": "text", "parameter_name": name, "text": value}),
            })
        })
        .collect()
}

fn value_of<'a>(name: &str, values: &'a BTreeMap<String, String>) -> Result<&'a str, MissingVariable> {
    let value = values.get(name).map(String::as_str).filter(|value| !value.is_empty());
    value.ok_or_else(|| MissingVariable { name: name.to_owned() })
}

/// A value that WhatsApp accepts in a variable: no line break, no tab, no long run of spaces, no control character.
/// The result may be empty, which counts as no value.
pub fn clean(value: &str) -> String {
    let readable: String = value.chars().filter(|c| c.is_whitespace() || !c.is_control()).collect();
    let mut cleaned = String::with_capacity(readable.len());
    let mut rest = readable.trim_matches(|c: char| c.is_whitespace() || is_blank(c));
    while let Some(start) = rest.find(char::is_whitespace) {
        let (text, tail) = rest.split_at(start);
        let end = tail.find(|c: char| !c.is_whitespace()).unwrap_or(tail.len());
        let (run, tail) = tail.split_at(end);
        let breaks = run.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'));
        cleaned.push_str(text);
        cleaned.push_str(if breaks || run.chars().count() > SPACES_IN_A_ROW_MAX { " " } else { run });
        rest = tail;
    }
    cleaned.push_str(rest);
    cleaned
}

/// Signs that show nothing and join nothing; a value made of them alone would arrive empty. The joiners stay, since
/// Indian scripts and emoji need them.
fn is_blank(c: char) -> bool {
    matches!(c, '\u{200b}' | '\u{2060}' | '\u{feff}')
}

/// The values of a template's variables for one contact: the mapped attribute, or else the fallback.
pub fn fill(
    variables: &[String],
    mapping: &ParameterMapping,
    attributes: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, MissingVariable> {
    variables
        .iter()
        .map(|name| {
            let source = mapping.get(name);
            let attribute = source.and_then(|source| attributes.get(&source.attribute));
            let fallback = source.and_then(|source| source.fallback.as_ref());
            let value =
                [attribute, fallback].into_iter().flatten().map(|value| clean(value)).find(|value| !value.is_empty());
            value.map(|value| (name.clone(), value)).ok_or_else(|| MissingVariable { name: name.clone() })
        })
        .collect()
}

/// The body as its reader sees it. A variable without a value stays as it is written; components that are no template
/// give nothing.
pub fn preview(components: &Value, values: &BTreeMap<String, String>) -> String {
    Template::parse(components).map(|template| template.body.filled(values)).unwrap_or_default()
}
