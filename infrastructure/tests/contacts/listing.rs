//! What can be asked of contacts and segments.

use super::*;

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
