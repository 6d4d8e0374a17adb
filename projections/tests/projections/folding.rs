//! What is folded, and what is read of it.

use std::collections::BTreeMap;

use domain::campaign::{CampaignCommand, CampaignStatus, SkippedBecause, Trigger};
use domain::campaign_run::{CampaignRunCommand, RunStatus, StallReason};
use domain::ids::{RunId, TenantId};
use domain::message::{Acceptance, MessageCommand, MessageStatus};
use jiff::civil::date;
use projections::runs::read::{Funnel, RunTrigger};
use projections::{campaigns, messages, runs, status};
use uuid::Uuid;

use crate::script::{DEADLINE, Engine, at, counts_by_log, last_position};
use crate::world::World;

fn named<const N: usize>(counts: [(&str, i64); N]) -> BTreeMap<String, i64> {
    counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
}

#[tokio::test]
async fn a_run_counts_every_message_once_and_follows_a_failed_one_that_was_delivered_after_all() {
    let world = World::create().await;
    world.settle().await;
    let row = world.run_row(world.run).await;
    assert_eq!(row.audience, 12);
    assert_eq!(row.counts.len(), MessageStatus::ALL.len());
    let present: BTreeMap<String, i64> = row
        .counts
        .iter()
        .filter(|(_, count)| **count != 0)
        .map(|(status, count)| (status.name().to_owned(), *count))
        .collect();
    let expected = [
        ("pending", 1),
        ("sent", 1),
        ("delivered", 2),
        ("read", 2),
        ("failed", 3),
        ("skipped", 1),
        ("unknown", 1),
        ("cancelled", 1),
    ];
    assert_eq!(present, named(expected));
    assert_eq!(present, counts_by_log(world.pool(), world.run).await);
    assert_eq!(row.funnel, Funnel { attempted: 9, sent: 6, delivered: 4, read: 2 });
    assert_eq!(row.skipped_by_reason, named([("opted_out", 1)]));
    assert_eq!(row.failed_by_code, named([("131026", 1), ("131053", 1), ("none", 1)]));

    assert_eq!((row.status, row.trigger), (RunStatus::Running, RunTrigger::Schedule));
    assert_eq!((row.campaign_name.as_deref(), row.target_segment.as_deref()), (Some("Diwali offers"), Some("vip")));
    assert_eq!((row.template_name.as_str(), row.language.as_str()), ("diwali_offer", "en"));
    assert_eq!(row.sender_phone_number_id.as_deref(), Some("number-of-shri"));
    assert_eq!((row.started_at, row.audience_resolved_at, row.ended_at), (at(1), Some(at(24)), None));
    assert_eq!(row.position, last_position(world.pool()).await);
    let json = serde_json::to_value(&row).unwrap();
    assert_eq!((&json["trigger"], &json["counts"]["expired"]), (&"schedule".into(), &0.into()));

    // The last failed message recovers in a batch of its own, long after its failure.
    let delivered = MessageCommand::MarkDelivered { at: at(90), pricing: None };
    let position = world.script.message(world.ways.failed, 90, delivered).await;
    world.settle().await;
    let row = world.run_row(world.run).await;
    assert_eq!(row.failed_by_code, named([("131053", 1), ("none", 1)]));
    assert_eq!((row.counts[&MessageStatus::Failed], row.position), (2, position));
    world.close().await;
}

