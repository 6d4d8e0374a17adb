//! Tenants, tokens, senders and templates against the real schema.

use chrono::{DateTime, TimeDelta, Utc};
use domain::ids::{SenderId, TemplateId, TenantId};
use infrastructure::senders::{self, NewSender, Secret, SenderChange, SenderError};
use infrastructure::templates::{self, NewTemplate, TemplateRecordError};
use infrastructure::tenants::{self, Tenant, TenantError, TokenError};
use infrastructure::whatsapp::client::{MarketingSettings, ProductPolicy};
use serde_json::json;
use sqlx::PgPool;
use test_kit::postgres::TestDatabase;
use uuid::Uuid;

/// Whole microseconds, as Postgres stores them.
fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_790_000_000 + second, 123_456_000).expect("a valid time")
}

async fn tenant(pool: &PgPool, name: &str) -> Tenant {
    tenants::create_tenant(pool, name, "Asia/Kolkata", at(0)).await.expect("a new tenant")
}

fn new_sender(tenant: TenantId, phone_number_id: &str) -> NewSender {
    NewSender {
        tenant_id: tenant,
        phone_number_id: phone_number_id.to_owned(),
        waba_id: "2000".to_owned(),
        base_url: None,
        access_token: Secret::new("access"),
        app_secret: Secret::new("app"),
        verify_token: Secret::new("verify"),
        sandbox: false,
    }
}

fn new_template(name: &str, language: &str) -> NewTemplate {
    NewTemplate {
        name: name.to_owned(),
        language: language.to_owned(),
        category: "marketing".to_owned(),
        components: json!([{"type": "BODY", "text": "Dear {{1}}, your {{2}} is ready"}]),
    }
}

#[tokio::test]
async fn a_tenant_is_created_once_and_found_by_name_and_id() {
    let database = TestDatabase::create().await;
    let pool = &database.pool;
    let created = tenants::create_tenant(pool, "Shri Jewels", "asia/kolkata", at(0)).await.unwrap();
    assert_eq!((created.name.as_str(), created.zone.as_str()), ("Shri Jewels", "Asia/Kolkata"));
    assert_eq!(created.created_at, at(0));
    assert_eq!(tenants::find_tenant(pool, "Shri Jewels").await.unwrap().as_ref(), Some(&created));
    assert_eq!(tenants::tenant(pool, created.id).await.unwrap().as_ref(), Some(&created));

    let again = tenants::create_tenant(pool, "Shri Jewels", "UTC", at(1)).await.unwrap_err();
    assert!(matches!(&again, TenantError::NameTaken { name } if name == "Shri Jewels"));
    assert_eq!(again.field(), "name");

    assert_eq!(tenants::ensure_tenant(pool, "Shri Jewels", "UTC", at(1)).await.unwrap(), created);
    let ensured = tenants::ensure_tenant(pool, "Another", "UTC", at(1)).await.unwrap();
    assert_eq!(tenants::list_tenants(pool).await.unwrap(), [ensured, created]);
}

#[tokio::test]
async fn a_tenant_ensured_by_many_at_once_is_one() {
    let database = TestDatabase::create().await;
    let ensure = || tenants::ensure_tenant(&database.pool, "demo", "Asia/Kolkata", at(0));
    let (one, two, three) = tokio::join!(ensure(), ensure(), ensure());
    assert_eq!(one.unwrap(), two.unwrap());
    assert_eq!(tenants::list_tenants(&database.pool).await.unwrap(), [three.unwrap()]);
}

#[tokio::test]
async fn bad_tenants_are_refused_by_field() {
    let database = TestDatabase::create().await;
    let long = "x".repeat(101);
    for (name, zone, field) in [
        ("", "UTC", "name"),
        (" a", "UTC", "name"),
        ("a\0b", "UTC", "name"),
        (long.as_str(), "UTC", "name"),
        ("a", "Mars/Olympus", "zone"),
    ] {
        let error = tenants::create_tenant(&database.pool, name, zone, at(0)).await.unwrap_err();
        assert_eq!(error.field(), field, "{name:?} {zone:?}");
    }
    assert!(tenants::create_tenant(&database.pool, &"क".repeat(100), "UTC", at(0)).await.is_ok());
    assert_eq!(tenants::find_tenant(&database.pool, "a\0b").await.unwrap(), None);
}

