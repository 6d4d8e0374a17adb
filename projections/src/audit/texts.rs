//! What an event means, in a few words for people.

use chrono::{DateTime, SecondsFormat, Utc};
use domain::campaign::{CampaignEvent, SkippedBecause, Trigger};
use domain::campaign_run::{Audience, CampaignRunEvent};
use domain::consent::{ConsentEvent, ConsentSource};
use domain::event::Event;

use crate::messages::timeline;

pub fn text_of(event: &Event) -> String {
    match event {
        Event::Message(event) => timeline::text_of(event),
        Event::Campaign(event) => of_campaign(event),
        Event::CampaignRun(event) => of_run(event),
        Event::Consent(event) => of_consent(event),
    }
}

fn of_campaign(event: &CampaignEvent) -> String {
    match event {
        CampaignEvent::Created { definition, .. } => {
            format!("created as {:?} for the segment {:?}", definition.name, definition.segment)
        }
        CampaignEvent::Revised { revision, .. } => format!("revised: revision {revision}"),
        CampaignEvent::Activated { .. } => "activated".to_owned(),
        CampaignEvent::Paused { .. } => "paused".to_owned(),
        CampaignEvent::Resumed { .. } => "resumed".to_owned(),
        CampaignEvent::Cancelled { .. } => "cancelled".to_owned(),
        CampaignEvent::RunTriggered { trigger, nominal_at, .. } => match trigger {
            Trigger::Schedule { local, .. } => format!("run of the occurrence {local} triggered by the schedule"),
            Trigger::Manual => format!("run triggered by a person at {}", shown(*nominal_at)),
            Trigger::Test => "test message triggered".to_owned(),
        },
        CampaignEvent::OccurrenceSkipped { local, because, .. } => {
            let why = match because {
                SkippedBecause::Missed => "the engine was not running and a later one was due",
                SkippedBecause::Paused => "the campaign was paused",
            };
            format!("occurrence {local} skipped: {why}")
        }
        CampaignEvent::Completed { .. } => "completed: no further occurrence and every run has ended".to_owned(),
    }
}

fn of_run(event: &CampaignRunEvent) -> String {
    match event {
        CampaignRunEvent::Started { definition, .. } => match &definition.audience {
            Audience::Segment { name } => format!(
                "run started with the template {:?} ({}) for the segment {name:?}",
                definition.template.name, definition.template.language
            ),
            Audience::Contact { .. } => format!("test of the template {:?} started", definition.template.name),
        },
        CampaignRunEvent::AudienceResolved { queued, skipped } => {
            format!("audience resolved: {queued} queued, {skipped} skipped")
        }
        CampaignRunEvent::Paused { .. } => "run paused".to_owned(),
        CampaignRunEvent::Resumed { .. } => "run resumed".to_owned(),
        CampaignRunEvent::Cancelled { .. } => "run cancelled".to_owned(),
        CampaignRunEvent::Expired { .. } => "run expired".to_owned(),
        CampaignRunEvent::Stalled { reason } => format!("run stalled ({})", reason.name()),
        CampaignRunEvent::Completed { .. } => "run completed".to_owned(),
    }
}

fn of_consent(event: &ConsentEvent) -> String {
    let by = |source: &ConsentSource| match source {
        ConsentSource::Upload => "an upload",
        ConsentSource::Keyword => "the contact, by a keyword",
        ConsentSource::UserPreferences => "the contact, in WhatsApp's preferences",
        ConsentSource::ProviderRefusal => "WhatsApp, which refused a message because the contact stopped offers",
        ConsentSource::Api => "the tenant's system",
        ConsentSource::Operator => "a person at the tenant",
    };
    match event {
        ConsentEvent::OptedIn { source, .. } => format!("agreed to messages, said by {}", by(source)),
        ConsentEvent::OptedOut { source, .. } => format!("wants no messages, said by {}", by(source)),
        ConsentEvent::MarketingStopped { source, .. } => format!("wants no offers, said by {}", by(source)),
        ConsentEvent::MarketingResumed { source, .. } => format!("wants offers again, said by {}", by(source)),
        ConsentEvent::Erased { .. } => "the contact's personal data were erased".to_owned(),
    }
}

fn shown(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}
