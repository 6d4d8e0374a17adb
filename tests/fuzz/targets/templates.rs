use std::collections::{BTreeMap, BTreeSet};

use api::sandbox;
use chrono::DateTime;
use domain::template::{Template, ValueKind, clean, request_components, variables};
use serde_json::{Value, json};

use super::{promise, without_nul};
use crate::seeds;

/// The start of 12 February 2025: offers end later.
const NOW: i64 = 1_739_318_400;

type Values = BTreeMap<String, String>;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    seeds::files("requests", ".wire.json")
}

pub(super) fn check(input: &[u8]) -> Result<String, String> {
    let Ok(input) = serde_json::from_slice::<Value>(input) else { return Ok("no JSON".to_owned()) };
    let components = input.pointer("/template/components").unwrap_or(&Value::Null);
    let parsed = Template::parse(components);
    promise(parsed == Template::parse(components), "the same components are read in two ways")?;
    promise(
        parsed.as_ref().map(Template::variables).map_err(Clone::clone) == variables(components),
        "a template has other variables than its components",
    )?;
    let template = match parsed {
        Ok(template) => template,
        Err(error) => return Ok(format!("{error:?}").split([' ', '{']).next().unwrap_or_default().to_owned()),
    };
    let names: BTreeSet<&str> = template.slots().iter().map(|slot| slot.name.as_str()).collect();
    promise(names.len() == template.slots().len(), "two variables have one name")?;
    let given = given(&input);
    let as_given = check_filled(components, &template, &given)?;
    let completed = check_filled(components, &template, &completed(&template, &given))?;
    let kinds: BTreeSet<String> = template.slots().iter().map(|slot| format!("{:?}", slot.kind)).collect();
    Ok(format!("{as_given} {completed} {kinds:?}"))
}

fn given(input: &Value) -> Values {
    let values = input.get("values").and_then(Value::as_object);
    let text = |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_owned()));
    values.into_iter().flatten().filter_map(text).collect()
}

/// With a value that can be sent for each variable that has none.
fn completed(template: &Template, given: &Values) -> Values {
    let now = DateTime::from_timestamp(NOW, 0).unwrap_or_default();
    let mut values = Values::new();
    for slot in template.slots() {
        let alone = given.get(&slot.name).cloned().filter(|value| {
            let is_past = |sent: String| sent.parse::<i64>().is_ok_and(|end| end <= now.timestamp_millis());
            slot.kind.read(value).is_ok_and(|sent| slot.kind != ValueKind::Instant || !is_past(sent))
        });
        values.insert(slot.name.clone(), alone.unwrap_or_else(|| sendable(slot.kind).to_owned()));
    }
    values
}

fn sendable(kind: ValueKind) -> &'static str {
    match kind {
        ValueKind::Text | ValueKind::UrlSuffix | ValueKind::Payload | ValueKind::CouponCode => "a",
        ValueKind::Media => "200000000000001",
        ValueKind::Filename => "a.pdf",
        ValueKind::Latitude | ValueKind::Longitude => "19.0760",
        ValueKind::Instant => "2025-03-01T00:00:00+05:30",
        ValueKind::Object => "{}",
        ValueKind::Sections => r#"[{"title": "A", "product_items": [{"product_retailer_id": "1"}]}]"#,
    }
}

fn check_filled(components: &Value, template: &Template, given: &Values) -> Result<&'static str, String> {
    given.values().try_for_each(|value| check_cleaned(value))?;
    let now = DateTime::from_timestamp(NOW, 0).unwrap_or_default();
    let Ok(values) = template.fill_with(given, now) else { return Ok("not filled") };
    for slot in template.slots() {
        match values.get(&slot.name) {
            Some(value) => check_value(slot.kind, value)?,
            None => promise(!slot.required, "a filled template lacks a variable")?,
        }
    }
    let again = template.fill_with(&values, now);
    promise(again.as_ref() == Ok(&values), "values are other ones when they are filled in again")?;
    let request = template.request(&values).map_err(|error| format!("a filled template gives no request: {error}"))?;
    promise(
        request_components(components, &values).as_ref() == Ok(&request),
        "the components give another request than their template",
    )?;
    template.preview(&values);
    check_taken(components, template, &request)?;
    Ok("filled")
}

/// What was cleaned is clean.
fn check_cleaned(value: &str) -> Result<(), String> {
    let cleaned = clean(value);
    promise(clean(&cleaned) == cleaned, "a cleaned value can be cleaned again")?;
    let breaks = cleaned.chars().any(|sign| sign.is_control() || matches!(sign, '\u{2028}' | '\u{2029}'));
    promise(!breaks && !cleaned.contains("     "), "a cleaned value has a line break, a tab or more than four spaces")
}

fn check_value(kind: ValueKind, value: &str) -> Result<(), String> {
    without_nul(value, "a value")?;
    promise(!value.is_empty(), "a value is empty")?;
    promise(kind.read(value).as_deref() == Ok(value), "a value changes when it is read again")?;
    // JSON keeps what is in its texts, as JSON.
    let is_json = matches!(kind, ValueKind::Object | ValueKind::Sections);
    if is_json { Ok(()) } else { check_cleaned(value) }
}

fn check_taken(components: &Value, template: &Template, request: &[Value]) -> Result<(), String> {
    let defined: sandbox::Template = serde_json::from_value(json!({
        "name": "invented_offer", "language": "en", "parameter_format": template.parameter_format().name(),
        "components": components,
    }))
    .map_err(|error| format!("the sandbox cannot hold a template: {error}"))?;
    let body = json!({
        "messaging_product": "whatsapp", "to": "+919999900001", "type": "template",
        "template": {"name": "invented_offer", "language": {"code": "en"}, "components": request},
    });
    sandbox::check_send(body.to_string().as_bytes(), &defined)
        .map_err(|refused| format!("the sandbox refuses a request: {refused}"))
}