#[tokio::test]
async fn a_token_speaks_for_its_tenant_until_it_is_revoked() {
    let database = TestDatabase::create().await;
    let pool = &database.pool;
    let (ours, theirs) = (tenant(pool, "ours").await, tenant(pool, "theirs").await);
    let token = tenants::create_token(pool, ours.id, at(0)).await.unwrap();
    let other = tenants::create_token(pool, theirs.id, at(0)).await.unwrap();
    assert_eq!(tenants::authenticate(pool, &token).await.unwrap().as_ref(), Some(&ours));
    assert_eq!(tenants::authenticate(pool, &other).await.unwrap().as_ref(), Some(&theirs));

    // The id of one token with the secret of the other.
    let crossed = format!("{}{}", &token[..24], &other[24..]);
    for wrong in [crossed.as_str(), &tenants::generate_token(), "", "ektola_", &token[..token.len() - 1]] {
        assert_eq!(tenants::authenticate(pool, wrong).await.unwrap(), None, "{wrong}");
    }

    assert!(tenants::revoke_token(pool, &token[7..23], at(1)).await.unwrap());
    assert!(!tenants::revoke_token(pool, &token[7..23], at(2)).await.unwrap());
    assert_eq!(tenants::authenticate(pool, &token).await.unwrap(), None);
    assert_eq!(tenants::authenticate(pool, &other).await.unwrap(), Some(theirs));
    assert!(matches!(tenants::insert_token(pool, ours.id, &token, at(3)).await, Err(TokenError::Taken)));
    assert_eq!(tenants::authenticate(pool, &token).await.unwrap(), None);
}

