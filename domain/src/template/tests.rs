use serde_json::json;

use super::*;
use crate::campaign::ParameterSource;

fn values(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn body(text: &str) -> Value {
    json!([{"type": "BODY", "text": text}])
}

fn everything() -> Value {
    json!([
        {"type": "HEADER", "format": "TEXT", "text": "Hi {{1}}"},
        {"type": "BODY", "text": "Dear {{1}}, your instalment of {{2}} is due", "example": {"body_text": [["Asha", "500"]]}},
        {"type": "FOOTER", "text": "Reply STOP to end"},
        {"type": "BUTTONS", "buttons": [
            {"type": "QUICK_REPLY", "text": "Paid"},
            {"type": "URL", "text": "Pay", "url": "https://pay.example/{{1}}"},
            {"type": "URL", "text": "Shop", "url": "https://shop.example/"},
            {"type": "PHONE_NUMBER", "text": "Call", "phone_number": "+912266778899"},
        ]},
    ])
}

#[test]
fn variables_come_once_in_order_of_appearance() {
    let cases: [(Value, &[&str]); 9] = [
        (body("No variables"), &[]),
        (body("Dear {{1}}, {{2}}"), &["1", "2"]),
        (body("{{2}} before {{1}}, {{2}} again"), &["2", "1"]),
        (body("{{1}}"), &["1"]),
        (body("Dear {{first_name}}, pay {{amount_2}}"), &["first_name", "amount_2"]),
        (body("{single} braces and } are text"), &[]),
        (json!([{"type": "body", "text": "{{1}}"}, {"type": "Footer", "text": "Bye"}]), &["1"]),
        (
            json!([{"type": "HEADER", "text": "Hi {{name}}"}, {"type": "BODY", "text": "{{name}} and {{amount}}"}]),
            &["name", "amount", "header.name"],
        ),
        (everything(), &["1", "2", "header.1", "button.1.1"]),
    ];
    for (components, expected) in cases {
        let expected: Vec<_> = expected.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(variables(&components), Ok(expected), "{components}");
    }
}

#[test]
fn components_that_cannot_be_sent_are_refused_with_their_reason() {
    let with_body = |component: Value| json!([component, {"type": "BODY", "text": "Hello"}]);
    let with_buttons = |buttons: Value| with_body(json!({"type": "BUTTONS", "buttons": buttons}));
    let braces = |part: &str| TemplateError::MalformedBraces { part: part.to_owned() };
    let cases = [
        (json!({"type": "BODY", "text": "Hello"}), TemplateError::NotAList),
        (json!([]), TemplateError::NoBody),
        (json!([{"type": "FOOTER", "text": "Bye"}]), TemplateError::NoBody),
        (with_body(json!({"type": "body", "text": "Again"})), TemplateError::Repeated { part: "BODY".to_owned() }),
        (with_body(json!({"text": "Hello"})), TemplateError::NoType { number: 1 }),
        (with_body(json!("BODY")), TemplateError::NoType { number: 1 }),
        (with_body(json!({"type": "CAROUSEL"})), TemplateError::UnknownType { found: "CAROUSEL".to_owned() }),
        (
            with_body(json!({"type": "HEADER", "format": "image"})),
            TemplateError::HeaderFormat { found: "image".to_owned() },
        ),
        (with_body(json!({"type": "BUTTONS"})), TemplateError::NoButtons),
        (with_buttons(json!([{"type": "COPY_CODE"}])), TemplateError::ButtonType { found: "COPY_CODE".to_owned() }),
        (
            with_buttons(json!([{"type": "URL", "text": "Pay"}])),
            TemplateError::TextMissing { part: "button 0".to_owned(), field: "url" },
        ),
        (json!([{"type": "BODY"}]), TemplateError::TextMissing { part: "body".to_owned(), field: "text" }),
        (body("  "), TemplateError::TextMissing { part: "body".to_owned(), field: "text" }),
        (json!([{"type": "BODY", "text": 7}]), TemplateError::TextMissing { part: "body".to_owned(), field: "text" }),
        (with_body(json!({"type": "FOOTER"})), TemplateError::TextMissing { part: "footer".to_owned(), field: "text" }),
        (
            body(&"अ".repeat(BODY_CHARS_MAX + 1)),
            TemplateError::TextTooLong { part: "body".to_owned(), chars: 1025, chars_max: 1024 },
        ),
        (body("Dear {{1}} and {{3}}"), TemplateError::NumberMissing { part: "body".to_owned(), missing: 2 }),
        (body("Dear {{2}}"), TemplateError::NumberMissing { part: "body".to_owned(), missing: 1 }),
        (body("Dear {{0}}"), TemplateError::NumberMissing { part: "body".to_owned(), missing: 1 }),
        (body("Dear {{1}} of {{city}}"), TemplateError::MixedVariables),
        (
            json!([{"type": "HEADER", "text": "Hi {{1}}"}, {"type": "BODY", "text": "{{name}}"}]),
            TemplateError::MixedVariables,
        ),
        (
            with_body(json!({"type": "HEADER", "text": "{{1}} {{2}}"})),
            TemplateError::TooManyVariables { part: "header".to_owned() },
        ),
        (
            with_buttons(json!([{"type": "URL", "url": "https://x.example/{{1}}/{{1}}"}])),
            TemplateError::TooManyVariables { part: "button 0".to_owned() },
        ),
        (body("Dear {{1}"), braces("body")),
        (body("Dear {{1"), braces("body")),
        (body("Dear 1}}"), braces("body")),
        (body("Dear {{}}"), braces("body")),
        (body("Dear {{ 1 }}"), braces("body")),
        (body("Dear {{01}}"), braces("body")),
        (body("Dear {{Name}}"), braces("body")),
        (body("Dear {{first name}}"), braces("body")),
        (body("Dear {{{1}}}"), braces("body")),
        (body("Dear {{1}} and {{4294967296}}"), braces("body")),
    ];
    for (components, expected) in cases {
        assert_eq!(variables(&components), Err(expected), "{components}");
    }
    assert_eq!(variables(&body(&"अ".repeat(BODY_CHARS_MAX))), Ok(vec![]));
}

#[test]
fn reasons_say_what_is_known_and_how_to_write_it() {
    let unknown = TemplateError::UnknownType { found: "BODDY".to_owned() }.to_string();
    assert!(unknown.contains("BODDY") && unknown.contains("HEADER, BODY, FOOTER, BUTTONS"), "{unknown}");
    let list = TemplateError::NotAList.to_string();
    assert!(list.contains(r#"[{"type": "BODY", "text": "Dear {{1}}"}]"#), "{list}");
    let gap = TemplateError::NumberMissing { part: "body".to_owned(), missing: 2 }.to_string();
    assert!(gap.contains("{{2}}"), "{gap}");
}

#[test]
fn a_request_holds_the_components_with_variables_alone() {
    let filled = values(&[("1", "Asha"), ("2", "Rs 500"), ("header.1", "Asha ji"), ("button.1.1", "x7")]);
    let expected = json!([
        {"type": "header", "parameters": [{"type": "text", "text": "Asha ji"}]},
        {"type": "body", "parameters": [{"type": "text", "text": "Asha"}, {"type": "text", "text": "Rs 500"}]},
        {"type": "button", "sub_type": "url", "index": "1", "parameters": [{"type": "text", "text": "x7"}]},
    ]);
    assert_eq!(request_components(&everything(), &filled).map(Value::Array), Ok(expected));
    assert_eq!(request_components(&body("Hello"), &filled), Ok(vec![]));
}

#[test]
fn positional_parameters_follow_their_numbers_and_named_ones_carry_their_names() {
    let swapped: String = (1..=11).rev().map(|number| format!("{{{{{number}}}}} ")).collect();
    let filled: BTreeMap<_, _> = (1..=11).map(|number| (number.to_string(), format!("v{number}"))).collect();
    let request = request_components(&body(&swapped), &filled).expect("every variable has a value");
    let texts: Vec<_> =
        request[0]["parameters"].as_array().expect("a list").iter().map(|p| p["text"].clone()).collect();
    assert_eq!(texts, (1..=11).map(|number| json!(format!("v{number}"))).collect::<Vec<_>>());

    let request = request_components(&body("Dear {{first_name}}"), &values(&[("first_name", "Asha")]));
    let expected = json!([
        {"type": "body", "parameters": [{"type": "text", "parameter_name": "first_name", "text": "Asha"}]},
    ]);
    assert_eq!(request.map(Value::Array), Ok(expected));
}

#[test]
fn a_request_without_a_value_names_the_variable() {
    let missing = |name: &str| Err(FillError::Missing(MissingVariable { name: name.to_owned() }));
    let components = everything();
    assert_eq!(request_components(&components, &values(&[("header.1", "a"), ("1", "a")])), missing("2"));
    assert_eq!(
        request_components(&components, &values(&[("header.1", ""), ("1", "a"), ("2", "b")])),
        missing("header.1")
    );
    assert_eq!(
        request_components(&components, &values(&[("header.1", "a"), ("1", "a"), ("2", "b")])),
        missing("button.1.1")
    );
    assert_eq!(request_components(&json!([]), &values(&[])), Err(FillError::Template(TemplateError::NoBody)));
}

#[test]
fn cleaned_values_are_what_whatsapp_accepts() {
    let cases = [
        ("Asha", "Asha"),
        ("  Asha  ", "Asha"),
        ("Asha\nPatel", "Asha Patel"),
        ("Asha \r\n\t Patel", "Asha Patel"),
        ("Asha    Patel", "Asha    Patel"),
        ("Asha     Patel", "Asha Patel"),
        ("Asha  \u{0}\u{7}   Patel", "Asha Patel"),
        ("Asha\u{0}", "Asha"),
        ("Asha\u{2028}Patel\u{b}Rao", "Asha Patel Rao"),
        ("", ""),
        (" \n\t ", ""),
        ("\u{0}\u{200b}\u{feff}", ""),
        ("क्\u{200d}ष", "क्\u{200d}ष"),
    ];
    for (value, expected) in cases {
        assert_eq!(clean(value), expected, "{value:?}");
        assert_eq!(clean(expected), expected, "{value:?}");
    }
}

#[test]
fn a_variable_takes_the_attribute_then_the_fallback_and_is_missing_otherwise() {
    let source = |attribute: &str, fallback: Option<&str>| ParameterSource {
        attribute: attribute.to_owned(),
        fallback: fallback.map(str::to_owned),
    };
    let mapping = ParameterMapping::from([
        ("1".to_owned(), source("name", Some("Customer"))),
        ("2".to_owned(), source("amount", None)),
        ("3".to_owned(), source("city", Some(" \n "))),
    ]);
    let fill_one = |name: &str, attributes: &[(&str, &str)]| {
        fill(&[name.to_owned()], &mapping, &values(attributes)).map(|filled| filled[name].clone())
    };
    let missing = |name: &str| Err(MissingVariable { name: name.to_owned() });
    assert_eq!(fill_one("1", &[("name", "Asha\nPatel")]), Ok("Asha Patel".to_owned()));
    assert_eq!(fill_one("1", &[("name", " \t ")]), Ok("Customer".to_owned()));
    assert_eq!(fill_one("1", &[]), Ok("Customer".to_owned()));
    assert_eq!(fill_one("2", &[("amount", "500")]), Ok("500".to_owned()));
    assert_eq!(fill_one("2", &[("name", "Asha")]), missing("2"));
    assert_eq!(fill_one("3", &[]), missing("3"));
    assert_eq!(fill_one("4", &[("name", "Asha")]), missing("4"));
    assert_eq!(fill(&[], &mapping, &values(&[])), Ok(BTreeMap::new()));
}

#[test]
fn a_preview_is_the_body_with_its_values() {
    let components = body("Dear {{1}}, {{2}} is due, {{1}}");
    assert_eq!(preview(&components, &values(&[("1", "Asha"), ("2", "500")])), "Dear Asha, 500 is due, Asha");
    assert_eq!(preview(&components, &values(&[("1", "{{2}}")])), "Dear {{2}}, {{2}} is due, {{2}}");
    assert_eq!(preview(&json!([]), &values(&[])), "");
}
