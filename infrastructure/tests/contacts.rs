//! The import of contacts, what can be asked of them and the audience of a run, against the real schema.

#![expect(clippy::unwrap_used, reason = "a failure anywhere fails the test")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Mutex;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::ids::{ContactId, TenantId};
use domain::phone::{Phone, normalize};
use infrastructure::contacts::{
    AudienceMember, ContactFilter, FileFault, ImportError, ImportOptions, ImportProgress, ImportReport, ImportStage,
    SegmentCount, audience_member, audience_page, ensure_contact, find_by_phone, import, list_contacts, list_segments,
    segment_exists,
};
use infrastructure::tenants;
use sqlx::{Connection, Executor, PgPool};
use tempfile::NamedTempFile;
use test_kit::postgres::TestDatabase;
use test_kit::wait;
use uuid::Uuid;

const FIRST: ContactId = ContactId(Uuid::nil());
const DEADLINE: Duration = Duration::from_secs(30);

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_790_000_000 + second, 0).unwrap()
}

async fn tenant(pool: &PgPool, name: &str) -> TenantId {
    tenants::create_tenant(pool, name, "Asia/Kolkata", at(0)).await.unwrap().id
}

fn file(bytes: impl AsRef<[u8]>) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes.as_ref()).unwrap();
    file
}

async fn try_upload(pool: &PgPool, tenant: TenantId, bytes: impl AsRef<[u8]>) -> Result<ImportReport, ImportError> {
    let file = file(bytes);
    let report = import(pool, tenant, file.path(), at(1), &ImportOptions::default(), |_| {}).await?;
    let sum = report.created + report.updated + report.unchanged + report.duplicate + report.rejected;
    assert_eq!(report.rows, sum, "{report:?}");
    Ok(report)
}

async fn upload(pool: &PgPool, tenant: TenantId, bytes: impl AsRef<[u8]>) -> ImportReport {
    try_upload(pool, tenant, bytes).await.unwrap()
}

/// Created, updated, unchanged, duplicate, rejected.
fn counts(report: &ImportReport) -> [u64; 5] {
    [report.created, report.updated, report.unchanged, report.duplicate, report.rejected]
}

/// Something happens elsewhere: the log grows by one event, whose position is returned.
async fn log_grows(pool: &PgPool, tenant: TenantId) -> i64 {
    let insert = format!(
        "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
        VALUES ('Test', '{}', 1, 'Tested', '1', '{{}}', '{{\"tenant_id\": \"{tenant}\"}}')",
        Uuid::new_v4()
    );
    pool.execute(insert.as_str()).await.unwrap();
    last_position(pool).await
}

async fn last_position(pool: &PgPool) -> i64 {
    sqlx::query_scalar!(r#"SELECT coalesce(max(position), 0) AS "position!" FROM events"#)
        .fetch_one(pool)
        .await
        .unwrap()
}

fn phone(raw: &str) -> Phone {
    normalize(raw).unwrap()
}

fn map<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// The attributes and segments of a contact that must exist.
async fn known(pool: &PgPool, tenant: TenantId, raw: &str) -> (BTreeMap<String, String>, Vec<String>) {
    let contact = find_by_phone(pool, tenant, &phone(raw)).await.unwrap().expect("the contact exists");
    (contact.attributes, contact.segments)
}

async fn contacts(pool: &PgPool, tenant: TenantId) -> i64 {
    sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM contacts WHERE tenant_id = $1"#, tenant.0)
        .fetch_one(pool)
        .await
        .unwrap()
}

async fn versions(pool: &PgPool, tenant: TenantId) -> i64 {
    sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM contact_versions v JOIN contacts c ON c.id = v.contact_id
        WHERE c.tenant_id = $1"#,
        tenant.0
    )
    .fetch_one(pool)
    .await
    .unwrap()
}

async fn members(pool: &PgPool, tenant: TenantId, segment: &str, as_of: i64) -> Vec<AudienceMember> {
    audience_page(pool, tenant, segment, as_of, FIRST, 1000).await.unwrap()
}

