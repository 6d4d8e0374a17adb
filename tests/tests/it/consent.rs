//! What contacts say about messages, from WhatsApp's webhook to the next run.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use api::sandbox::Outcomes;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use test_kit::wait;

use crate::engine::{APP_SECRET, Engine, Options, PHONE_NUMBER_ID};
use crate::process::ektola;
use crate::webhooks::{deliver, interpreted};

/// WhatsApp's clock: every word is said a second after the one before.
static SECONDS: AtomicI64 = AtomicI64::new(1_790_000_000);

pub(crate) fn next_second() -> i64 {
    SECONDS.fetch_add(1, Ordering::Relaxed)
}

pub(crate) fn change(field: &str, phone_number_id: &str, value: &Value) -> Value {
    let mut value = value.clone();
    value["messaging_product"] = json!("whatsapp");
    value["metadata"] = json!({"display_phone_number": "1555", "phone_number_id": phone_number_id});
    json!({"field": field, "value": value})
}

/// As WhatsApp writes it: in ASCII.
pub(crate) fn body(changes: &[Value]) -> Vec<u8> {
    let entry = json!({"id": "100000000000001", "changes": changes});
    let text = json!({"object": "whatsapp_business_account", "entry": [entry]}).to_string();
    let escaped = text.chars().map(|char| match char {
        char if char.is_ascii() => char.to_string(),
        char => char.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect(),
    });
    escaped.collect::<String>().into_bytes()
}

/// The number of one of the engine's contacts, as WhatsApp has it.
pub(crate) fn wa_id(number: u32) -> String {
    format!("9198250{number:05}")
}

pub(crate) fn text_of(from: &str, text: &str) -> Value {
    let at = next_second();
    json!({"from": from, "id": format!("wamid.IN{at}"), "timestamp": at.to_string(), "type": "text", "text": {"body": text}})
}

async fn hear(engine: &Engine, changes: &[Value]) {
    assert_eq!(deliver(engine, body(changes), APP_SECRET).await, StatusCode::OK);
    interpreted(engine).await;
}

async fn say(engine: &Engine, from: &str, text: &str) {
    let message = text_of(from, text);
    hear(engine, &[change("messages", PHONE_NUMBER_ID, &json!({"messages": [message]}))]).await;
}

async fn switch(engine: &Engine, who: &Value, value: &str) {
    let mut preference = who.clone();
    preference["category"] = json!("marketing_messages");
    preference["value"] = json!(value);
    preference["timestamp"] = json!(next_second());
    hear(engine, &[change("user_preferences", PHONE_NUMBER_ID, &json!({"user_preferences": [preference]}))]).await;
}

async fn contact(engine: &Engine, phone: &str) -> Value {
    let found = engine.get(&format!("/v1/contacts?phone={}", phone.replace('+', "%2B"))).await;
    let id = found["items"][0]["id"].as_str().unwrap_or_else(|| panic!("no contact has {phone}: {found}")).to_owned();
    engine.get(&format!("/v1/contacts/{id}")).await
}

/// A run to its end, with how many were sent and who was left out and why.
async fn run_of(engine: &Engine, template: &str, campaign_type: &str) -> (u64, Value, String) {
    let campaign = engine.campaign_on(template, |campaign| campaign["campaign_type"] = json!(campaign_type)).await;
    engine.activate(&campaign).await;
    let run = engine.runs(&campaign, 1).await[0]["id"].as_str().unwrap().to_owned();
    let settled = engine.settled(&run).await;
    (settled["funnel"]["sent"].as_u64().unwrap(), settled["skipped_by_reason"].clone(), run)
}

