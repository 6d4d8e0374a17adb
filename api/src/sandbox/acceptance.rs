//! Whether a call that can be read is accepted, and what becomes of its message.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use axum::Json;
use axum::response::IntoResponse as _;
use chrono::{DateTime, SecondsFormat, Utc};
use tokio::sync::watch;

use super::behavior::Outcomes;
use super::calls::{Ending, Endpoint, Shared, Wait};
use super::controls::InForce;
use super::course::Course;
use super::faults::{Call, Effect, Stage};
use super::graph_error::GraphError;
use super::inbound::{Messages, Preference};
use super::ledger::LedgerLine;
use super::schedule::{OwedMessage, Way};
use super::settings::OverTier;
use super::templates::Template;
use super::wire::{Accepted, Send, other_wa_id, wamid};

/// The code of messages to users who have stopped marketing.
const STOPPED: u32 = 131_050;
/// The code of messages beyond the portfolio's limit.
const OVER_TIER: u32 = 131_048;

/// A call that may be accepted.
pub(super) struct Admitted {
    now: DateTime<Utc>,
    /// The code that its message fails with.
    failure: Option<u32>,
    /// The category that its message is priced by, if it is not utility.
    category: Option<String>,
    /// Whether the endpoint for marketing messages was called.
    marketing: bool,
}

impl Shared {
    /// Whether the call is within the limits and fits its template.
    pub(super) fn admit(
        &self,
        in_force: &InForce,
        endpoint: Endpoint,
        phone_number_id: &str,
        send: &Send<'_>,
        read_at: Instant,
    ) -> Result<Admitted, GraphError> {
        let (now, settings) = (self.clock.now(), &in_force.settings);
        let marketing = endpoint == Endpoint::MarketingMessages;
        self.limits.admit(&settings.limits, phone_number_id, &send.wa_id, read_at)?;
        let template = in_force.admit_template(send)?;
        let own_way = marketing && self.admit_marketing(in_force, send, template, read_at)?;
        if !marketing && settings.marketing.cloud_api_disabled && template.is_some_and(Template::is_marketing) {
            return Err(GraphError::of_code(131_063, None));
        }
        let in_tier = self.tier.admits(settings.tier.recipients_max, &send.wa_id, now);
        if !in_tier && settings.tier.over == OverTier::Refuse {
            return Err(GraphError::of_code(OVER_TIER, None));
        }
        let stopped = in_force.stopped(&send.wa_id) && template.is_none_or(Template::is_marketing);
        let failure = if stopped { Some(STOPPED) } else { (!in_tier).then_some(OVER_TIER) };
        let category = match template {
            _ if own_way => Some("marketing_lite".to_owned()),
            Some(template) => Some(template.category.to_ascii_lowercase()).filter(|category| category != "utility"),
            None => marketing.then(|| "marketing".to_owned()),
        };
        Ok(Admitted { now, failure, category, marketing })
    }

    /// Whether the message goes the way of marketing messages, and not that of all others.
    fn admit_marketing(
        &self,
        in_force: &InForce,
        send: &Send<'_>,
        template: Option<&Template>,
        at: Instant,
    ) -> Result<bool, GraphError> {
        let settings = &in_force.settings.marketing;
        if settings.refuse_callback_data && send.callback.is_some() {
            return Err(GraphError::invalid("Unexpected key biz_opaque_callback_data"));
        }
        if template.is_some_and(|template| !template.is_marketing()) || (!settings.onboarded && !send.fallback) {
            return Err(GraphError::of_code(134_100, None));
        }
        let sync = Duration::from_millis(settings.sync_ms);
        if settings.onboarded && !sync.is_zero() {
            let mut since = self.marketing_since.lock().unwrap_or_else(PoisonError::into_inner);
            let since = *since.entry(send.template.clone().into_owned()).or_insert(at);
            if at.saturating_duration_since(since) < sync {
                return Err(GraphError::of_code(134_101, None));
            }
        }
        Ok(settings.onboarded)
    }