#[tokio::test]
async fn rows_become_contacts_with_attributes_and_segments() {
    let database = TestDatabase::create().await;
    let pool = &database.pool;
    let tenant = tenant(pool, "jeweller").await;
    let position = log_grows(pool, tenant).await;
    let report = upload(
        pool,
        tenant,
        "Phone,Name,Due Date,Segments\n98765 43210,Asha,2026-12-01,\"gold; Chennai\"\n+14155550123,Ravi,,gold\n",
    )
    .await;
    assert_eq!(counts(&report), [2, 0, 0, 0, 0]);
    assert_eq!((report.rows, report.position, report.errors_omitted), (2, position, 0));
    assert_eq!(
        known(pool, tenant, "+919876543210").await,
        (map([("name", "Asha"), ("due_date", "2026-12-01")]), vec!["Chennai".to_owned(), "gold".to_owned()])
    );
    assert_eq!(known(pool, tenant, "+14155550123").await, (map([("name", "Ravi")]), vec!["gold".to_owned()]));
    let contact = find_by_phone(pool, tenant, &phone("9876543210")).await.unwrap().unwrap();
    assert_eq!(contact.created_at, at(1));
    database.close().await;
}

#[tokio::test]
async fn every_encoding_and_delimiter_stores_the_same() {
    let database = TestDatabase::create().await;
    let pool = &database.pool;
    for (number, delimiter) in [',', ';', '\t', '|'].into_iter().enumerate() {
        let text = "phone,name,segment\r\n9876543210,José,\"gold\"\r\n".replace(',', &delimiter.to_string());
        let utf16 = |to_bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
            std::iter::once(0xFEFF).chain(text.encode_utf16()).flat_map(to_bytes).collect()
        };
        let windows: Vec<u8> = text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
        let forms = [
            text.clone().into_bytes(),
            [b"\xEF\xBB\xBF", text.as_bytes()].concat(),
            utf16(u16::to_le_bytes),
            utf16(u16::to_be_bytes),
            windows,
        ];
        for (form, bytes) in forms.into_iter().enumerate() {
            let tenant = tenant(pool, &format!("{number} {form}")).await;
            assert_eq!(counts(&upload(pool, tenant, bytes).await), [1, 0, 0, 0, 0]);
            assert_eq!(
                known(pool, tenant, "9876543210").await,
                (map([("name", "José")]), vec!["gold".to_owned()]),
                "delimiter {delimiter:?}, form {form}"
            );
        }
    }
    database.close().await;
}

#[tokio::test]
async fn any_text_comes_back_as_it_was() {
    let database = TestDatabase::create().await;
    let pool = &database.pool;
    let tenant = tenant(pool, "jeweller").await;
    let value = "a\\b\\N \"x\" {1,2} 'y' \t two\r\nlines \u{1} 🪔 \\. end";
    let segment = "the \"best\" \\ {one}";
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let text = format!("phone,\"odd \"\"name\"\"\\\",segment\n9876543210,{},{}\n", quoted(value), quoted(segment));
    upload(pool, tenant, text).await;
    assert_eq!(known(pool, tenant, "9876543210").await, (map([("odd_\"name\"\\", value)]), vec![segment.to_owned()]));
    database.close().await;
}

#[tokio::test]
async fn the_last_valid_row_of_a_number_wins() {
    let database = TestDatabase::create().await;
    let pool = &database.pool;
    let tenant = tenant(pool, "jeweller").await;
    let report = upload(
        pool,
        tenant,
        "phone,name,city,segment\n9876543210,first,Chennai,a\n+91 98765-43210,second,,b\n09876543210,last,,\n\
        9876543210,x,y,z,too many\n9876543211,other,,\n",
    )
    .await;
    assert_eq!(counts(&report), [2, 0, 0, 2, 1]);
    assert_eq!(known(pool, tenant, "9876543210").await, (map([("name", "last")]), vec![]));
    database.close().await;
}

