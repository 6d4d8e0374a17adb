//! Files of contacts: what is stored of them, what is rejected, and two at once.

use super::*;

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