#[tokio::test]
async fn a_run_shows_why_it_stands_still_and_when_it_ended() {
    let world = World::create().await;
    let script = &world.script;
    let stalled = CampaignRunCommand::Stall { reason: StallReason::SenderRefused { code: 190 } };
    script.run(world.run, 30, stalled).await;
    world.settle().await;
    let row = world.run_row(world.run).await;
    assert_eq!((row.status, row.stall_reason.as_deref()), (RunStatus::Stalled, Some("sender_refused")));

    script.run(world.run, 31, CampaignRunCommand::Resume).await;
    script.run(world.run, 32, CampaignRunCommand::Pause).await;
    let test_run = RunId::of_test(script.template, Uuid::from_u128(9), at(33));
    script.start_run(test_run, 33, Trigger::Test).await;
    let manual_run = RunId::of_trigger(script.campaign, "key");
    script.start_run(manual_run, 34, Trigger::Manual).await;
    world.settle().await;
    let open = runs::read::list_open(world.pool(), Some(script.tenant)).await.unwrap();
    let shown: Vec<_> = open.iter().map(|run| (run.id, run.status, run.trigger)).collect();
    let expected = [
        (world.run, RunStatus::Paused, RunTrigger::Schedule),
        (test_run, RunStatus::Running, RunTrigger::Test),
        (manual_run, RunStatus::Running, RunTrigger::Manual),
    ];
    assert_eq!(shown, expected);
    assert_eq!((open[0].stall_reason.as_deref(), open[1].target_segment.as_deref()), (None, None));

    script.run(world.run, 40, CampaignRunCommand::Cancel).await;
    world.settle().await;
    let row = world.run_row(world.run).await;
    assert_eq!((row.status, row.ended_at), (RunStatus::Cancelled, Some(at(40))));
    assert_eq!(runs::read::list_open(world.pool(), None).await.unwrap().len(), 2);

    let mut listed = Vec::new();
    let mut cursor = None;
    loop {
        let page = runs::read::list_of_campaign(world.pool(), script.tenant, script.campaign, cursor, 1).await.unwrap();
        let Some(last) = page.last() else { break };
        cursor = Some(last.id);
        listed.extend(page.into_iter().map(|run| run.id));
    }
    assert_eq!(listed, [world.run, manual_run], "in the order in which they started, whatever their ids");
    world.close().await;
}

#[tokio::test]
async fn a_message_tells_its_status_its_reason_and_its_story() {
    let world = World::create().await;
    world.settle().await;
    let ways = &world.ways;
    let shown = async |message| {
        let row = world.message_row(message).await.message;
        (row.status.name(), row.attempts, row.reason, row.error_code)
    };
    let reason = |text: &str| Some(text.to_owned());
    assert_eq!(shown(ways.read).await, ("read", 1, None, None));
    assert_eq!(shown(ways.reordered).await, ("failed", 1, reason("permanent"), Some(131_053)));
    assert_eq!(shown(ways.recovered).await, ("delivered", 1, None, None));
    assert_eq!(shown(ways.failed).await, ("failed", 1, reason("undeliverable"), Some(131_026)));
    assert_eq!(shown(ways.retried).await, ("sent", 2, None, None));
    assert_eq!(shown(ways.not_sent).await, ("failed", 1, reason("settled"), None));
    assert_eq!(shown(ways.cancelled).await, ("cancelled", 1, reason("run_paused"), None));
    assert_eq!(shown(ways.late_failure).await, ("read", 1, None, None));
    assert_eq!(shown(ways.settled_wrong).await, ("delivered", 1, None, None));
    assert_eq!(shown(ways.pending).await, ("pending", 0, None, None));
    assert_eq!(shown(ways.unknown).await, ("unknown", 1, reason("unknown"), None));
    assert_eq!(shown(ways.skipped).await, ("skipped", 0, reason("opted_out"), None));

    let read = world.message_row(ways.read).await;
    let times = (read.message.queued_at, read.message.sent_at, read.message.delivered_at, read.message.read_at);
    assert_eq!(times, (at(2), Some(at(5)), Some(at(6)), Some(at(7))));
    let recovered = world.message_row(ways.recovered).await;
    let events: Vec<&str> = recovered.timeline.iter().map(|entry| entry.event.as_str()).collect();
    assert_eq!(events, ["MessageQueued", "DispatchStarted", "MessageFailed", "MessageDelivered"]);
    let failure = &recovered.timeline[2];
    assert_eq!(failure.at, at(8));
    assert_eq!(failure.text, "failed: refused by WhatsApp with code 131026 (undeliverable) at 2026-12-01T04:30:08Z");
    assert_eq!(recovered.timeline[3].position, recovered.message.position);
    let json = serde_json::to_value(&recovered).unwrap();
    assert_eq!((&json["status"], &json["timeline"][0]["event"]), (&"delivered".into(), &"MessageQueued".into()));
    world.close().await;
}

