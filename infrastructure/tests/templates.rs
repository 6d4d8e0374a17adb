//! Templates from Meta: lists against real servers on the loopback, news through the inbox, both against the real schema.

#![expect(clippy::unwrap_used, reason = "what a test needs and does not get is its failure")]

#[expect(dead_code, reason = "the kit serves other tests too")]
mod inbox_kit;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Query};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use chrono::{DateTime, TimeDelta, Utc};
use inbox_kit::{Kit, config, now};
use infrastructure::clock::Clock;
use infrastructure::senders::{self, NewSender, Secret};
use infrastructure::templates::{self, AccountReport, NewTemplate, SyncConfig, SyncError, Template, TemplateSync};
use infrastructure::whatsapp::ClientConfig;
use infrastructure::whatsapp::catalog::{Account, CatalogClient, CatalogConfig, CatalogError};
use serde_json::{Value, json};
use tokio::net::TcpListener;

const WABA: &str = "100000000000001";

type Asked = Arc<Mutex<Vec<(String, HashMap<String, String>, HeaderMap)>>>;

/// A list of templates that tests may change, in pages of two.
#[derive(Clone, Default)]
struct Meta {
    templates: Arc<Mutex<Vec<Value>>>,
    refusal: Arc<Mutex<Option<(u16, &'static str)>>>,
    asked: Asked,
}

impl Meta {
    async fn serve(&self) -> String {
        let meta = self.clone();
        let handler = move |Path((version, waba)): Path<(String, String)>,
                            Query(query): Query<HashMap<String, String>>,
                            headers: HeaderMap| {
            let meta = meta.clone();
            async move { meta.answer(&format!("{version}/{waba}"), query, headers) }
        };
        serve(Router::new().route("/{version}/{waba}/message_templates", get(handler))).await
    }

    fn answer(&self, path: &str, query: HashMap<String, String>, headers: HeaderMap) -> Response {
        let start: usize = query.get("after").map_or(0, |after| after.parse().unwrap());
        self.asked.lock().unwrap().push((path.to_owned(), query, headers));
        if let Some((status, body)) = *self.refusal.lock().unwrap() {
            return (StatusCode::from_u16(status).unwrap(), body).into_response();
        }
        let templates = self.templates.lock().unwrap().clone();
        let end = (start + 2).min(templates.len());
        let mut paging = json!({"cursors": {"before": start.to_string(), "after": end.to_string()}});
        if end < templates.len() {
            paging["next"] = json!("http://192.0.2.1/elsewhere");
        }
        axum::Json(json!({"data": templates[start..end], "paging": paging})).into_response()
    }

    fn set(&self, templates: &[Value]) {
        *self.templates.lock().unwrap() = templates.to_vec();
    }
}

async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

fn listed(name: &str, status: &str) -> Value {
    json!({
        "id": format!("id-of-{name}"), "name": name, "language": "en_US", "status": status, "category": "UTILITY",
        "parameter_format": "POSITIONAL", "components": [{"type": "BODY", "text": "Dear {{1}}"}],
        "quality_score": {"score": "GREEN", "date": 1_780_000_000},
    })
}

fn catalog_config() -> CatalogConfig {
    let client = ClientConfig { call_timeout: Duration::from_secs(10), ..ClientConfig::default() };
    CatalogConfig { client, page_size: 2, pages_max: 3, page_bytes_max: 64 * 1024 }
}

fn account(base_url: &str) -> Account<'_> {
    Account { base_url, waba_id: WABA, access_token: "token", api_version: None }
}

async fn fetch(base_url: &str) -> Result<Vec<String>, CatalogError> {
    let catalog = CatalogClient::try_new(catalog_config()).unwrap().fetch(&account(base_url)).await?;
    Ok(catalog.templates.into_iter().map(|template| template.name).collect())
}

/// The time that a list read now stands for: news has whole seconds, and that of this second is newer.
fn as_of() -> DateTime<Utc> {
    now() - TimeDelta::seconds(1)
}

#[tokio::test]
async fn pages_are_followed_by_their_cursors_and_never_to_another_address() {
    let meta = Meta::default();
    meta.set(&["a", "b", "c", "d", "e"].map(|name| listed(name, "APPROVED")));
    let base_url = meta.serve().await;
    assert_eq!(fetch(&base_url).await.unwrap(), ["a", "b", "c", "d", "e"]);
    let asked = meta.asked.lock().unwrap().clone();
    let after: Vec<Option<&str>> = asked.iter().map(|(_, query, _)| query.get("after").map(String::as_str)).collect();
    assert_eq!(after, [None, Some("2"), Some("4")]);
    for (path, query, headers) in &asked {
        assert_eq!(path, &format!("v25.0/{WABA}"));
        assert_eq!(query["limit"], "2");
        assert!(query["fields"].contains("components") && query["fields"].contains("quality_score"));
        assert_eq!(headers["authorization"], "Bearer token");
    }
    let seventh: Vec<Value> = (0..7).map(|number| listed(&format!("t{number}"), "APPROVED")).collect();
    meta.set(&seventh);
    assert!(matches!(fetch(&base_url).await, Err(CatalogError::TooManyPages { pages_max: 3 })));
}