#[tokio::test]
async fn empty_cells_change_nothing_and_other_cells_replace() {
    let database = TestDatabase::create().await;
    let pool = &database.pool;
    let tenant = tenant(pool, "jeweller").await;
    upload(pool, tenant, "phone,name,city,segment\n9876543210,Asha,Chennai,gold;silver\n").await;
    log_grows(pool, tenant).await;

    let empty = upload(pool, tenant, "phone,name,city,segment\n9876543210,,  ,\n").await;
    assert_eq!(counts(&empty), [0, 0, 1, 0, 0]);
    let without_columns = upload(pool, tenant, "phone\n9876543210\n").await;
    assert_eq!(counts(&without_columns), [0, 0, 1, 0, 0]);
    let same = upload(pool, tenant, "phone,city,segment\n9876543210,Chennai,silver|gold\n").await;
    assert_eq!(counts(&same), [0, 0, 1, 0, 0]);
    assert_eq!(versions(pool, tenant).await, 1);

    let replaced = upload(pool, tenant, "phone,name,due,segment\n9876543210,Usha,5,silver;pearl\n").await;
    assert_eq!(counts(&replaced), [0, 1, 0, 0, 0]);
    let only_segments = upload(pool, tenant, "phone,segment\n9876543210,pearl\n").await;
    assert_eq!(counts(&only_segments), [0, 1, 0, 0, 0]);
    assert_eq!(
        known(pool, tenant, "9876543210").await,
        (map([("name", "Usha"), ("city", "Chennai"), ("due", "5")]), vec!["pearl".to_owned()])
    );
    database.close().await;
}

#[tokio::test]
async fn a_bad_row_is_rejected_alone_with_its_reason() {
    let database = TestDatabase::create().await;
    let pool = &database.pool;
    let tenant = tenant(pool, "jeweller").await;
    let report = upload(
        pool,
        tenant,
        format!(
            "Mobile,name,segment\n9.19877E+11,Asha,\n\n04424680000,landline,\n9876543210,good,\n,none,\n\
            9876543211,long,{}\n",
            "s".repeat(101)
        ),
    )
    .await;
    assert_eq!(counts(&report), [1, 0, 0, 0, 4]);
    let places: Vec<(u64, Option<&str>)> =
        report.errors.iter().map(|error| (error.row, error.column.as_deref())).collect();
    assert_eq!(places, [(2, Some("Mobile")), (3, Some("Mobile")), (5, Some("Mobile")), (6, Some("segment"))]);
    assert!(report.errors[0].reason.contains("spreadsheet rounded"), "{}", report.errors[0].reason);
    assert!(report.errors[1].reason.contains("landline"), "{}", report.errors[1].reason);
    assert_eq!(contacts(pool, tenant).await, 1);
    database.close().await;
}

#[tokio::test]
async fn a_file_of_rejected_rows_alone_stores_nothing_and_is_no_fault() {
    let database = TestDatabase::create().await;
    let pool = &database.pool;
    let tenant = tenant(pool, "jeweller").await;
    assert_eq!(counts(&upload(pool, tenant, "phone\n12\n34\n").await), [0, 0, 0, 0, 2]);
    assert_eq!(counts(&upload(pool, tenant, "phone\n").await), [0, 0, 0, 0, 0]);
    assert_eq!(contacts(pool, tenant).await, 0);
    database.close().await;
}