#[tokio::test]
async fn messages_are_listed_in_pages_by_status_and_forget_an_erased_phone() {
    let world = World::create().await;
    world.settle().await;
    let (pool, tenant) = (world.pool(), world.script.tenant);
    let list = async |status, cursor, limit| {
        messages::read::list_of_run(pool, tenant, world.run, status, cursor, limit).await.unwrap()
    };
    let all = list(None, None, 1000).await;
    assert_eq!(all.len(), 12);
    let first = list(None, None, 5).await;
    let rest = list(None, Some(first[4].id), 1000).await;
    assert_eq!([first, rest].concat(), all);
    let failed: Vec<_> = list(Some(MessageStatus::Failed), None, 10).await.into_iter().map(|row| row.id).collect();
    let mut expected = [world.ways.reordered, world.ways.failed, world.ways.not_sent];
    expected.sort();
    assert_eq!(failed, expected);

    let skipped = world.message_row(world.ways.skipped).await.message;
    assert_eq!(skipped.phone.as_deref(), Some("+919876500011"));
    let read = world.message_row(world.ways.read).await.message;
    assert_eq!(read.phone.as_deref(), Some("+919876500000"));
    assert_eq!(
        (read.template_name.as_deref(), read.sender_phone_number_id.as_deref()),
        (Some("diwali_offer"), Some("number-of-shri"))
    );
    for contact in [skipped.contact_id, read.contact_id] {
        sqlx::query!("DELETE FROM message_recipients WHERE contact_id = $1", contact.0).execute(pool).await.unwrap();
        sqlx::query!("DELETE FROM contacts WHERE id = $1", contact.0).execute(pool).await.unwrap();
    }
    for message in [world.ways.skipped, world.ways.read] {
        assert_eq!(world.message_row(message).await.message.phone, None);
    }
    world.close().await;
}

#[tokio::test]
async fn a_campaign_shows_its_definition_its_state_and_its_next_runs() {
    let world = World::create().await;
    let script = &world.script;
    let (local, nominal_at) = (date(2026, 12, 2).at(10, 0, 0, 0), at(86_400));
    let because = SkippedBecause::Missed;
    script.campaign(86_401, CampaignCommand::SkipOccurrence { revision: 2, local, nominal_at, because }).await;
    world.settle().await;
    let find = async |now| {
        campaigns::read::find(world.pool(), script.tenant, script.campaign, now).await.unwrap().expect("the campaign")
    };
    let row = find(at(86_402)).await;
    assert_eq!(
        (row.name.as_str(), row.status, row.revision, row.runs),
        ("Diwali offers", CampaignStatus::Active, 2, 1)
    );
    assert_eq!(row.last_occurrence.as_deref(), Some("2026-12-02T10:00:00"));
    assert_eq!(
        (row.start_date.as_str(), row.end_date.as_deref(), row.zone.as_str()),
        ("2026-12-01T10:00:00", None, "Asia/Kolkata")
    );
    assert_eq!((row.template_name.as_deref(), row.language.as_deref()), (Some("diwali_offer"), Some("en")));
    assert_eq!((row.sender_id, row.sender_phone_number_id.as_deref()), (Some(script.sender), Some("number-of-shri")));
    assert_eq!((row.created_at, row.activated_at, row.ended_at), (at(-10), Some(at(-8)), None));
    assert_eq!(row.position, last_position(world.pool()).await);
    assert_eq!((row.next_runs.len(), row.next_run_at), (5, Some(at(2 * 86_400))));
    assert_eq!(row.next_runs[4].local, "2026-12-07T10:00:00");
    let json = serde_json::to_value(&row).unwrap();
    assert_eq!((&json["recurrence_type"], &json["campaign_type"]), (&"daily".into(), &"marketing".into()));
    assert_eq!(json["parameters"]["1"]["fallback"], "Customer");

    script.campaign(86_410, CampaignCommand::Pause).await;
    world.settle().await;
    assert_eq!(find(at(86_411)).await.status, CampaignStatus::Paused);
    script.campaign(86_420, CampaignCommand::Cancel).await;
    world.settle().await;
    let row = find(at(86_421)).await;
    assert_eq!((row.status, row.ended_at, row.next_run_at), (CampaignStatus::Cancelled, Some(at(86_420)), None));

    let list =
        async |cursor| campaigns::read::list(world.pool(), script.tenant, cursor, 10, at(0)).await.unwrap().len();
    assert_eq!((list(None).await, list(Some(script.campaign)).await), (1, 0));
    world.close().await;
}