#[tokio::test]
async fn the_secret_of_a_token_is_not_stored() {
    let database = TestDatabase::create().await;
    let ours = tenant(&database.pool, "ours").await;
    let token = tenants::create_token(&database.pool, ours.id, at(0)).await.unwrap();
    let stored =
        sqlx::query_scalar!(r#"SELECT api_tokens::text || encode(secret_hash, 'escape') AS "row!" FROM api_tokens"#)
            .fetch_one(&database.pool)
            .await
            .unwrap();
    assert!(stored.contains(&token[7..23]), "the readable id is stored");
    assert!(!stored.contains(&token[24..]));
}

#[tokio::test]
async fn a_token_from_outside_is_registered_once() {
    let database = TestDatabase::create().await;
    let pool = &database.pool;
    let (ours, theirs) = (tenant(pool, "ours").await, tenant(pool, "theirs").await);
    let token = tenants::generate_token();
    tenants::insert_token(pool, ours.id, &token, at(0)).await.unwrap();
    tenants::insert_token(pool, ours.id, &token, at(1)).await.unwrap();
    assert_eq!(tenants::authenticate(pool, &token).await.unwrap().as_ref(), Some(&ours));

    assert!(matches!(tenants::insert_token(pool, theirs.id, &token, at(2)).await, Err(TokenError::Taken)));
    let same_id = format!("{}{}", &token[..24], &tenants::generate_token()[24..]);
    assert!(matches!(tenants::insert_token(pool, ours.id, &same_id, at(2)).await, Err(TokenError::Taken)));
    assert!(matches!(tenants::insert_token(pool, ours.id, "secret", at(2)).await, Err(TokenError::Malformed)));
    assert_eq!(tenants::authenticate(pool, &same_id).await.unwrap(), None);
    assert_eq!(tenants::authenticate(pool, &token).await.unwrap(), Some(ours));
}

#[tokio::test]
async fn adding_a_sender_again_replaces_its_secrets_and_keeps_the_rest() {
    let database = TestDatabase::create().await;
    let pool = &database.pool;
    let ours = tenant(pool, "ours").await.id;
    let first = senders::add_sender(pool, new_sender(ours, "1000"), at(0)).await.unwrap();
    assert_eq!((first.rate_per_s, first.base_url.as_deref(), first.created_at), (80, None, at(0)));
    senders::set_rate(pool, "1000", 500).await.unwrap();

    let changed = NewSender {
        waba_id: "3000".to_owned(),
        base_url: Some("http://127.0.0.1:9000/".to_owned()),
        access_token: Secret::new("access-2"),
        app_secret: Secret::new("app-2"),
        verify_token: Secret::new("verify-2"),
        ..new_sender(ours, "1000")
    };
    let second = senders::add_sender(pool, changed, at(10)).await.unwrap();
    assert_eq!((second.id, second.created_at, second.rate_per_s), (first.id, at(0), 500));
    let stored = senders::find_sender(pool, ours, first.id).await.unwrap().unwrap();
    assert_eq!((stored.waba_id.as_str(), stored.base_url.as_deref()), ("3000", Some("http://127.0.0.1:9000")));
    assert_eq!(stored.access_token.expose(), "access-2");
    assert_eq!(stored.app_secret.expose(), "app-2");
    assert_eq!(stored.verify_token.expose(), "verify-2");
    assert_eq!(senders::all_active(pool).await.unwrap().len(), 1);
}

#[tokio::test]
async fn how_a_number_sends_is_changed_bit_by_bit() {
    let database = TestDatabase::create().await;
    let pool = &database.pool;
    let ours = tenant(pool, "ours").await.id;
    let added = senders::add_sender(pool, new_sender(ours, "1000"), at(0)).await.unwrap();
    assert_eq!((added.api_version, added.marketing), (None, None));
    let change = async |change: SenderChange| senders::change_sender(pool, "1000", change).await;
    let strict = SenderChange {
        api_version: Some(Some("v24.0".to_owned())),
        marketing_api: Some(true),
        product_policy: Some(ProductPolicy::Strict),
        ..SenderChange::default()
    };
    let expected = MarketingSettings { product_policy: ProductPolicy::Strict, activity_sharing: None };
    assert_eq!(change(strict).await.unwrap().marketing, Some(expected));
    let sharing = SenderChange { activity_sharing: Some(Some(false)), rate_per_s: Some(7), ..SenderChange::default() };
    let changed = change(sharing).await.unwrap();
    let expected = MarketingSettings { activity_sharing: Some(false), ..expected };
    assert_eq!((changed.rate_per_s, changed.marketing), (7, Some(expected)));
    assert_eq!(changed.api_version.as_deref(), Some("v24.0"), "what is not named stays");
    let back = SenderChange { api_version: Some(None), marketing_api: Some(false), ..SenderChange::default() };
    let back = change(back).await.unwrap();
    assert_eq!((back.rate_per_s, back.api_version, back.marketing), (7, None, None));
    let wrong = SenderChange { api_version: Some(Some("25".to_owned())), ..SenderChange::default() };
    assert_eq!(change(wrong).await.unwrap_err().field(), "api_version");
}

#[tokio::test]
async fn a_sender_belongs_to_one_tenant() {
    let database = TestDatabase::create().await;
    let pool = &database.pool;
    let (ours, theirs) = (tenant(pool, "ours").await.id, tenant(pool, "theirs").await.id);
    let sender = senders::add_sender(pool, new_sender(ours, "1000"), at(0)).await.unwrap();
    let stolen = NewSender { app_secret: Secret::new("forged"), ..new_sender(theirs, "1000") };
    let error = senders::add_sender(pool, stolen, at(1)).await.unwrap_err();
    assert!(matches!(&error, SenderError::OtherTenant { phone_number_id } if phone_number_id == "1000"));
    assert_eq!(error.field(), "phone_number_id");

    let verifiers = senders::verifiers(pool).await.unwrap();
    let verifiers: Vec<_> =
        verifiers.iter().map(|(id, phone, secret)| (*id, phone.as_str(), secret.expose())).collect();
    assert_eq!(verifiers, [(sender.id, "1000", "app")]);
    assert!(senders::find_sender(pool, theirs, sender.id).await.unwrap().is_none());
    assert!(senders::list_senders(pool, Some(theirs)).await.unwrap().is_empty());
    assert_eq!(senders::list_senders(pool, Some(ours)).await.unwrap()[0].id, sender.id);
    assert_eq!(senders::sender(pool, sender.id).await.unwrap().unwrap().tenant_id, ours);
    assert!(senders::sender(pool, SenderId(Uuid::from_u128(1))).await.unwrap().is_none());
}

#[tokio::test]
async fn the_sandboxs_sender_serves_only_while_there_is_no_other() {
    let database = TestDatabase::create().await;
    let pool = &database.pool;
    let (ours, theirs) = (tenant(pool, "ours").await.id, tenant(pool, "theirs").await.id);
    senders::add_sender(pool, new_sender(theirs, "9000"), at(50)).await.unwrap();
    assert!(senders::default_sender(pool, ours).await.unwrap().is_none());
    let default = async || senders::default_sender(pool, ours).await.unwrap().unwrap().phone_number_id;

    // The sandbox's sender is the newest of all and still comes last.
    let sandbox = NewSender { sandbox: true, ..new_sender(ours, "sandbox") };
    senders::add_sender(pool, sandbox, at(100)).await.unwrap();
    assert_eq!(default().await, "sandbox");
    senders::add_sender(pool, new_sender(ours, "1000"), at(10)).await.unwrap();
    assert_eq!(default().await, "1000");
    senders::add_sender(pool, new_sender(ours, "2000"), at(20)).await.unwrap();
    assert_eq!(default().await, "2000");
    // Adding an old one again, as every start with credentials in the environment does, changes nothing.
    senders::add_sender(pool, new_sender(ours, "1000"), at(30)).await.unwrap();
    assert_eq!(default().await, "2000");
}

#[tokio::test]
async fn a_rate_is_set_within_what_whatsapp_permits() {
    let database = TestDatabase::create().await;
    let pool = &database.pool;
    let ours = tenant(pool, "ours").await.id;
    let sender = senders::add_sender(pool, new_sender(ours, "1000"), at(0)).await.unwrap();
    for rate in [1, 1000] {
        assert_eq!(senders::set_rate(pool, "1000", rate).await.unwrap().rate_per_s, rate);
        assert_eq!(senders::sender(pool, sender.id).await.unwrap().unwrap().rate_per_s, rate);
    }
    for rate in [0, 1001, u32::MAX] {
        assert!(matches!(senders::set_rate(pool, "1000", rate).await, Err(SenderError::RateOutOfRange)));
    }
    let unknown = senders::set_rate(pool, "1001", 10).await.unwrap_err();
    assert!(matches!(unknown, SenderError::UnknownSender { phone_number_id } if phone_number_id == "1001"));
}

#[tokio::test]
async fn bad_senders_are_refused_by_field() {
    let database = TestDatabase::create().await;
    let ours = tenant(&database.pool, "ours").await.id;
    let good = new_sender(ours, "1000");
    let cases = [
        ("phone_number_id", NewSender { phone_number_id: "../me".to_owned(), ..good.clone() }),
        ("waba_id", NewSender { waba_id: String::new(), ..good.clone() }),
        ("base_url", NewSender { base_url: Some("ftp://example.org".to_owned()), ..good.clone() }),
        ("access_token", NewSender { access_token: Secret::new("a\nb"), ..good.clone() }),
        ("app_secret", NewSender { app_secret: Secret::new(""), ..good.clone() }),
        ("verify_token", NewSender { verify_token: Secret::new(" "), ..good }),
    ];
    for (field, sender) in cases {
        assert_eq!(senders::add_sender(&database.pool, sender, at(0)).await.unwrap_err().field(), field);
    }
    assert!(senders::all_active(&database.pool).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_template_is_recorded_as_approved_with_its_variables() {
    let database = TestDatabase::create().await;
    let pool = &database.pool;
    let (ours, theirs) = (tenant(pool, "ours").await.id, tenant(pool, "theirs").await.id);
    let recorded = templates::record_template(pool, ours, new_template("order_ready", "en_US"), at(0)).await.unwrap();
    assert_eq!((recorded.status.as_str(), recorded.category.as_str()), ("APPROVED", "MARKETING"));
    assert_eq!(recorded.variables, ["1", "2"]);
    assert_eq!(templates::find_template(pool, ours, recorded.id).await.unwrap().as_ref(), Some(&recorded));
    assert_eq!(templates::find_template(pool, theirs, recorded.id).await.unwrap(), None);

    let again = templates::record_template(pool, ours, new_template("order_ready", "en_US"), at(1)).await.unwrap_err();
    assert_eq!(again.field(), "name");
    let TemplateRecordError::Taken { name, language } = again else { panic!("expected taken, got {again:?}") };
    assert_eq!((name.as_str(), language.as_str()), ("order_ready", "en_US"));

    templates::record_template(pool, theirs, new_template("order_ready", "en_US"), at(1)).await.unwrap();
    let hindi = templates::record_template(pool, ours, new_template("order_ready", "hi"), at(1)).await.unwrap();
    assert_eq!(templates::find_by_name(pool, ours, "order_ready").await.unwrap(), [recorded, hindi]);
    assert!(templates::find_by_name(pool, ours, "order_late").await.unwrap().is_empty());
    assert!(templates::find_by_name(pool, ours, "a\0b").await.unwrap().is_empty());
}

#[tokio::test]
async fn bad_templates_are_refused_by_field() {
    let database = TestDatabase::create().await;
    let ours = tenant(&database.pool, "ours").await.id;
    let good = new_template("order_ready", "en");
    let cases = [
        ("name", NewTemplate { name: "Order Ready".to_owned(), ..good.clone() }),
        ("language", NewTemplate { language: "english".to_owned(), ..good.clone() }),
        ("category", NewTemplate { category: "spam".to_owned(), ..good.clone() }),
        ("components", NewTemplate { components: json!("Dear {{1}}"), ..good.clone() }),
        ("components", NewTemplate { components: json!([{"type": "BODY", "text": "a\u{0}b"}]), ..good }),
    ];
    for (field, template) in cases {
        let error = templates::record_template(&database.pool, ours, template, at(0)).await.unwrap_err();
        assert_eq!(error.field(), field, "{error:?}");
        assert!(!error.to_string().is_empty());
    }
    assert!(templates::template_names(&database.pool, ours, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn templates_are_listed_page_by_page_each_once() {
    let database = TestDatabase::create().await;
    let pool = &database.pool;
    let (ours, theirs) = (tenant(pool, "ours").await.id, tenant(pool, "theirs").await.id);
    let mut expected = Vec::new();
    for (index, (name, language)) in
        [("a", "en"), ("a", "hi"), ("b", "en"), ("c", "en"), ("c", "hi")].into_iter().enumerate()
    {
        // The newest first, so that the order of the list is not the order of recording.
        let time = at(0) - TimeDelta::seconds(i64::try_from(index).unwrap());
        expected.push(templates::record_template(pool, ours, new_template(name, language), time).await.unwrap());
    }
    let foreign = templates::record_template(pool, theirs, new_template("a", "mr"), at(0)).await.unwrap();

    let mut listed = Vec::new();
    let mut cursor: Option<TemplateId> = None;
    loop {
        let page = templates::list_templates(pool, ours, cursor, 2).await.unwrap();
        assert!(page.len() <= 2);
        let Some(last) = page.last() else { break };
        cursor = Some(last.id);
        listed.extend(page);
    }
    assert_eq!(listed, expected);
    assert!(templates::list_templates(pool, ours, Some(foreign.id), 10).await.unwrap().is_empty());
    assert_eq!(templates::template_names(pool, ours, 2).await.unwrap(), ["a", "b"]);
    assert_eq!(templates::template_names(pool, ours, 10).await.unwrap(), ["a", "b", "c"]);
}