#[tokio::test]
async fn a_fault_of_the_file_stores_nothing() {
    let database = TestDatabase::create().await;
    let pool = &database.pool;
    let tenant = tenant(pool, "jeweller").await;
    let good: String = (0..5000).fold("phone,name\n".to_owned(), |mut text, n| {
        writeln!(text, "{},x", 7_000_000_000_u64 + n).unwrap();
        text
    });
    let mut cut: Vec<u8> = std::iter::once(0xFEFF).chain(good.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    cut.pop();
    for (bytes, expected) in [
        (format!("{good}9876543210,\"Asha\n").into_bytes(), FileFault::UnclosedQuote { row: 5002 }),
        (cut, FileFault::UnreadableEncoding { row: 5001, encoding: "UTF-16" }),
        (
            [good.as_bytes(), b"9876543210,\xE9\x81\n"].concat(),
            FileFault::UnreadableEncoding { row: 5002, encoding: "UTF-8 or Windows-1252" },
        ),
        (
            good.replace("phone", "number").into_bytes(),
            FileFault::NoPhoneColumn { found: vec!["number".to_owned(), "name".to_owned()] },
        ),
        (Vec::new(), FileFault::Empty),
    ] {
        match try_upload(pool, tenant, bytes).await {
            Err(ImportError::File(fault)) => assert_eq!(fault, expected),
            other => panic!("{expected:?} was to be found, not {other:?}"),
        }
        assert_eq!(contacts(pool, tenant).await, 0);
    }
    let limit = ImportOptions { max_bytes: 10, ..ImportOptions::default() };
    let refused = import(pool, tenant, file(&good).path(), at(1), &limit, |_| {}).await;
    assert!(matches!(refused, Err(ImportError::TooLarge { max_bytes: 10, .. })), "{refused:?}");
    database.close().await;
}

#[tokio::test]
async fn fifty_thousand_rows_add_up_the_first_time_and_the_second() {
    let database = TestDatabase::create().await;
    let pool = &database.pool;
    let tenant = tenant(pool, "jeweller").await;
    let text = |changed: u64| {
        let mut text = "phone,name,segment\n".to_owned();
        for n in 0..50_000_u64 {
            match n % 100 {
                7 => writeln!(text, "12345,bad,").unwrap(),
                // The number of the row before: that one becomes a duplicate.
                8 => writeln!(text, "{},again {n},gold", 7_000_000_000 + n - 2).unwrap(),
                _ => writeln!(text, "{},name {},gold;s{}", 7_000_000_000 + n, n * changed.min(n % 2), n % 3).unwrap(),
            }
        }
        text
    };
    let seen = Mutex::new(Vec::new());
    let spooled = file(text(0));
    let first = import(pool, tenant, spooled.path(), at(1), &ImportOptions::default(), |progress| {
        seen.lock().unwrap().push(progress);
    })
    .await
    .unwrap();
    assert_eq!(counts(&first), [49_000, 0, 0, 500, 500]);
    assert_eq!((first.rows, first.errors.len(), first.errors_omitted), (50_000, 500, 0));
    assert_eq!(contacts(pool, tenant).await, 49_000);
    assert_progress(&seen.into_inner().unwrap(), 50_000);

    assert_eq!(counts(&upload(pool, tenant, text(0)).await), [0, 0, 49_000, 500, 500]);
    log_grows(pool, tenant).await;
    // Odd rows get another name, but those with 7 are bad: 49 of each hundred.
    assert_eq!(counts(&upload(pool, tenant, text(1)).await), [0, 24_500, 24_500, 500, 500]);
    assert_eq!(versions(pool, tenant).await, 49_000 + 24_500);
    database.close().await;
}

fn assert_progress(seen: &[ImportProgress], rows: u64) {
    let mut stages: Vec<ImportStage> = seen.iter().map(|progress| progress.stage).collect();
    stages.dedup();
    assert_eq!(stages, [ImportStage::Checking, ImportStage::Reading, ImportStage::Storing]);
    assert!(seen.windows(2).all(|pair| pair[0].stage != pair[1].stage || pair[0].rows <= pair[1].rows));
    let last = seen.last().unwrap();
    assert_eq!((last.bytes_read, last.rows), (last.bytes_total, rows));
}

#[tokio::test]
async fn uploads_of_one_tenant_at_the_same_time_neither_double_nor_block_for_ever() {
    let database = TestDatabase::create().await;
    let pool = &database.pool;
    let tenant = tenant(pool, "jeweller").await;
    let text = |from: u64, reversed: bool| {
        let mut rows: Vec<String> = (from..from + 2000).map(|n| format!("{},gold\n", 7_000_000_000 + n)).collect();
        if reversed {
            rows.reverse();
        }
        format!("phone,segment\n{}", rows.concat())
    };
    let uploads = async {
        tokio::join!(
            upload(pool, tenant, text(0, false)),
            upload(pool, tenant, text(1000, true)),
            upload(pool, tenant, text(0, true)),
            upload(pool, tenant, text(500, false)),
        )
    };
    let (a, b, c, d) = tokio::time::timeout(DEADLINE, uploads).await.expect("the uploads end");
    assert_eq!([&a, &b, &c, &d].map(|report| report.created).iter().sum::<u64>(), 3000);
    assert_eq!([&a, &b, &c, &d].map(|report| report.unchanged).iter().sum::<u64>(), 5000);
    assert_eq!(contacts(pool, tenant).await, 3000);
    assert_eq!(list_segments(pool, tenant).await.unwrap()[0].contacts, 3000);
    database.close().await;
}

#[tokio::test]
async fn an_upload_that_is_given_up_stores_nothing() {
    let database = TestDatabase::create().await;
    let pool = &database.pool;
    let tenant = tenant(pool, "jeweller").await;
    let rows: String = (0..100_000_u64).map(|n| format!("{}\n", 7_000_000_000 + n)).collect();
    let spooled = file(format!("phone\n{rows}"));
    let reading = tokio::sync::Notify::new();
    let options = ImportOptions::default();
    {
        let uploading = import(pool, tenant, spooled.path(), at(1), &options, |progress| {
            if progress.stage == ImportStage::Reading {
                reading.notify_one();
            }
        });
        tokio::select! {
            biased;
            () = reading.notified() => {}
            result = uploading => panic!("the upload ended before it was given up: {result:?}"),
        }
    }
    assert_eq!(contacts(pool, tenant).await, 0);
    assert_eq!(counts(&upload(pool, tenant, "phone\n9876543210\n").await), [1, 0, 0, 0, 0]);
    database.close().await;
}

#[tokio::test]
async fn an_audience_is_what_it_was_at_its_position() {
    let database = TestDatabase::create().await;
    let pool = &database.pool;
    let tenant = tenant(pool, "jeweller").await;
    log_grows(pool, tenant).await;
    let before = upload(pool, tenant, "phone,name,segment\n9876543210,Asha,gold\n9876543211,Ravi,gold\n").await;
    let first_run = log_grows(pool, tenant).await;
    let changed = upload(pool, tenant, "phone,name,segment\n9876543210,Usha,silver\n9876543212,Devi,gold\n").await;
    assert_eq!((changed.position, counts(&changed)), (first_run, [1, 1, 0, 0, 0]));
    let second_run = log_grows(pool, tenant).await;

    assert_eq!(members(pool, tenant, "gold", before.position).await, []);
    let names = |members: Vec<AudienceMember>| {
        let mut names: Vec<String> = members.into_iter().map(|member| member.attributes["name"].clone()).collect();
        names.sort();
        names
    };
    assert_eq!(names(members(pool, tenant, "gold", first_run).await), ["Asha", "Ravi"]);
    assert_eq!(names(members(pool, tenant, "silver", first_run).await), Vec::<String>::new());
    assert_eq!(names(members(pool, tenant, "gold", second_run).await), ["Devi", "Ravi"]);
    assert_eq!(names(members(pool, tenant, "silver", second_run).await), ["Usha"]);

    let asha = find_by_phone(pool, tenant, &phone("9876543210")).await.unwrap().unwrap().id;
    let as_of = async |position| audience_member(pool, tenant, asha, position).await.unwrap();
    assert_eq!(as_of(before.position).await, None);
    assert_eq!(as_of(first_run).await.unwrap().attributes, map([("name", "Asha")]));
    let now = as_of(second_run).await.unwrap();
    assert_eq!((now.phone.as_str(), now.attributes), ("+919876543210", map([("name", "Usha")])));
    database.close().await;
}

#[tokio::test]
async fn changes_at_one_position_leave_one_version() {
    let database = TestDatabase::create().await;
    let pool = &database.pool;
    let tenant = tenant(pool, "jeweller").await;
    for (name, segment) in [("Asha", "gold"), ("Usha", "silver"), ("Asha", "gold;silver"), ("Devi", "gold")] {
        upload(pool, tenant, format!("phone,name,segment\n9876543210,{name},\"{segment}\"\n")).await;
    }
    assert_eq!(versions(pool, tenant).await, 1);
    assert_eq!(known(pool, tenant, "9876543210").await, (map([("name", "Devi")]), vec!["gold".to_owned()]));
    let run = log_grows(pool, tenant).await;
    assert_eq!(members(pool, tenant, "gold", run).await.len(), 1);
    assert_eq!(members(pool, tenant, "silver", run).await, []);
    // A segment that is left and entered again.
    upload(pool, tenant, "phone,segment\n9876543210,silver\n").await;
    upload(pool, tenant, "phone,segment\n9876543210,gold\n").await;
    let later = log_grows(pool, tenant).await;
    assert_eq!(members(pool, tenant, "gold", run).await.len(), 1);
    assert_eq!(members(pool, tenant, "gold", later).await.len(), 1);
    assert_eq!(members(pool, tenant, "silver", later).await, []);
    database.close().await;
}

#[tokio::test]
async fn audience_pages_cover_the_segment_once_in_the_order_of_the_ids() {
    let database = TestDatabase::create().await;
    let pool = &database.pool;
    let tenant = tenant(pool, "jeweller").await;
    let rows: String = (0..250_u64).map(|n| format!("{},gold\n", 7_000_000_000 + n)).collect();
    upload(pool, tenant, format!("phone,segment\n{rows}8000000000,silver\n")).await;
    let run = log_grows(pool, tenant).await;
    let mut all = Vec::new();
    let mut after = FIRST;
    loop {
        let page = audience_page(pool, tenant, "gold", run, after, 100).await.unwrap();
        all.extend(page.iter().map(|member| member.contact_id));
        match page.last() {
            Some(last) if page.len() == 100 => after = last.contact_id,
            _ => break,
        }
    }
    assert_eq!(all.len(), 250);
    assert!(all.windows(2).all(|pair| pair[0] < pair[1]));
    database.close().await;
}

/// Otherwise the first pages of the run would show the contacts as they were before the upload and the later ones as
/// they were after it.
#[tokio::test]
async fn a_run_that_starts_while_an_upload_is_being_written_sees_all_of_it() {
    let database = TestDatabase::create().await;
    let pool = &database.pool;
    let tenant = tenant(pool, "jeweller").await;
    let mut blocker = database.owner.acquire().await.unwrap();
    let mut blocking = blocker.begin().await.unwrap();
    // Writing waits for this, reading does not.
    blocking.execute("LOCK TABLE contacts IN SHARE MODE").await.unwrap();

    let uploading = upload(pool, tenant, "phone,segment\n9876543210,gold\n");
    let reading = async {
        waiting_for(&database.owner, "relation").await;
        let run = log_grows(pool, tenant).await;
        members(pool, tenant, "gold", run).await
    };
    let releasing = async {
        waiting_for(&database.owner, "advisory").await;
        blocking.rollback().await.unwrap();
    };
    let (report, audience, ()) = tokio::join!(uploading, reading, releasing);
    assert_eq!((report.created, audience.len()), (1, 1));
    drop(blocker);
    database.close().await;
}

/// Until somebody in this database waits for a lock of this kind.
async fn waiting_for(owner: &PgPool, kind: &str) {
    wait::until(DEADLINE, "somebody who waits for the lock", async || {
        sqlx::query_scalar!(
            r#"SELECT EXISTS (
                SELECT FROM pg_locks
                WHERE NOT granted AND locktype = $1
                  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
            ) AS "exists!""#,
            kind
        )
        .fetch_one(owner)
        .await
        .unwrap()
        .then_some(())
    })
    .await;
}