async fn outcome(engine: &Engine, template: &str, campaign_type: &str) -> (u64, Value) {
    let (sent, skipped, _) = run_of(engine, template, campaign_type).await;
    (sent, skipped)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_word_stops_offers_stop_all_stops_everything_and_start_resumes() {
    let engine = Engine::start_with(Options { settings: &PATIENT, ..Options::default() }).await;
    engine.contacts("gold", 3).await;
    let template = engine.template().await;

    say(&engine, &wa_id(1), "बंद करें। 🙏").await;
    assert_eq!(outcome(&engine, &template, "marketing").await, (2, json!({"marketing_stopped": 1})));
    assert_eq!(outcome(&engine, &template, "utility").await, (3, json!({})));
    let stopped = contact(&engine, "9825000001").await;
    assert_eq!(stopped["consent"]["marketing_refused"], "marketing_stopped");
    assert_eq!(stopped["consent"]["utility_refused"], json!(null));
    assert_eq!(stopped["consent"]["history"][0]["source"], "keyword");
    assert_eq!(stopped["inbound"][0]["text"], "बंद करें। 🙏");
    // An upload lifts nothing.
    engine.upload("phone,name,segment,opt_in\n9825000001,Asha,gold,yes\n").await;
    assert_eq!(outcome(&engine, &template, "marketing").await, (2, json!({"marketing_stopped": 1})));

    say(&engine, &wa_id(1), "START").await;
    assert_eq!(outcome(&engine, &template, "marketing").await, (3, json!({})));

    say(&engine, &wa_id(1), "Stop all!").await;
    assert_eq!(outcome(&engine, &template, "marketing").await, (2, json!({"opted_out": 1})));
    assert_eq!(outcome(&engine, &template, "utility").await, (2, json!({"opted_out": 1})));
    say(&engine, &wa_id(1), "please start").await;
    assert_eq!(contact(&engine, "9825000001").await["consent"]["opted_out"], true, "no keyword inside a sentence");
    say(&engine, &wa_id(1), "start").await;
    assert_eq!(outcome(&engine, &template, "marketing").await, (3, json!({})));
    engine.stop().await;
}

/// Several messages to one contact within seconds are what these tests are made of.
const PATIENT: [(&str, &str); 1] = [("EKTOLA_DISPATCH__PAIR_INTERVAL_MS", "0")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_said_last_counts_whatever_comes_first() {
    let engine = Engine::start().await;
    engine.contacts("gold", 1).await;
    let (stop, start) = (text_of(&wa_id(0), "stop"), text_of(&wa_id(0), "start"));
    let of = |message: &Value| change("messages", PHONE_NUMBER_ID, &json!({"messages": [message]}));
    let first_stop = text_of(&wa_id(0), "stop");
    hear(&engine, &[of(&first_stop)]).await;
    let resumed = text_of(&wa_id(0), "start");
    hear(&engine, &[of(&resumed)]).await;
    // Both were said before the last start, and come after it.
    hear(&engine, &[of(&start)]).await;
    hear(&engine, &[of(&stop)]).await;
    let consent = &contact(&engine, "9825000000").await["consent"];
    assert_eq!((&consent["marketing_refused"], consent["history"].as_array().unwrap().len()), (&json!(null), 2));
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatsapps_own_switch_stops_and_resumes_whoever_throws_it() {
    let engine = Engine::start_with(Options { settings: &PATIENT, ..Options::default() }).await;
    engine.contacts("gold", 3).await;
    let template = engine.template().await;
    switch(&engine, &json!({"wa_id": wa_id(0)}), "stop").await;
    assert_eq!(outcome(&engine, &template, "marketing").await, (2, json!({"marketing_stopped": 1})));
    switch(&engine, &json!({"wa_id": wa_id(0)}), "resume").await;

    // A user without a phone stops before anybody can tell who that is, and another one after it could be told.
    switch(&engine, &json!({"user_id": "IN.1"}), "stop").await;
    let (sent, _, run) = run_of(&engine, &template, "marketing").await;
    assert_eq!(sent, 3);
    let messages = engine.get(&format!("/v1/runs/{run}/messages")).await;
    let status_to = |number: u32, user_id: &str| {
        let to_contact = |message: &&Value| message["phone"] == format!("+{}", wa_id(number));
        let message = messages["items"].as_array().unwrap().iter().find(to_contact).unwrap();
        json!({
            "id": format!("wamid.user{number}"), "status": "delivered", "timestamp": "1780000000", "recipient_id": "",
            "recipient_user_id": user_id, "biz_opaque_callback_data": message["id"],
        })
    };
    let statuses = json!({"statuses": [status_to(1, "IN.1"), status_to(2, "IN.2")]});
    hear(&engine, &[change("messages", PHONE_NUMBER_ID, &statuses)]).await;
    switch(&engine, &json!({"user_id": "IN.2"}), "stop").await;
    wait::until(Duration::from_secs(10), "the word that waited is heeded", async || {
        let consent = contact(&engine, "9825000001").await["consent"].clone();
        (consent["marketing_refused"] == "marketing_stopped").then_some(())
    })
    .await;
    assert_eq!(outcome(&engine, &template, "marketing").await, (1, json!({"marketing_stopped": 2})));
    let history = contact(&engine, "9825000001").await["consent"]["history"].clone();
    assert_eq!(history[0]["source"], "user_preferences");
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_said_stop_before_being_uploaded_has_stopped() {
    let engine = Engine::start().await;
    say(&engine, &wa_id(0), "STOP").await;
    say(&engine, &wa_id(1), "hello").await;
    say(&engine, &wa_id(1), "start").await;
    let contacts = engine.get("/v1/contacts").await;
    assert_eq!(contacts["items"].as_array().unwrap().len(), 1, "only who stopped is kept as a contact");
    let (status, report) = engine.upload("phone,name,segment\n9825000000,Asha,gold\n9825000001,Ravi,gold\n").await;
    assert_eq!((status, &report["created"], &report["updated"]), (StatusCode::OK, &json!(1), &json!(1)), "{report}");
    let template = engine.template().await;
    assert_eq!(outcome(&engine, &template, "marketing").await, (1, json!({"marketing_stopped": 1})));
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_because_the_contact_stopped_stops_the_next_offers() {
    let engine = Engine::start_with(Options { settings: &PATIENT, ..Options::default() }).await;
    engine.contacts("gold", 2).await;
    let template = engine.template().await;
    let (_, _, run) = run_of(&engine, &template, "marketing").await;
    let message = engine.get(&format!("/v1/runs/{run}/messages")).await["items"][0].clone();
    let failed = json!({
        "id": "wamid.stopped", "status": "failed", "timestamp": next_second().to_string(),
        "biz_opaque_callback_data": message["id"], "errors": [{"code": 131_050, "title": "stopped"}],
    });
    hear(&engine, &[change("messages", PHONE_NUMBER_ID, &json!({"statuses": [failed]}))]).await;
    let path = format!("/v1/contacts/{}", message["contact_id"].as_str().unwrap());
    let consent = wait::until(Duration::from_secs(10), "the refusal is a stop", async || {
        let consent = engine.get(&path).await["consent"].clone();
        (consent["marketing_stopped"] == true).then_some(consent)
    })
    .await;
    assert_eq!((&consent["history"][0]["source"], &consent["opted_out"]), (&json!("provider_refusal"), &json!(false)));
    assert_eq!(outcome(&engine, &template, "marketing").await, (1, json!({"marketing_stopped": 1})));
    assert_eq!(outcome(&engine, &template, "utility").await, (2, json!({})));
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_queued_for_whoever_stops_is_cancelled() {
    let engine = Engine::start_with(Options { rate: 1, ..Options::default() }).await;
    engine.contacts("gold", 20).await;
    let template = engine.template().await;
    let mut runs = Vec::new();
    for campaign_type in ["utility", "marketing"] {
        let campaign = engine.campaign_on(&template, |campaign| campaign["campaign_type"] = json!(campaign_type)).await;
        engine.activate(&campaign).await;
        let run = engine.runs(&campaign, 1).await[0]["id"].as_str().unwrap().to_owned();
        engine.post(&format!("/v1/campaigns/{campaign}/pause"), &json!({})).await;
        engine.run_when(&run, "the audience is resolved", |run| run["audience"] == 20).await;
        engine.run_when(&run, "nothing is under way", |run| run["counts"]["dispatching"] == 0).await;
        runs.push((campaign, run));
    }
    let waiting =
        async |run: &str| engine.get(&format!("/v1/runs/{run}/messages?status=pending")).await["items"].clone();
    let (utility, marketing) = (waiting(&runs[0].1).await, waiting(&runs[1].1).await);
    // Two contacts for whom both messages wait.
    let both: Vec<&str> = utility
        .as_array()
        .unwrap()
        .iter()
        .filter(|message| {
            marketing.as_array().unwrap().iter().any(|other| other["contact_id"] == message["contact_id"])
        })
        .map(|message| message["contact_id"].as_str().unwrap())
        .collect();
    let counts = async |run: &str| engine.get(&format!("/v1/runs/{run}")).await["counts"]["cancelled"].clone();

    engine.post(&format!("/v1/contacts/{}/stop-marketing", both[0]), &json!({})).await;
    engine.run_when(&runs[1].1, "the offer is cancelled", |run| run["counts"]["cancelled"] == 1).await;
    engine.post(&format!("/v1/contacts/{}/opt-out", both[1]), &json!({})).await;
    engine.run_when(&runs[0].1, "the reminder is cancelled", |run| run["counts"]["cancelled"] == 1).await;
    engine.run_when(&runs[1].1, "the second offer is cancelled", |run| run["counts"]["cancelled"] == 2).await;
    assert_eq!((counts(&runs[0].1).await, counts(&runs[1].1).await), (json!(1), json!(2)));
    for (campaign, _) in &runs {
        engine.post(&format!("/v1/campaigns/{campaign}/cancel"), &json!({})).await;
    }
    engine.quiet().await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offers_need_an_opt_in_and_an_upload_is_one_unless_it_says_no() {
    let engine = Engine::start_with(Options { settings: &PATIENT, ..Options::default() }).await;
    let file = "phone,name,segment,opt_in\n9825000000,A,gold,yes\n9825000001,B,gold,नहीं\n9825000002,C,gold,\n\
                9825000003,D,gold,maybe\n";
    let (_, report) = engine.upload(file).await;
    assert_eq!(
        (&report["created"], &report["rejected"], &report["errors"][0]["column"]),
        (&json!(3), &json!(1), &json!("opt_in"))
    );
    let template = engine.template().await;
    assert_eq!(outcome(&engine, &template, "marketing").await, (2, json!({"no_opt_in": 1})));
    assert_eq!(outcome(&engine, &template, "utility").await, (3, json!({})));
    // A row that says nothing leaves the no as it is.
    let (_, report) = engine.upload("phone,name,segment\n9825000001,B,gold\n").await;
    assert_eq!(report["unchanged"], 1, "{report}");
    let denied = contact(&engine, "9825000001").await;
    assert_eq!((&denied["consent"]["opted_in"], &denied["consent"]["uploaded_opt_in"]), (&json!(false), &json!(false)));

    let opt_in = format!("/v1/contacts/{}/opt-in", denied["id"].as_str().unwrap());
    let agreed = engine.post(&opt_in, &json!({"wording": "Send me offers"})).await;
    assert_eq!(agreed["consent"]["history"][0]["wording"], "Send me offers");
    assert_eq!(engine.post(&opt_in, &json!({})).await["position"], agreed["position"], "it was done already");
    assert_eq!(outcome(&engine, &template, "marketing").await, (3, json!({})));
    // The test of a template goes to whoever is asked for, whether an upload knows that number or not.
    let components = json!([{"type": "BODY", "text": "Offers of {{1}}!"}]);
    let offer = json!({"name": "offer", "language": "en", "category": "MARKETING", "components": components});
    let offer = crate::engine::id_of(&engine.post("/v1/templates", &offer).await);
    let test = json!({"to": "9825000009", "variables": {"1": "May"}});
    let test = engine.post(&format!("/v1/templates/{offer}/test"), &test).await;
    let path = format!("/v1/messages/{}", test["message_id"].as_str().unwrap());
    wait::until(Duration::from_secs(10), "the test message is read", async || {
        let (_, message) = engine.request(Method::GET, &path, None).await;
        (message["status"] == "read").then_some(())
    })
    .await;
    engine.quiet().await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_be_reached_is_left_out_for_a_while() {
    let engine =
        Engine::start_with(Options { settings: &PATIENT, outcomes: Outcomes::ByNumber, ..Options::default() }).await;
    let (_, report) =
        engine.upload("phone,name,segment\n9825000097,A,gold\n9825000098,B,gold\n9825000001,C,gold\n").await;
    assert_eq!(report["created"], 3);
    let template = engine.template().await;
    let (_, _, run) = run_of(&engine, &template, "utility").await;
    wait::until(Duration::from_secs(10), "the refusal is noted", async || {
        let contact = contact(&engine, "9825000098").await;
        contact["consent"]["undeliverable_at"].is_string().then_some(())
    })
    .await;
    assert_eq!(outcome(&engine, &template, "utility").await, (2, json!({"undeliverable": 1})));

    // Withheld offers wait a day; reminders do not.
    let message = engine.get(&format!("/v1/runs/{run}/messages?status=read")).await["items"][0].clone();
    let failed = json!({
        "id": "wamid.cooling", "status": "failed", "timestamp": next_second().to_string(),
        "biz_opaque_callback_data": message["id"], "errors": [{"code": 131_049}],
    });
    hear(&engine, &[change("messages", PHONE_NUMBER_ID, &json!({"statuses": [failed]}))]).await;
    wait::until(Duration::from_secs(10), "the contact is left in peace", async || {
        let contact = contact(&engine, "9825000001").await;
        contact["consent"]["cooling_at"].is_string().then_some(())
    })
    .await;
    assert_eq!(outcome(&engine, &template, "marketing").await, (1, json!({"undeliverable": 1, "cooling": 1})));
    assert_eq!(outcome(&engine, &template, "utility").await, (2, json!({"undeliverable": 1})));
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tap_is_shown_at_the_message_that_it_answers() {
    let engine = Engine::start().await;
    engine.contacts("gold", 1).await;
    let template = engine.template().await;
    let (_, _, run) = run_of(&engine, &template, "utility").await;
    let message = engine.get(&format!("/v1/runs/{run}/messages")).await["items"][0]["id"].as_str().unwrap().to_owned();
    let wamid =
        sqlx::query_scalar!("SELECT wamid FROM provider_messages").fetch_one(&engine.database.pool).await.unwrap();
    let at = next_second();
    let tap = json!({
        "from_user_id": "IN.7", "id": format!("wamid.IN{at}"), "timestamp": at.to_string(), "type": "button",
        "context": {"from": "1555", "id": wamid}, "button": {"payload": "PAID-7", "text": "Stop promotions"},
    });
    hear(&engine, &[change("messages", PHONE_NUMBER_ID, &json!({"messages": [tap]}))]).await;
    let shown = engine.get(&format!("/v1/messages/{message}")).await;
    assert_eq!(shown["replies"][0]["payload"], "PAID-7", "{shown}");
    assert_eq!(shown["replies"][0]["kind"], "button");
    // Who taps the button of a message is who got it, even without a number.
    let consent = contact(&engine, "9825000000").await["consent"].clone();
    assert_eq!((&consent["marketing_stopped"], &consent["opted_out"]), (&json!(true), &json!(false)));
    let events = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM events WHERE payload::text ~ '(PAID-7|IN\.7|Stop promotions)'"#
    );
    assert_eq!(events.fetch_one(&engine.database.pool).await.unwrap(), 0, "the log holds nothing personal");
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tenant_records_consent_and_doing_it_again_changes_nothing() {
    let engine = Engine::start().await;
    engine.contacts("gold", 1).await;
    let id = contact(&engine, "9825000000").await["id"].as_str().unwrap().to_owned();
    let path = |verb: &str| format!("/v1/contacts/{id}/{verb}");
    let events = async || {
        let count = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM events WHERE aggregate_type = 'Consent'"#);
        count.fetch_one(&engine.database.pool).await.unwrap()
    };
    for (verb, count) in [("stop-marketing", 1), ("resume-marketing", 2), ("opt-out", 3)] {
        let first = engine.post(&path(verb), &json!({})).await;
        let (status, again) = engine.request(Method::POST, &path(verb), None).await;
        assert_eq!((status, &again["position"]), (StatusCode::OK, &first["position"]), "{verb}: {again}");
        assert_eq!(events().await, count, "{verb}");
    }
    // Only the contact itself lifts an opt-out.
    for verb in ["opt-in", "resume-marketing"] {
        let (status, problem) = engine.request(Method::POST, &path(verb), Some(&json!({}))).await;
        assert_eq!(status, StatusCode::CONFLICT, "{problem}");
    }
    let (status, problem) = engine.request(Method::POST, &path("opt-out"), Some(&json!({"wordng": "x"}))).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
    let strange = engine.stranger().await;
    let foreign = engine.raw(Method::POST, &path("opt-out")).bearer_auth(&strange);
    assert_eq!(crate::engine::send(foreign).await.0, StatusCode::NOT_FOUND);
    let foreign = engine.raw(Method::GET, &format!("/v1/contacts/{id}")).bearer_auth(&strange);
    assert_eq!(crate::engine::send(foreign).await.0, StatusCode::NOT_FOUND);
    assert_eq!(events().await, 3);

    // An operator opts somebody out who is not known yet.
    let arguments = ["contacts", "opt-out", "--phone", "98250 00077", "--tenant", "demo", "--json"];
    let answer = ektola(&engine, &arguments).await;
    assert_eq!((answer.code, &answer.json()["opted_out"]), (0, &json!(true)), "{}", answer.stderr);
    assert_eq!(ektola(&engine, &arguments).await.json()["changed"], false);
    let known = contact(&engine, "9825000077").await;
    assert_eq!(known["consent"]["history"][0]["source"], "operator");
    let unknown = ektola(&engine, &["contacts", "opt-in", "--phone", "9825000078", "--tenant", "demo"]).await;
    assert_eq!(unknown.code, 1, "{}", unknown.stdout);
    engine.stop().await;
}
