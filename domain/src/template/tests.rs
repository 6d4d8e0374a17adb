use serde_json::json;

use super::*;
use crate::campaign::ParameterSource;

fn values(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn body(text: &str) -> Value {
    json!([{"type": "BODY", "text": text}])
}

const ALL_TYPES: &str = "HEADER, BODY, FOOTER, BUTTONS, CAROUSEL, LIMITED_TIME_OFFER";

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_796_000_000, 0).expect("a valid time")
}

fn card(buttons: &Value) -> Value {
    let mut components = vec![json!({"type": "HEADER", "format": "IMAGE"})];
    if buttons.as_array().is_some_and(|buttons| !buttons.is_empty()) {
        components.push(json!({"type": "BUTTONS", "buttons": buttons}));
    }
    json!({"components": components})
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
    let with_cards = |cards: Value| with_body(json!({"type": "CAROUSEL", "cards": cards}));
    let no_type = |part: &str| TemplateError::NoType { part: part.to_owned(), known: ALL_TYPES.to_owned() };
    let unknown_type = |part: &str, found: &str| TemplateError::UnknownType {
        part: part.to_owned(),
        found: found.to_owned(),
        known: ALL_TYPES.to_owned(),
    };
    let no_list = |part: &str, field| TemplateError::NoList { part: part.to_owned(), field };
    let braces = |part: &str| TemplateError::MalformedBraces { part: part.to_owned() };
    let cases = [
        (json!({"type": "BODY", "text": "Hello"}), TemplateError::NotAList),
        (json!([]), TemplateError::NoBody),
        (json!([{"type": "FOOTER", "text": "Bye"}]), TemplateError::NoBody),
        (with_body(json!({"type": "body", "text": "Again"})), TemplateError::Repeated { part: "BODY".to_owned() }),
        (with_body(json!({"text": "Hello"})), no_type("component 1")),
        (with_body(json!("BODY")), no_type("component 1")),
        (with_body(json!({"type": "POLL"})), unknown_type("component 1", "POLL")),
        (
            with_body(json!({"type": "HEADER", "format": "gif"})),
            TemplateError::HeaderFormat { part: "header".to_owned(), found: "gif".to_owned() },
        ),
        (with_body(json!({"type": "BUTTONS"})), no_list("BUTTONS component", "buttons")),
        (
            with_buttons(&json!([{"type": "QUICK_REPLY"}, {"type": "DANCE"}])),
            TemplateError::ButtonType { part: "button 1".to_owned(), found: "DANCE".to_owned() },
        ),
        (
            with_buttons(&json!(vec![json!({"type": "QUICK_REPLY"}); 11])),
            TemplateError::TooManyButtons { found: 11, max: 10 },
        ),
        (with_body(json!({"type": "CAROUSEL"})), no_list("CAROUSEL component", "cards")),
        (with_cards(json!([card(&json!([]))])), TemplateError::CardCount { found: 1, min: 2, max: 10 }),
        (with_cards(json!([card(&json!([])), {}])), no_list("card 1", "components")),
        (
            with_cards(json!([card(&json!([])), {"components": [{"type": "BODY", "text": "x"}]}])),
            TemplateError::CardHeader { part: "card 1".to_owned() },
        ),
        (
            with_cards(json!([card(&json!([])), {"components": [{"type": "FOOTER", "text": "x"}]}])),
            TemplateError::UnknownType {
                part: "card 1 component 1".to_owned(),
                found: "FOOTER".to_owned(),
                known: "HEADER, BODY, BUTTONS".to_owned(),
            },
        ),
        (
            with_cards(json!([card(&json!([])), card(&json!([{"type": "URL", "url": "https://x.example/{{2}}"}]))])),
            TemplateError::NumberMissing { part: "card 1 button 0".to_owned(), missing: 1 },
        ),
        (
            with_body(json!({"type": "LIMITED_TIME_OFFER", "limited_time_offer": {"text": "Far too long to be seen"}})),
            TemplateError::TextTooLong { part: "limited-time offer".to_owned(), chars: 23, chars_max: 16 },
        ),
        (
            with_body(json!({"type": "LIMITED_TIME_OFFER"})),
            TemplateError::TextMissing { part: "limited-time offer".to_owned(), field: "limited_time_offer" },
        ),
        (
            with_buttons(&json!([{"type": "URL", "text": "Pay"}])),
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
            with_buttons(&json!([{"type": "URL", "url": "https://x.example/{{1}}/{{1}}"}])),
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
    let unknown = variables(&json!([{"type": "BODDY"}])).expect_err("no such component").to_string();
    assert!(unknown.contains("component 1") && unknown.contains("BODDY") && unknown.contains(ALL_TYPES), "{unknown}");
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

/// What a send request says about these components with these values, and which values it needs and may have.
fn sends(components: &Value, required: &[&str], optional: &[&str], given: &[(&str, &str)], expected: Value) {
    let template = Template::parse(components).expect("it can be sent");
    assert_eq!(template.variables(), required, "{components}");
    assert_eq!(template.optional_variables(), optional, "{components}");
    let filled = template.fill_with(&values(given), now()).expect("the values can be sent");
    assert_eq!(template.request(&filled).map(Value::Array), Ok(expected), "{components}");
}

fn with_header(format: &str) -> Value {
    json!([{"type": "HEADER", "format": format}, {"type": "BODY", "text": "Hello"}])
}

fn with_buttons(buttons: &Value) -> Value {
    json!([{"type": "BODY", "text": "Hello"}, {"type": "BUTTONS", "buttons": buttons}])
}

#[test]
fn a_media_header_takes_a_link_or_an_id() {
    let link = "https://cdn.example/a.jpg";
    for name in ["image", "video"] {
        let variable = format!("header.{name}");
        let header = with_header(&name.to_uppercase());
        let shape = |content: Value| json!([{"type": "header", "parameters": [{"type": name, name: content}]}]);
        sends(&header, &[&variable], &[], &[(&variable, link)], shape(json!({"link": link})));
        sends(&header, &[&variable], &[], &[(&variable, "1166846181421424")], shape(json!({"id": "1166846181421424"})));
    }
    let shape = |content: Value| json!([{"type": "header", "parameters": [{"type": "document", "document": content}]}]);
    let (header, optional) = (with_header("DOCUMENT"), ["header.filename"]);
    sends(&header, &["header.document"], &optional, &[("header.document", "7")], shape(json!({"id": "7"})));
    let given = [("header.document", link), ("header.filename", "invoice 7.pdf")];
    let expected = shape(json!({"link": link, "filename": "invoice 7.pdf"}));
    sends(&header, &["header.document"], &optional, &given, expected);
}

#[test]
fn a_location_header_takes_its_four_values() {
    let names = ["header.latitude", "header.longitude", "header.name", "header.address"];
    let given: Vec<_> = names.into_iter().zip(["19.0760", "-72.8777", "Shop", "1 Zaveri Bazaar"]).collect();
    let location =
        json!({"latitude": "19.0760", "longitude": "-72.8777", "name": "Shop", "address": "1 Zaveri Bazaar"});
    let expected = json!([{"type": "header", "parameters": [{"type": "location", "location": location}]}]);
    sends(&with_header("location"), &names, &[], &given, expected);
}

#[test]
fn each_kind_of_button_is_sent_in_its_shape() {
    let button = |sub_type: &str, index: &str, parameter: Value| json!([{"type": "button", "sub_type": sub_type, "index": index, "parameters": [parameter]}]);
    let plain = json!({"type": "PHONE_NUMBER", "phone_number": "+912266778899"});
    let second = |kind: Value| with_buttons(&json!([plain, kind]));
    let payload = second(json!({"type": "QUICK_REPLY", "text": "Paid"}));
    let optional = ["button.1.payload"];
    sends(&payload, &[], &optional, &[], json!([]));
    let expected = button("quick_reply", "1", json!({"type": "payload", "payload": "paid"}));
    sends(&payload, &[], &optional, &[("button.1.payload", "paid")], expected);

    let url = second(json!({"type": "URL", "url": "https://pay.example/{{1}}"}));
    let expected = button("url", "1", json!({"type": "text", "text": "x7"}));
    sends(&url, &["button.1.1"], &[], &[("button.1.1", "x7")], expected.clone());
    sends(
        &second(json!({"type": "OTP", "otp_type": "COPY_CODE"})),
        &["button.1.1"],
        &[],
        &[("button.1.1", "x7")],
        expected,
    );

    let expected = button("copy_code", "1", json!({"type": "coupon_code", "coupon_code": "SAVE10"}));
    let given = [("button.1.coupon_code", "SAVE10")];
    sends(&second(json!({"type": "COPY_CODE"})), &["button.1.coupon_code"], &[], &given, expected);

    for kind in ["PHONE_NUMBER", "REQUEST_CONTACT_INFO", "VOICE_CALL"] {
        sends(&second(json!({"type": kind})), &[], &[], &[], json!([]));
    }
}

#[test]
fn flows_and_catalogues_are_sent_in_their_shapes() {
    let button = |sub_type: &str, action: Value| {
        let parameters = json!([{"type": "action", "action": action}]);
        json!([{"type": "button", "sub_type": sub_type, "index": "0", "parameters": parameters}])
    };
    let flow = with_buttons(&json!([{"type": "FLOW", "flow_id": "1"}]));
    let optional = ["button.0.flow_token", "button.0.flow_action_data"];
    sends(&flow, &[], &optional, &[], button("flow", json!({"flow_token": "unused"})));
    let given = [("button.0.flow_token", "t1"), ("button.0.flow_action_data", "{\"step\": 2}")];
    let expected = button("flow", json!({"flow_token": "t1", "flow_action_data": {"step": 2}}));
    sends(&flow, &[], &optional, &given, expected);

    let catalog = with_buttons(&json!([{"type": "CATALOG"}]));
    sends(&catalog, &[], &["button.0.product"], &[], json!([]));
    let expected = button("CATALOG", json!({"thumbnail_product_retailer_id": "ring-1"}));
    sends(&catalog, &[], &["button.0.product"], &[("button.0.product", "ring-1")], expected);

    let sections = json!([{"title": "Rings", "product_items": [{"product_retailer_id": "ring-1"}]}]);
    let text = sections.to_string();
    let given = [("button.0.product", "ring-1"), ("button.0.sections", text.as_str())];
    let expected = button("mpm", json!({"thumbnail_product_retailer_id": "ring-1", "sections": sections}));
    let required = ["button.0.product", "button.0.sections"];
    sends(&with_buttons(&json!([{"type": "MPM"}])), &required, &[], &given, expected);
}

#[test]
fn a_limited_time_offer_says_when_it_ends() {
    let offer = |has_expiration: bool| {
        json!([
            {"type": "HEADER", "format": "IMAGE"},
            {"type": "LIMITED_TIME_OFFER", "limited_time_offer": {"text": "Ends soon!", "has_expiration": has_expiration}},
            {"type": "BODY", "text": "Dear {{1}}"},
            {"type": "BUTTONS", "buttons": [
                {"type": "COPY_CODE"},
                {"type": "URL", "url": "https://shop.example/{{1}}"},
            ]},
        ])
    };
    let before = ["1", "header.image", "button.0.coupon_code", "button.1.1"];
    let given = [("1", "Asha"), ("header.image", "9"), ("button.0.coupon_code", "SAVE10"), ("button.1.1", "x7")];
    let expected = |middle: &[Value]| {
        let first = [
            json!({"type": "header", "parameters": [{"type": "image", "image": {"id": "9"}}]}),
            json!({"type": "body", "parameters": [{"type": "text", "text": "Asha"}]}),
        ];
        let code = json!({"type": "coupon_code", "coupon_code": "SAVE10"});
        let last = [
            json!({"type": "button", "sub_type": "copy_code", "index": "0", "parameters": [code]}),
            json!({"type": "button", "sub_type": "url", "index": "1", "parameters": [{"type": "text", "text": "x7"}]}),
        ];
        Value::Array([&first, middle, &last].concat())
    };
    sends(&offer(false), &before, &[], &given, expected(&[]));
    let end = json!({"expiration_time_ms": 1_798_741_740_000_i64});
    let middle = [json!({
        "type": "limited_time_offer",
        "parameters": [{"type": "limited_time_offer", "limited_time_offer": end}],
    })];
    for text in ["2026-12-31T23:59:00+05:30", "1798741740000"] {
        let given = [&given[..], &[("offer.expires_at", text)]].concat();
        sends(&offer(true), &[&before[..], &["offer.expires_at"]].concat(), &[], &given, expected(&middle));
    }
    let long = json!([{"type": "LIMITED_TIME_OFFER", "limited_time_offer": {"text": "x"}}, {"type": "BODY", "text": "x".repeat(601)}]);
    let error = TemplateError::TextTooLong { part: "body".to_owned(), chars: 601, chars_max: 600 };
    assert_eq!(variables(&long), Err(error));
}

#[test]
fn a_carousel_is_sent_card_by_card() {
    let components = json!([
        {"type": "BODY", "text": "New for {{name}}"},
        {"type": "CAROUSEL", "cards": [
            {"components": [
                {"type": "header", "format": "image"},
                {"type": "body", "text": "{{price}} only"},
                {"type": "buttons", "buttons": [
                    {"type": "quick_reply", "text": "More"},
                    {"type": "url", "text": "Buy", "url": "https://shop.example/{{1}}"},
                ]},
            ]},
            {"components": [{"type": "header", "format": "video"}]},
        ]},
    ]);
    let required = ["name", "card.0.price", "card.0.header.image", "card.0.button.1.1", "card.1.header.video"];
    let given = [
        ("name", "Asha"),
        ("card.0.price", "Rs 5"),
        ("card.0.header.image", "1"),
        ("card.0.button.0.payload", "more-0"),
        ("card.0.button.1.1", "ring"),
        ("card.1.header.video", "https://cdn.example/v.mp4"),
    ];
    let named = |name: &str, text: &str| json!({"type": "text", "parameter_name": name, "text": text});
    let payload = json!({"type": "payload", "payload": "more-0"});
    let expected = json!([
        {"type": "body", "parameters": [named("name", "Asha")]},
        {"type": "carousel", "cards": [
            {"card_index": 0, "components": [
                {"type": "header", "parameters": [{"type": "image", "image": {"id": "1"}}]},
                {"type": "body", "parameters": [named("price", "Rs 5")]},
                {"type": "button", "sub_type": "quick_reply", "index": "0", "parameters": [payload]},
                {"type": "button", "sub_type": "url", "index": "1", "parameters": [{"type": "text", "text": "ring"}]},
            ]},
            {"card_index": 1, "components": [
                {"type": "header", "parameters": [{"type": "video", "video": {"link": "https://cdn.example/v.mp4"}}]},
            ]},
        ]},
    ]);
    sends(&components, &required, &["card.0.button.0.payload"], &given, expected);
    let template = Template::parse(&components).expect("it can be sent");
    assert_eq!(template.parameter_format(), ParameterFormat::Named);
    assert_eq!(Template::parse(&everything()).map(|it| it.parameter_format()), Ok(ParameterFormat::Positional));
}

#[test]
fn a_request_without_a_value_names_the_variable() {
    let missing = |name: &str| Err(RequestError::Fill(FillError::Missing { name: name.to_owned() }));
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
    assert_eq!(request_components(&json!([]), &values(&[])), Err(RequestError::Template(TemplateError::NoBody)));
}

#[test]
fn values_that_whatsapp_would_refuse_are_told_apart() {
    use ValueKind::*;
    let cases: &[(ValueKind, &[&str], &[&str])] = &[
        (Text, &["Asha\nPatel"], &["", " \n "]),
        (UrlSuffix, &["x7?a=b", "अ"], &["", "a b", "a\nb"]),
        (
            Media,
            &["https://cdn.example/a.jpg?x=1", "1166846181421424"],
            &[
                "",
                "http://cdn.example/a.jpg",
                "https://",
                "https://localhost/a",
                "https://a.b/c d",
                "https://u@a.b/c",
                "n/a",
                "-7",
            ],
        ),
        (Filename, &["a b.pdf"], &["", "a/b.pdf", "..\\x"]),
        (CouponCode, &["SAVE10", "abc"], &["", "SAVE 10", "SAVE-10", "SIXTEENCHARSLONG"]),
        (Latitude, &["90", "-19.07"], &["", "91", "19,07", "nan", "1e1", "north"]),
        (Longitude, &["180", "-180"], &["181", "inf"]),
        (
            Instant,
            &["2026-12-31T23:59:00Z", "1798741740000"],
            &["", "2026-12-31", "2026-12-31T23:59:00", "1798741740", "soon"],
        ),
        (Object, &["{}", "{\"a\": [1]}"], &["", "[]", "7", "{"]),
        (
            Sections,
            &[r#"[{"title": "R", "product_items": [{"product_retailer_id": "1"}]}]"#],
            &[
                "",
                "[]",
                "{}",
                r#"[{"title": "R", "product_items": []}]"#,
                r#"[{"product_items": [{"product_retailer_id": "1"}]}]"#,
            ],
        ),
        (Payload, &["paid"], &["", "\n"]),
    ];
    for (kind, taken, refused) in cases {
        for text in *taken {
            let read = kind.read(text).unwrap_or_else(|error| panic!("{text:?} {error}"));
            assert_eq!(kind.read(&read), Ok(read.clone()), "{kind:?} {text:?} in the form in which it is sent");
        }
        for text in *refused {
            assert_eq!(kind.read(text), Err(BadValue(*kind)), "{kind:?} {text:?}");
        }
    }
    assert_eq!(Payload.read(&"x".repeat(257)), Err(BadValue(Payload)));
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

fn attribute(attribute: &str, fallback: Option<&str>) -> ParameterSource {
    ParameterSource::Attribute { attribute: attribute.to_owned(), fallback: fallback.map(str::to_owned) }
}

#[test]
fn a_variable_takes_the_attribute_then_the_fallback_and_is_missing_otherwise() {
    let mapping = ParameterMapping::from([
        ("1".to_owned(), attribute("name", Some("Customer"))),
        ("2".to_owned(), attribute("amount", None)),
        ("3".to_owned(), attribute("city", Some(" \n "))),
        ("4".to_owned(), ParameterSource::Constant { value: "Diwali\tsale".to_owned() }),
    ]);
    let fill = |attributes: &[(&str, &str)]| {
        let template = Template::parse(&body("{{1}} {{2}} {{4}} {{3}}")).expect("it can be sent");
        template.fill(&mapping, &values(attributes), now())
    };
    let filled = |attributes: &[(&str, &str)], name: &str| fill(attributes).map(|values| values[name].clone());
    let missing = |name: &str| Err(FillError::Missing { name: name.to_owned() });
    let rest = [("amount", "500"), ("city", "Pune")];
    let named = |name| [&rest[..], &[("name", name)]].concat();
    assert_eq!(filled(&named("Asha\nPatel"), "1"), Ok("Asha Patel".to_owned()));
    assert_eq!(filled(&named(" \t "), "1"), Ok("Customer".to_owned()));
    assert_eq!(filled(&rest, "1"), Ok("Customer".to_owned()));
    assert_eq!(filled(&rest, "4"), Ok("Diwali sale".to_owned()));
    assert_eq!(fill(&[("name", "Asha"), ("city", "Pune")]), missing("2"));
    assert_eq!(fill(&[("amount", "500")]), missing("3"));
    assert_eq!(
        Template::parse(&body("{{1}}")).expect("it can be sent").fill(&ParameterMapping::new(), &values(&[]), now()),
        missing("1")
    );
}

#[test]
fn what_cannot_be_sent_to_a_contact_is_told_before_it_is_queued() {
    let fill = |components: &Value, given: &[(&str, &str)]| {
        Template::parse(components).expect("it can be sent").fill_with(&values(given), now()).map(drop)
    };
    let invalid = |name: &str, takes| Err(FillError::Invalid { name: name.to_owned(), takes });
    let image = with_header("IMAGE");
    assert_eq!(fill(&image, &[("header.image", "broken link")]), invalid("header.image", ValueKind::Media));
    // An optional value is left out, but not sent broken.
    assert_eq!(fill(&with_buttons(&json!([{"type": "QUICK_REPLY"}])), &[("button.0.payload", "")]), Ok(()));
    let flow = with_buttons(&json!([{"type": "FLOW"}]));
    let name = "button.0.flow_action_data";
    assert_eq!(fill(&flow, &[(name, "x")]), invalid(name, ValueKind::Object));

    let offer = json!([
        {"type": "LIMITED_TIME_OFFER", "limited_time_offer": {"text": "x", "has_expiration": true}},
        {"type": "BODY", "text": "Hello"},
    ]);
    let end = |seconds: i64| (now().timestamp_millis() + seconds * 1000).to_string();
    assert_eq!(fill(&offer, &[("offer.expires_at", &end(0))]), invalid("offer.expires_at", ValueKind::Instant));
    assert_eq!(fill(&offer, &[("offer.expires_at", &end(1))]), Ok(()));

    let too_long = |part: &str, chars, chars_max| Err(FillError::TooLong { part: part.to_owned(), chars, chars_max });
    assert_eq!(fill(&body("Dear {{1}}"), &[("1", &"अ".repeat(1019))]), Ok(()));
    assert_eq!(fill(&body("Dear {{1}}"), &[("1", &"अ".repeat(1020))]), too_long("body", 1025, 1024));
    let header = json!([{"type": "HEADER", "text": "Hi {{1}}"}, {"type": "BODY", "text": "Hello"}]);
    assert_eq!(fill(&header, &[("header.1", &"x".repeat(58))]), too_long("header", 61, 60));
    let url = with_buttons(&json!([{"type": "URL", "url": "https://x.example/{{1}}"}]));
    assert_eq!(fill(&url, &[("button.0.1", &"x".repeat(1983))]), too_long("button 0", 2001, 2000));
}

#[test]
fn a_preview_is_the_body_with_its_values() {
    let preview = |pairs: &[(&str, &str)]| {
        let template = Template::parse(&body("Dear {{1}}, {{2}} is due, {{1}}")).expect("it can be sent");
        template.preview(&values(pairs))
    };
    assert_eq!(preview(&[("1", "Asha"), ("2", "500")]), "Dear Asha, 500 is due, Asha");
    assert_eq!(preview(&[("1", "{{2}}")]), "Dear {{2}}, {{2}} is due, {{2}}");
}