#[tokio::test]
async fn contacts_are_listed_by_page_segment_and_phone() {
    let database = TestDatabase::create().await;
    let pool = &database.pool;
    let (tenant, stranger) = (tenant(pool, "jeweller").await, tenant(pool, "stranger").await);
    let rows: String = (0..25_u64)
        .map(|n| format!("{},n{n},{}\n", 7_000_000_000 + n, ["gold", "silver"][usize::from(n >= 10)]))
        .collect();
    upload(pool, tenant, format!("phone,name,segment\n{rows}")).await;
    upload(pool, stranger, "phone,segment\n7000000000,foreign\n").await;

    let all = async |filter: ContactFilter| {
        let mut ids = Vec::new();
        let mut pages = 0;
        let mut cursor = None;
        loop {
            let page = list_contacts(pool, tenant, &filter, cursor, 5).await.unwrap();
            ids.extend(page.items.iter().map(|contact| contact.id));
            pages += 1;
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
        (ids.len(), pages)
    };
    let segment = |name: &str| ContactFilter { segment: Some(name.to_owned()), phone: None };
    assert_eq!(all(ContactFilter::default()).await, (25, 5));
    assert_eq!(all(segment("gold")).await, (10, 2));
    assert_eq!(all(segment("foreign")).await, (0, 1));
    let number =
        |segment: Option<&str>| ContactFilter { phone: Some(phone("7000000003")), segment: segment.map(str::to_owned) };
    assert_eq!(all(number(None)).await, (1, 1));
    assert_eq!(all(number(Some("gold"))).await, (1, 1));
    assert_eq!(all(number(Some("silver"))).await, (0, 1));

    let counts = |name: &str, contacts| SegmentCount { name: name.to_owned(), contacts };
    assert_eq!(list_segments(pool, tenant).await.unwrap(), [counts("gold", 10), counts("silver", 15)]);
    assert!(segment_exists(pool, tenant, "gold").await.unwrap());
    assert!(!segment_exists(pool, tenant, "foreign").await.unwrap());
    database.close().await;
}

#[tokio::test]
async fn a_segment_that_nobody_carries_any_more_is_gone() {
    let database = TestDatabase::create().await;
    let pool = &database.pool;
    let tenant = tenant(pool, "jeweller").await;
    upload(pool, tenant, "phone,segment\n9876543210,gold\n").await;
    log_grows(pool, tenant).await;
    upload(pool, tenant, "phone,segment\n9876543210,silver\n").await;
    assert!(!segment_exists(pool, tenant, "gold").await.unwrap());
    assert_eq!(list_segments(pool, tenant).await.unwrap().len(), 1);
    let filter = ContactFilter { segment: Some("gold".to_owned()), phone: None };
    assert_eq!(list_contacts(pool, tenant, &filter, None, 10).await.unwrap().items, []);
    database.close().await;
}

#[tokio::test]
async fn a_contact_is_ensured_once_and_an_upload_finds_it() {
    let database = TestDatabase::create().await;
    let pool = &database.pool;
    let tenant = tenant(pool, "jeweller").await;
    let number = phone("9876543210");
    let ensure = || async { ensure_contact(pool, tenant, &number, at(5)).await.unwrap() };
    let (a, b, c) = tokio::join!(ensure(), ensure(), ensure());
    assert_eq!((a, b), (b, c));
    assert_eq!(ensure().await, a);
    let run = log_grows(pool, tenant).await;
    let member = audience_member(pool, tenant, a, run).await.unwrap().unwrap();
    assert_eq!((member.phone.as_str(), member.attributes), ("+919876543210", map([])));

    assert_eq!(counts(&upload(pool, tenant, "phone,name\n9876543210,Asha\n").await), [0, 1, 0, 0, 0]);
    assert_eq!(find_by_phone(pool, tenant, &number).await.unwrap().unwrap().id, a);
    database.close().await;
}

#[tokio::test]
async fn tenants_share_a_number_and_nothing_of_it() {
    let database = TestDatabase::create().await;
    let pool = &database.pool;
    let (tenant, stranger) = (tenant(pool, "jeweller").await, tenant(pool, "stranger").await);
    upload(pool, tenant, "phone,name,segment\n9876543210,Asha,gold\n").await;
    let foreign = upload(pool, stranger, "phone,city,segment\n9876543210,Pune,gold\n").await;
    assert_eq!(counts(&foreign), [1, 0, 0, 0, 0]);
    let run = log_grows(pool, tenant).await;
    assert_eq!(members(pool, tenant, "gold", run).await.len(), 1);
    assert_eq!(known(pool, tenant, "9876543210").await.0, map([("name", "Asha")]));
    let id = find_by_phone(pool, stranger, &phone("9876543210")).await.unwrap().unwrap().id;
    assert_eq!(audience_member(pool, tenant, id, run).await.unwrap(), None);
    database.close().await;
}
