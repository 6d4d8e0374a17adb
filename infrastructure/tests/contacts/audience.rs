//! Who is in the audience of a run: as of its position, page by page.

use super::*;

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
