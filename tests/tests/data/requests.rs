use std::collections::BTreeMap;

use api::sandbox;
use chrono::{DateTime, Utc};
use domain::template::Template;
use infrastructure::whatsapp::client::{MarketingSettings, ProductPolicy};
use infrastructure::whatsapp::{ClientConfig, SendRequest, WhatsAppClient};
use serde_json::{Value, json};

use crate::shapes::REQUESTS;
use crate::{Case, cases, compare};

const CALLBACK: &str = "0193f5a0-0000-8000-8000-000000000001";
/// The start of 12 February 2025: offers end later.
const NOW: i64 = 1_739_318_400;

/// A template with `values` is filled and must come to the expected body. One without is of a shape that WhatsApp takes and the
/// engine never writes.
#[test]
fn each_template_fills_to_its_request() {
    let client = WhatsAppClient::try_new(ClientConfig::default()).expect("a client");
    compare(cases("requests", "wire", REQUESTS).into_iter().filter_map(|case| {
        let request: Value = serde_json::from_slice(&case.payload).expect("a request is JSON");
        let values = request.get("values")?;
        let values = serde_json::from_value(values.clone()).expect("values are texts");
        let found = match components(&request["template"], &values) {
            Ok(components) => wire(&client, &request, components),
            Err(refused) => json!({"refused": refused}),
        };
        Some((case, found))
    }));
}

/// The stand-in takes every request, whether the engine writes it or not.
#[test]
fn the_sandbox_takes_each_request() {
    let mut checked = 0;
    for Case { name, payload, expected, .. } in cases("requests", "wire", REQUESTS) {
        if expected.get("refused").is_some() {
            continue;
        }
        let request: Value = serde_json::from_slice(&payload).expect("a request is JSON");
        let template: sandbox::Template = serde_json::from_value(request["template"].clone()).expect("a template");
        let taken = sandbox::check_send(expected.to_string().as_bytes(), &template);
        assert_eq!(taken, Ok(()), "{name}");
        checked += 1;
    }
    assert!(checked > 30, "only {checked} requests were checked");
}

fn components(template: &Value, values: &BTreeMap<String, String>) -> Result<Vec<Value>, String> {
    let parsed = Template::parse(&template["components"]).map_err(|error| error.to_string())?;
    assert_eq!(Some(parsed.parameter_format().name()), template["parameter_format"].as_str(), "{template}");
    let now: DateTime<Utc> = DateTime::from_timestamp(NOW, 0).expect("a time");
    let filled = parsed.fill_with(values, now).map_err(|error| error.to_string())?;
    parsed.request(&filled).map_err(|error| error.to_string())
}

fn wire(client: &WhatsAppClient, request: &Value, components: Vec<Value>) -> Value {
    let text = |name: &str| request["template"][name].as_str().expect("a text");
    let marketing = request.get("marketing").map(|marketing| MarketingSettings {
        product_policy: match marketing["product_policy"].as_str() {
            Some("strict") => ProductPolicy::Strict,
            _ => ProductPolicy::CloudApiFallback,
        },
        activity_sharing: marketing["activity_sharing"].as_bool(),
    });
    let call = client.prepare(&SendRequest {
        base_url: "https://graph.example.com",
        api_version: None,
        marketing,
        phone_number_id: "100000000000101",
        access_token: "invented",
        to: "+919999900001",
        template_name: text("name"),
        language: text("language"),
        components,
        callback: CALLBACK.parse().expect("a message id"),
    });
    serde_json::from_slice(call.expect("a call").body()).expect("a body of JSON")
}