    /// Writes the call down and has its message go its way.
    pub(super) fn accept(
        self: &Arc<Self>,
        in_force: &InForce,
        phone_number_id: &str,
        send: &Send<'_>,
        call: Call<'_>,
        admitted: &Admitted,
        latency: Duration,
    ) -> Ending {
        let id = wamid(&send.wa_id, &self.random_bytes(in_force, admitted.now));
        let (mut way, status) = self.way(in_force, call, admitted);
        let effect = in_force.faults.first(Stage::Answer, call);
        let wait = wait_of(effect, &mut way, self.outcomes, call);
        let line = LedgerLine {
            at: admitted.now.to_rfc3339_opts(SecondsFormat::Micros, true),
            read_at_ms: self.milliseconds_at(call.at),
            phone_number_id,
            wamid: &id,
            to: &send.to,
            callback: send.callback.as_deref(),
            template: &send.template,
            course: way.course(),
        };
        if let Err(error) = self.ledger.accept(&line, way.len()) {
            tracing::error!(%error, "cannot write the sandbox's ledger; the call is not accepted");
            return Ending::of(self.refuse(GraphError::unwritten()), latency);
        }
        let wa_id = way.course().and_then(|course| course.wa_id.as_deref()).unwrap_or(&send.wa_id);
        let status = Some(status).filter(|_| in_force.settings.answers.message_status);
        let shown = (!matches!(effect, Some(Effect::AnswerWithoutId {}))).then_some(&*id);
        let response = match effect {
            Some(Effect::ServerError { http_status, code, .. }) => self.server_error(*http_status, *code),
            _ => {
                Json(Accepted::new(send, wa_id, shown, status).answering_marketing(admitted.marketing)).into_response()
            }
        };
        let owed = OwedMessage::new(&id, phone_number_id, &send.wa_id, send.callback.as_deref(), way, 0);
        owed.into_iter().for_each(|owed| self.schedule.accepted(owed, tokio::time::Instant::now()));
        if let Some(reaction) = in_force.faults.first(Stage::Reaction, call) {
            self.react(reaction.clone(), phone_number_id.to_owned(), send.wa_id.clone(), id);
        }
        Ending { response, latency, wait }
    }

    /// Has the recipient of the message with the id `wamid` do something later.
    fn react(self: &Arc<Self>, reaction: Effect, number: String, recipient: String, context: String) {
        let api = Arc::clone(self);
        let reacting = async move {
            match reaction {
                Effect::Reply { text, delay_ms, button } => {
                    tokio::time::sleep(Duration::from_millis(delay_ms)).await;
                    let reply = Messages::reply(&number, &recipient, &text, button.as_deref(), context);
                    let now = api.clock.now();
                    let id = wamid(&recipient, &api.random_bytes(&api.controls.present(), now));
                    api.limits.inbound(&number, 1, Instant::now());
                    reply.bodies(&api.waba_id, now.timestamp(), &[id], 1).into_iter().for_each(|body| api.post(body));
                }
                Effect::StopMarketing { delay_ms } => {
                    tokio::time::sleep(Duration::from_millis(delay_ms)).await;
                    api.controls.prefers(&recipient, true);
                    let stop = Preference::stop(&number, &recipient);
                    api.post(stop.body(&api.waba_id, api.clock.now().timestamp()));
                }
                // Nothing else is done by recipients.
                _ => {}
            }
        };
        self.tasks.spawn(self.shutdown.clone().run_until_cancelled_owned(reacting));
    }

    /// What becomes of an accepted message, and the status that its answer names.
    fn way(&self, in_force: &InForce, call: Call<'_>, admitted: &Admitted) -> (Way, &'static str) {
        let (fate, mut status) = (self.outcomes.of(call.recipient), "accepted");
        let mut course = admitted.failure.map(Course::failed);
        if course.is_none()
            && let Some(effect) = in_force.faults.first(Stage::Outcome, call)
        {
            if let Effect::Hold { paused, .. } = effect {
                status = if *paused { "paused" } else { "held_for_quality_assessment" };
            }
            let foreign = || wamid(call.recipient, &self.random_bytes(in_force, admitted.now));
            course.insert(Course::of(fate)).take(effect, foreign);
        }
        for effect in in_force.faults.all(Stage::Delivery, call) {
            let course = course.get_or_insert_with(|| Course::of(fate));
            course.deliver(effect, call.draws, || other_wa_id(call.recipient));
        }
        if let Some(category) = &admitted.category {
            course.get_or_insert_with(|| Course::of(fate)).category = Some(category.clone());
        }
        (course.map_or(Way::Usual(fate), |course| Way::Other(Box::new(course))), status)
    }
}

/// What the answer waits for. Statuses that are waited for tell it through the message's course.
fn wait_of(effect: Option<&Effect>, way: &mut Way, outcomes: Outcomes, call: Call<'_>) -> Wait {
    match effect {
        Some(Effect::LoseAnswer { hang_ms }) => Wait::Cut(Duration::from_millis(*hang_ms)),
        Some(Effect::StatusBeforeAnswer { statuses, wait_ms_max }) => {
            let (sender, receiver) = watch::channel(0);
            let mut course = way.course().cloned().unwrap_or_else(|| Course::of(outcomes.of(call.recipient)));
            course.acknowledged = Some(sender);
            let statuses = (*statuses).min(course.steps.len());
            *way = Way::Other(Box::new(course));
            Wait::Statuses(receiver, statuses, Duration::from_millis(*wait_ms_max))
        }
        _ => Wait::Nothing,
    }
}