#[tokio::test]
async fn each_refusal_of_a_list_is_told_apart() {
    let meta = Meta::default();
    let base_url = meta.serve().await;
    let refused = async |status: u16, body: &'static str| {
        *meta.refusal.lock().unwrap() = Some((status, body));
        fetch(&base_url).await.unwrap_err()
    };
    assert!(matches!(refused(404, "").await, CatalogError::NoCatalog { http_status: 404 }));
    let limited = refused(400, r#"{"error":{"code":80008,"message":"x"}}"#).await;
    assert!(matches!(limited, CatalogError::RateLimited { code: 80_008 }));
    let token = refused(401, r#"{"error":{"code":190}}"#).await;
    assert!(matches!(token, CatalogError::Refused { code: 190, http_status: 401 }));
    assert!(matches!(refused(200, "<html>").await, CatalogError::Unreadable { http_status: 200 }));
    assert!(matches!(refused(307, "").await, CatalogError::Unreadable { http_status: 307 }));
    let long: &'static str = Box::leak(" ".repeat(64 * 1024 + 1).into_boxed_str());
    assert!(matches!(refused(200, long).await, CatalogError::PageTooLarge { .. }));
    assert!(matches!(fetch("ftp://graph.example").await, Err(CatalogError::BadAccount)));
    assert!(matches!(fetch("http://127.0.0.1:1").await, Err(CatalogError::NoAnswer(_))));

    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let endless = Router::new().fallback(move || {
        counted.fetch_add(1, Ordering::SeqCst);
        async { axum::Json(json!({"data": [], "paging": {"next": "x", "cursors": {"after": "same"}}})) }
    });
    assert!(matches!(fetch(&serve(endless).await).await, Err(CatalogError::Unreadable { .. })));
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

/// The kit with a number whose account is this list.
async fn synced(kit: &Kit, base_url: &str, waba_id: &str) {
    let sender = NewSender {
        tenant_id: kit.tenant_id,
        phone_number_id: format!("number-of-{waba_id}"),
        waba_id: waba_id.to_owned(),
        base_url: Some(base_url.to_owned()),
        access_token: Secret::new("token"),
        app_secret: Secret::new("secret"),
        verify_token: Secret::new("verify"),
        sandbox: false,
    };
    senders::add_sender(&kit.database.pool, sender, now() + TimeDelta::seconds(1)).await.unwrap();
}

fn syncing(kit: &Kit, clock: &Clock) -> TemplateSync {
    let minute = Duration::from_secs(60);
    let config = SyncConfig {
        interval: minute,
        gap: Duration::ZERO,
        retry: minute,
        poll: Duration::from_millis(20),
        base_url_allowed: true,
    };
    let client = CatalogClient::try_new(catalog_config()).unwrap();
    TemplateSync { pool: kit.database.pool.clone(), clock: clock.clone(), client, config }
}

/// What reading the one account of the list did.
async fn report(sync: &TemplateSync, kit: &Kit, waba_id: &str) -> Result<AccountReport, SyncError> {
    let reports = sync.sync_tenant(kit.tenant_id).await.unwrap();
    reports.into_iter().find(|(read, _)| read == waba_id).unwrap().1
}

async fn template(kit: &Kit, name: &str) -> Template {
    templates::find_by_name(&kit.database.pool, kit.tenant_id, name).await.unwrap().remove(0)
}

async fn changes(kit: &Kit, name: &str) -> Vec<(String, Option<String>, Option<String>, String)> {
    let template = template(kit, name).await;
    let changes = templates::list_changes(&kit.database.pool, template.id).await.unwrap();
    changes.into_iter().map(|change| (change.what, change.from, change.to, change.source)).collect()
}

fn change(what: &str, from: &str, to: &str, source: &str) -> (String, Option<String>, Option<String>, String) {
    (what.to_owned(), Some(from.to_owned()), Some(to.to_owned()), source.to_owned())
}

#[tokio::test]
async fn a_list_is_written_once_and_what_changes_is_recorded() {
    let kit = Kit::start().await;
    let (meta, clock) = (Meta::default(), Clock::manual(now()));
    let by_hand = NewTemplate {
        name: "by_hand".to_owned(),
        language: "en_US".to_owned(),
        category: "utility".to_owned(),
        components: json!([{"type": "BODY", "text": "Hello"}]),
    };
    templates::record_template(&kit.database.pool, kit.tenant_id, by_hand, now()).await.unwrap();
    let carousel = json!({
        "id": 7, "name": "odd", "language": "hi", "status": "new_status", "category": "MARKETING",
        "components": [{"type": "BODY", "text": "Hello"}, {"type": "POLL"}],
    });
    meta.set(&[listed("due", "APPROVED"), carousel]);
    synced(&kit, &meta.serve().await, "2").await;
    let sync = syncing(&kit, &clock);
    let all = AccountReport { found: 2, added: 2, ..AccountReport::default() };
    assert_eq!(report(&sync, &kit, "2").await.unwrap(), all);
    assert_eq!(report(&sync, &kit, "2").await.unwrap(), AccountReport { found: 2, ..AccountReport::default() });
    let due = template(&kit, "due").await;
    assert_eq!(
        (due.status.as_str(), due.category.as_str(), &due.variables[..]),
        ("APPROVED", "UTILITY", &["1".to_owned()][..])
    );
    assert_eq!((due.quality_score.as_deref(), due.waba_id.as_deref()), (Some("GREEN"), Some("2")));
    assert_eq!((due.provider_id.as_deref(), due.synced_at), (Some("id-of-due"), Some(as_of())));
    // What this release cannot send is listed all the same, in its own status.
    let odd = template(&kit, "odd").await;
    assert_eq!((odd.status.as_str(), odd.provider_id.as_deref(), odd.variables.len()), ("NEW_STATUS", Some("7"), 0));
    assert!(changes(&kit, "due").await.is_empty());

    clock.advance(Duration::from_secs(3600));
    let mut changed = listed("due", "PAUSED");
    changed["category"] = json!("MARKETING");
    changed["quality_score"] = json!({"score": "RED"});
    changed["components"] = json!([{"type": "BODY", "text": "Dear {{1}}, {{2}}"}]);
    meta.set(&[changed, listed("by_hand", "APPROVED")]);
    let expected = AccountReport { found: 2, changed: 2, deleted: 1, ..AccountReport::default() };
    assert_eq!(report(&sync, &kit, "2").await.unwrap(), expected);
    let mut found = changes(&kit, "due").await;
    found.sort();
    let expected = [
        change("category", "UTILITY", "MARKETING", "sync"),
        ("components".to_owned(), None, None, "sync".to_owned()),
        change("quality_score", "GREEN", "RED", "sync"),
        change("status", "APPROVED", "PAUSED", "sync"),
    ];
    assert_eq!(found, expected);
    assert_eq!(template(&kit, "due").await.variables, ["1", "2"]);
    assert_eq!(template(&kit, "odd").await.status, "DELETED");
    assert_eq!(template(&kit, "by_hand").await.waba_id.as_deref(), Some("2"), "it is Meta's now");
}

#[tokio::test]
async fn what_was_recorded_by_hand_or_is_another_accounts_is_left_alone() {
    let kit = Kit::start().await;
    let clock = Clock::manual(now());
    let (one, other) = (Meta::default(), Meta::default());
    one.set(&[listed("due", "APPROVED")]);
    other.set(&[listed("due", "PAUSED"), listed("offer", "APPROVED"), json!({"name": "half"})]);
    synced(&kit, &one.serve().await, "2").await;
    let sync = syncing(&kit, &clock);
    report(&sync, &kit, "2").await.unwrap();
    synced(&kit, &other.serve().await, "3").await;
    let read = report(&sync, &kit, "3").await.unwrap();
    assert_eq!((read.found, read.added, read.elsewhere, read.unreadable), (2, 1, 1, 1));
    assert_eq!(template(&kit, "due").await.status, "APPROVED");
    // While an entry cannot be understood, none counts as deleted.
    clock.advance(Duration::from_secs(3600));
    other.set(&[json!({"name": "half"})]);
    assert_eq!(report(&sync, &kit, "3").await.unwrap().deleted, 0);
    assert_eq!(template(&kit, "offer").await.status, "APPROVED");
    let forbidden = TemplateSync { config: SyncConfig { base_url_allowed: false, ..sync.config.clone() }, ..sync };
    assert!(matches!(report(&forbidden, &kit, "3").await, Err(SyncError::BaseUrlRefused)));
}

#[tokio::test]
async fn an_engine_reads_real_accounts_by_itself_and_once_for_all_processes() {
    let kit = Kit::start().await;
    let meta = Meta::default();
    meta.set(&[listed("due", "APPROVED")]);
    synced(&kit, &meta.serve().await, "2").await;
    let stop = tokio_util::sync::CancellationToken::new();
    let tasks: Vec<_> = (0..3).map(|_| tokio::spawn(syncing(&kit, &Clock::manual(now())).run(stop.clone()))).collect();
    test_kit::wait::until(Duration::from_secs(20), "the template is there", async || {
        let ended =
            sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM template_syncs WHERE ended_at IS NOT NULL"#);
        (ended.fetch_one(&kit.database.pool).await.unwrap() == 1).then_some(())
    })
    .await;
    assert_eq!(template(&kit, "due").await.status, "APPROVED");
    stop.cancel();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(meta.asked.lock().unwrap().len(), 1, "nobody else read it, and nobody read the sandbox's");
}

fn news(waba_id: &str, name: &str, field: &str, at: i64, mut value: Value) -> Vec<u8> {
    value["message_template_id"] = json!(7);
    value["message_template_name"] = json!(name);
    value["message_template_language"] = json!("en-US");
    let entry = json!({"id": waba_id, "time": at, "changes": [{"field": field, "value": value}]});
    json!({"object": "whatsapp_business_account", "entry": [entry]}).to_string().into_bytes()
}

#[tokio::test]
async fn news_changes_a_template_once_in_whatever_order_it_comes() {
    let kit = Kit::start().await;
    let new = NewTemplate {
        name: "due".to_owned(),
        language: "en_US".to_owned(),
        category: "utility".to_owned(),
        components: json!([{"type": "BODY", "text": "Hello"}]),
    };
    templates::record_template(&kit.database.pool, kit.tenant_id, new, now()).await.unwrap();
    let running = kit.interpret(config());
    let at = now().timestamp();
    let status = |event: &str, second| {
        news(WABA, "due", "message_template_status_update", at + second, json!({"event": event, "reason": null}))
    };
    let quality = news(
        WABA,
        "due",
        "message_template_status_update",
        at + 3,
        json!({"previous_quality_score": "GREEN", "new_quality_score": "RED"}),
    );
    let category = json!({"previous_category": "UTILITY", "new_category": "MARKETING"});
    let category = news(WABA, "due", "template_category_update", at + 4, category);
    let announced =
        json!({"new_category": "UTILITY", "correct_category": "MARKETING", "category_update_timestamp": at + 90});
    let announced = news(WABA, "due", "template_category_update", at, announced);
    // Twice, and the oldest status last.
    for _ in 0..2 {
        for body in
            [&announced, &status("PAUSED", 1), &status("approved", 2), &quality, &category, &status("PAUSED", 1)]
        {
            kit.receive_raw(body.clone()).await;
        }
        kit.interpreted().await;
    }
    let due = template(&kit, "due").await;
    assert_eq!((due.status.as_str(), due.category.as_str()), ("APPROVED", "MARKETING"));
    assert_eq!(due.quality_score.as_deref(), Some("RED"));
    let found = changes(&kit, "due").await;
    let expected = [
        change("category", "UTILITY", "MARKETING", "webhook"),
        ("quality_score".to_owned(), None, Some("RED".to_owned()), "webhook".to_owned()),
        change("status", "PAUSED", "APPROVED", "webhook"),
        change("status", "APPROVED", "PAUSED", "webhook"),
        change("category_announced", "UTILITY", "MARKETING", "webhook"),
    ];
    assert_eq!(found, expected);
    assert!(kit.parked().await.is_empty());
    running.stop().await;
}

#[tokio::test]
async fn news_that_another_accounts_secret_signed_is_parked() {
    let kit = Kit::start().await;
    let running = kit.interpret(config());
    let body = news("999", "due", "message_template_status_update", 1, json!({"event": "PAUSED"}));
    kit.receive_raw(body).await;
    kit.interpreted().await;
    let parked = kit.parked().await;
    assert_eq!(parked.len(), 1);
    assert!(parked[0].3.contains("foreign"), "{parked:?}");
    // A template of the account that is not known yet is asked for.
    kit.receive_raw(news(WABA, "new_one", "message_template_status_update", 1, json!({"event": "APPROVED"}))).await;
    kit.interpreted().await;
    let asked = sqlx::query_scalar!("SELECT waba_id FROM template_syncs").fetch_all(&kit.database.pool).await.unwrap();
    assert_eq!(asked, [WABA]);
    running.stop().await;
}