#[tokio::test]
async fn another_tenant_sees_nothing() {
    let world = World::create().await;
    world.settle().await;
    let (pool, stranger, script) = (world.pool(), TenantId(Uuid::new_v4()), &world.script);
    assert!(campaigns::read::find(pool, stranger, script.campaign, at(0)).await.unwrap().is_none());
    assert!(campaigns::read::list(pool, stranger, None, 10, at(0)).await.unwrap().is_empty());
    assert!(runs::read::find(pool, stranger, world.run).await.unwrap().is_none());
    assert!(runs::read::list_of_campaign(pool, stranger, script.campaign, None, 10).await.unwrap().is_empty());
    assert!(runs::read::list_open(pool, Some(stranger)).await.unwrap().is_empty());
    assert!(messages::read::find(pool, stranger, world.ways.read).await.unwrap().is_none());
    assert!(messages::read::list_of_run(pool, stranger, world.run, None, None, 10).await.unwrap().is_empty());
    let overview = status::read::overview(pool, Some(stranger)).await.unwrap();
    assert_eq!((overview.active_campaigns, overview.runs.len()), (0, 0));
    assert!(overview.open_messages.values().all(|count| *count == 0));
    world.close().await;
}

#[tokio::test]
async fn the_overview_adds_up_and_shows_how_far_each_subscription_has_come() {
    let world = World::create().await;
    world.settle().await;
    for (message, due) in
        [(world.ways.pending, None), (world.ways.retried, Some(at(40))), (world.ways.read, Some(at(50)))]
    {
        sqlx::query!(
            "INSERT INTO ready_list (message_id, attempt, tenant_id, run_id, contact_id, position, due_at)
             VALUES ($1, 1, $2, $3, $4, 1, $5)",
            message.0,
            world.script.tenant.0,
            world.run.0,
            world.script.sender.0,
            due,
        )
        .execute(world.pool())
        .await
        .unwrap();
    }
    for tenant in [None, Some(world.script.tenant)] {
        let overview = status::read::overview(world.pool(), tenant).await.unwrap();
        assert_eq!((overview.active_campaigns, overview.runs), (1, named([("running", 1)])));
        let open: Vec<i64> = overview.open_messages.into_values().collect();
        assert_eq!(open, [1, 0, 1]);
        assert_eq!((overview.ready, overview.later, overview.next_due_at, overview.parked), (1, 2, Some(at(40)), 0));
        assert_eq!(overview.log_position, last_position(world.pool()).await);
        let names: Vec<&str> = overview.subscriptions.iter().map(|subscription| subscription.name.as_str()).collect();
        let expected =
            ["activity", "billing", "campaigns", "messages", "runs"].map(|name| format!("projection:{name}"));
        assert_eq!(names, expected);
        for subscription in overview.subscriptions {
            assert_eq!(subscription.lag, overview.log_position - subscription.position);
        }
    }
    world.close().await;
}

#[tokio::test]
async fn two_engines_on_one_log_count_everything_once() {
    let world = World::create().await;
    let second = Engine::start(world.pool(), 7).await;
    let other_run = RunId::of_trigger(world.script.campaign, "other");
    world.script.start_run(other_run, 50, Trigger::Manual).await;
    for number in 0..60 {
        let message = world.script.queue(other_run, &format!("+9198766{number:05}"), 51).await;
        world.script.begin_attempt(message, 52, 1).await;
        let sent = MessageCommand::MarkSent { attempt: Some(1), acceptance: Acceptance::Accepted, at: at(53) };
        world.script.message(message, 53, sent).await;
    }
    world.settle().await;
    assert!(second.progress.wait_for(last_position(world.pool()).await, DEADLINE).await);
    let row = world.run_row(other_run).await;
    assert_eq!((row.audience, row.counts[&MessageStatus::Sent], row.funnel.sent), (60, 60, 60));
    assert_eq!(world.run_row(world.run).await.audience, 12);
    second.stop().await;
    world.close().await;
}
