//! The `template.components` of a send request, exactly as WhatsApp wants them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::parse::{Button, Header, Media, Part};
use super::slots::EXPIRY;
use super::text::{Text, Variable};
use super::value::is_media_id;
use super::{FillError, Template};

/// A flow that needs no token of ours gets the one that Meta's own default is.
const FLOW_TOKEN_DEFAULT: &str = "unused";

type Values = BTreeMap<String, String>;

pub(super) fn components(template: &Template, values: &Values) -> Result<Vec<Value>, FillError> {
    let mut request = text_components(&template.part, values)?;
    if template.has_expiry {
        let expires_at: i64 = value_of(EXPIRY, values)?.parse().map_err(|_| invalid(template, EXPIRY))?;
        request.push(json!({
            "type": "limited_time_offer",
            "parameters": [
                {"type": "limited_time_offer", "limited_time_offer": {"expiration_time_ms": expires_at}},
            ],
        }));
    }
    request.extend(buttons(template, &template.part, values)?);
    if !template.cards.is_empty() {
        let cards: Result<Vec<Value>, FillError> = template
            .cards
            .iter()
            .enumerate()
            .map(|(index, card)| {
                let mut components = text_components(card, values)?;
                components.extend(buttons(template, card, values)?);
                Ok(json!({"card_index": index, "components": components}))
            })
            .collect();
        request.push(json!({"type": "carousel", "cards": cards?}));
    }
    Ok(request)
}

/// Header and body; one without variables is left out.
fn text_components(part: &Part, values: &Values) -> Result<Vec<Value>, FillError> {
    let mut request = Vec::new();
    if let Some(parameters) = header_parameters(part, values)? {
        request.push(json!({"type": "header", "parameters": parameters}));
    }
    if let Some(body) = part.body.as_ref().filter(|body| body.has_variables()) {
        request.push(json!({"type": "body", "parameters": text_parameters(body, &part.prefix, values)?}));
    }
    Ok(request)
}

fn header_parameters(part: &Part, values: &Values) -> Result<Option<Vec<Value>>, FillError> {
    let prefix = format!("{}header.", part.prefix);
    let value = |name: &str| value_of(&format!("{prefix}{name}"), values);
    Ok(match &part.header {
        None => None,
        Some(Header::Text(text)) if text.has_variables() => Some(text_parameters(text, &prefix, values)?),
        Some(Header::Text(_)) => None,
        Some(Header::Media(media)) => {
            let name = media.name();
            let source = value(name)?;
            let mut content = Map::new();
            content.insert(if is_media_id(source) { "id" } else { "link" }.to_owned(), source.into());
            if let (Media::Document, Ok(filename)) = (media, value("filename")) {
                content.insert("filename".to_owned(), filename.into());
            }
            Some(vec![json!({"type": name, name: content})])
        }
        Some(Header::Location) => Some(vec![json!({
            "type": "location",
            "location": {
                "latitude": value("latitude")?,
                "longitude": value("longitude")?,
                "name": value("name")?,
                "address": value("address")?,
            },
        })]),
    })
}

/// Positional parameters are matched by their place in the list, so they come in the order of their numbers, however
/// the text orders them. Named ones carry their names.
fn text_parameters(text: &Text, prefix: &str, values: &Values) -> Result<Vec<Value>, FillError> {
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

/// The buttons about which something is said. The index tells which of the template's buttons is meant.
fn buttons(template: &Template, part: &Part, values: &Values) -> Result<Vec<Value>, FillError> {
    let mut request = Vec::new();
    for (index, button) in part.buttons.iter().enumerate() {
        let prefix = format!("{}button.{index}.", part.prefix);
        if let Some((sub_type, parameter)) = button_parameter(template, button, &prefix, values)? {
            request.push(json!({
                "type": "button", "sub_type": sub_type, "index": index.to_string(), "parameters": [parameter],
            }));
        }
    }
    Ok(request)
}

fn button_parameter(
    template: &Template,
    button: &Button,
    prefix: &str,
    values: &Values,
) -> Result<Option<(&'static str, Value)>, FillError> {
    let optional = |name: &str| value_of(&format!("{prefix}{name}"), values).ok();
    let required = |name: &str| value_of(&format!("{prefix}{name}"), values);
    let json_of = |name: &str, text: &str| -> Result<Value, FillError> {
        serde_json::from_str(text).map_err(|_| invalid(template, &format!("{prefix}{name}")))
    };
    let action = |action: Map<String, Value>| json!({"type": "action", "action": action});
    Ok(match button {
        Button::Plain => None,
        Button::QuickReply => {
            optional("payload").map(|payload| ("quick_reply", json!({"type": "payload", "payload": payload})))
        }
        Button::Url(url) if !url.has_variables() => None,
        Button::Url(_) | Button::OneTimePassword => Some(("url", json!({"type": "text", "text": required("1")?}))),
        Button::CopyCode => {
            let code = required("coupon_code")?;
            Some(("copy_code", json!({"type": "coupon_code", "coupon_code": code})))
        }
        Button::Flow => {
            let mut flow = Map::new();
            flow.insert("flow_token".to_owned(), optional("flow_token").unwrap_or(FLOW_TOKEN_DEFAULT).into());
            if let Some(data) = optional("flow_action_data") {
                flow.insert("flow_action_data".to_owned(), json_of("flow_action_data", data)?);
            }
            Some(("flow", action(flow)))
        }
        Button::Catalog => optional("product").map(|product| {
            let thumbnail = Map::from_iter([("thumbnail_product_retailer_id".to_owned(), product.into())]);
            // WhatsApp prints this one in capitals.
            ("CATALOG", action(thumbnail))
        }),
        Button::MultiProduct => {
            let products = Map::from_iter([
                ("thumbnail_product_retailer_id".to_owned(), required("product")?.into()),
                ("sections".to_owned(), json_of("sections", required("sections")?)?),
            ]);
            Some(("mpm", action(products)))
        }
    })
}

fn value_of<'a>(name: &str, values: &'a Values) -> Result<&'a str, FillError> {
    let value = values.get(name).map(String::as_str).filter(|value| !value.is_empty());
    value.ok_or_else(|| FillError::Missing { name: name.to_owned() })
}

/// The variable is one of the template's.
fn invalid(template: &Template, name: &str) -> FillError {
    match template.slot(name) {
        Some(slot) => FillError::Invalid { name: name.to_owned(), takes: slot.kind },
        None => FillError::Missing { name: name.to_owned() },
    }
}
