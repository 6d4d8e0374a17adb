//! What happened per day: of a tenant, of a number, and what WhatsApp says of the price.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use chrono::{DateTime, Days, NaiveDate, Utc};
use domain::ids::{CampaignId, SenderId};
use infrastructure::senders;
use jiff::civil;
use jiff::tz::TimeZoneDatabase;
use projections::activity::read::{self as activity, DayRow, Span};
use projections::billing::read::{self as billing, BillingRow};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::auth::Caller;
use super::fields::Faults;
use super::pages::Parameters;
use super::path::{IdPath, parse_id};
use super::problem::{Answer, Problem};
use super::state::ApiState;

const DAYS_DEFAULT: u64 = 30;
const DAYS_MAX: i64 = 400;

/// Days of the tenant's zone.
#[derive(Serialize, ToSchema)]
pub(super) struct TotalsDocument {
    zone: String,
    from: NaiveDate,
    /// Included.
    to: NaiveDate,
    items: Vec<DayDocument>,
}

/// One day; a day on which nothing happened is not listed.
#[derive(Serialize, ToSchema)]
#[schema(as = DayTotals)]
pub(super) struct DayDocument {
    day: NaiveDate,
    /// `utility` or `marketing`; null for test messages.
    campaign_type: Option<String>,
    /// `queued`, `skipped`, `attempted`, `released`, `sent`, `delivered`, `read`, `failed`, `deferred`, `unknown`,
    /// `unconfirmed`, `expired`, `cancelled`: what happened on the day. What did not is not listed.
    counts: BTreeMap<String, i64>,
}

/// Days of the tenant's zone.
#[derive(Serialize, ToSchema)]
pub(super) struct BillingDocument {
    zone: String,
    from: NaiveDate,
    /// Included.
    to: NaiveDate,
    items: Vec<BillingDayDocument>,
}

/// Messages of one campaign, day and price category.
#[derive(Serialize, ToSchema)]
#[schema(as = BillingDay)]
pub(super) struct BillingDayDocument {
    day: NaiveDate,
    /// Null for test messages.
    campaign_id: Option<Uuid>,
    campaign_name: Option<String>,
    /// WhatsApp's word, such as `utility` or `marketing`; null where it gave none.
    category: Option<String>,
    /// WhatsApp's word, such as `regular` or `free_customer_service`.
    pricing_type: Option<String>,
    /// Null where WhatsApp did not say.
    billable: Option<bool>,
    messages: i64,
}

impl From<DayRow> for DayDocument {
    fn from(row: DayRow) -> Self {
        Self { day: row.day, campaign_type: row.campaign_type, counts: row.counts }
    }
}

impl From<BillingRow> for BillingDayDocument {
    fn from(row: BillingRow) -> Self {
        Self {
            day: row.day,
            campaign_id: row.campaign_id,
            campaign_name: row.campaign_name,
            category: row.category,
            pricing_type: row.pricing_type,
            billable: row.billable,
            messages: row.messages,
        }
    }
}

/// Days of a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DaySpan {
    pub(crate) from: NaiveDate,
    /// Included.
    pub(crate) to: NaiveDate,
}

impl DaySpan {
    /// The last 30 days if nothing is said.
    pub(crate) fn of(
        from: Option<&str>,
        to: Option<&str>,
        zone: &str,
        now: DateTime<Utc>,
    ) -> Result<Self, (&'static str, String)> {
        let day = |name, text: Option<&str>| {
            let parsed = text.map(|text| text.parse::<NaiveDate>());
            parsed.transpose().map_err(|_| (name, "must be a day such as 2026-12-01".to_owned()))
        };
        let to = day("to", to)?.unwrap_or_else(|| local_day(now, zone));
        let from = day("from", from)?.unwrap_or_else(|| to.checked_sub_days(Days::new(DAYS_DEFAULT - 1)).unwrap_or(to));
        if from > to {
            return Err(("from", "must not lie behind to".to_owned()));
        }
        if (to - from).num_days() >= DAYS_MAX {
            return Err(("from", format!("must lie at most {DAYS_MAX} days before to")));
        }
        Ok(Self { from, to })
    }

    pub(crate) fn instants(self, zone: &str) -> Span {
        let next = self.to.checked_add_days(Days::new(1)).unwrap_or(self.to);
        Span { from: midnight(self.from, zone), until: midnight(next, zone) }
    }
}

fn local_day(now: DateTime<Utc>, zone: &str) -> NaiveDate {
    let local = TimeZoneDatabase::bundled().get(zone).ok().and_then(|zone| {
        let date = jiff::Timestamp::new(now.timestamp(), 0).ok()?.to_zoned(zone).date();
        NaiveDate::from_ymd_opt(
            date.year().into(),
            date.month().unsigned_abs().into(),
            date.day().unsigned_abs().into(),
        )
    });
    local.unwrap_or_else(|| now.date_naive())
}

fn midnight(day: NaiveDate, zone: &str) -> DateTime<Utc> {
    let instant = || {
        let zone = TimeZoneDatabase::bundled().get(zone).ok()?;
        let zoned = day.to_string().parse::<civil::Date>().ok()?.to_zoned(zone).ok()?;
        DateTime::from_timestamp(zoned.timestamp().as_second(), 0)
    };
    instant().unwrap_or_else(|| day.and_time(chrono::NaiveTime::MIN).and_utc())
}

fn span(parameters: &mut Parameters, state: &ApiState, caller: &Caller, faults: &mut Faults) -> Option<DaySpan> {
    let (from, to) = (parameters.take("from"), parameters.take("to"));
    match DaySpan::of(from.as_deref(), to.as_deref(), &caller.tenant.zone, state.clock.now()) {
        Ok(span) => Some(span),
        Err((field, reason)) => {
            faults.push(field, reason);
            None
        }
    }
}

/// What happened on each day.
#[utoipa::path(
    get,
    path = "/v1/totals",
    tag = "totals",
    operation_id = "daily_totals",
    params(
        ("from" = Option<NaiveDate>, Query, description = "A day of the tenant's zone; 30 days back by default"),
        ("to" = Option<NaiveDate>, Query, description = "Included; today by default"),
    ),
    responses((status = 200, body = TotalsDocument))
)]
pub(super) async fn daily(State(state): State<ApiState>, caller: Caller, uri: Uri) -> Answer<Json<TotalsDocument>> {
    of_sender(&state, &caller, &uri, None).await
}

/// What went from a number on each day.
#[utoipa::path(
    get,
    path = "/v1/senders/{id}/usage",
    tag = "senders",
    operation_id = "sender_usage",
    params(
        ("id" = Uuid, Path),
        ("from" = Option<NaiveDate>, Query, description = "A day of the tenant's zone; 30 days back by default"),
        ("to" = Option<NaiveDate>, Query, description = "Included; today by default"),
    ),
    responses((status = 200, body = TotalsDocument))
)]
pub(super) async fn usage(
    State(state): State<ApiState>,
    caller: Caller,
    IdPath(id): IdPath,
    uri: Uri,
) -> Answer<Json<TotalsDocument>> {
    let sender = senders::find_sender(&state.pool, caller.tenant.id, SenderId(id)).await?;
    let sender = sender.ok_or_else(|| Problem::not_found("sender"))?;
    of_sender(&state, &caller, &uri, Some(sender.id)).await
}

async fn of_sender(
    state: &ApiState,
    caller: &Caller,
    uri: &Uri,
    sender: Option<SenderId>,
) -> Answer<Json<TotalsDocument>> {
    let mut faults = Faults::default();
    let mut parameters = Parameters::of(uri, &["from", "to"], &mut faults);
    let span = span(&mut parameters, state, caller, &mut faults);
    faults.check()?;
    let span = span.ok_or_else(Problem::internal)?;
    let zone = &caller.tenant.zone;
    let found = activity::days(&state.pool, caller.tenant.id, zone, sender, span.instants(zone)).await?;
    let items = found.into_iter().map(DayDocument::from).collect();
    Ok(Json(TotalsDocument { zone: zone.clone(), from: span.from, to: span.to, items }))
}

/// Messages per day and campaign, by what WhatsApp says of their price. Each counts once, on the day on which WhatsApp
/// first spoke of it.
#[utoipa::path(
    get,
    path = "/v1/billing",
    tag = "totals",
    operation_id = "billing",
    params(
        ("from" = Option<NaiveDate>, Query, description = "A day of the tenant's zone; 30 days back by default"),
        ("to" = Option<NaiveDate>, Query, description = "Included; today by default"),
        ("campaign" = Option<Uuid>, Query),
    ),
    responses((status = 200, body = BillingDocument))
)]
pub(super) async fn billing(State(state): State<ApiState>, caller: Caller, uri: Uri) -> Answer<Json<BillingDocument>> {
    let mut faults = Faults::default();
    let mut parameters = Parameters::of(&uri, &["from", "to", "campaign"], &mut faults);
    let span = span(&mut parameters, &state, &caller, &mut faults);
    let campaign = parameters.take("campaign").and_then(|text| {
        let id = parse_id(&text);
        if id.is_none() {
            faults.push("campaign", "is not an id");
        }
        id.map(CampaignId)
    });
    faults.check()?;
    let span = span.ok_or_else(Problem::internal)?;
    let zone = &caller.tenant.zone;
    let found = billing::days(&state.pool, caller.tenant.id, zone, campaign, span.instants(zone)).await?;
    let items = found.into_iter().map(BillingDayDocument::from).collect();
    Ok(Json(BillingDocument { zone: zone.clone(), from: span.from, to: span.to, items }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_zone() {
        let now = "2026-12-01T20:00:00Z".parse().unwrap();
        let span = DaySpan::of(None, None, "Asia/Kolkata", now).unwrap();
        assert_eq!((span.from.to_string().as_str(), span.to.to_string().as_str()), ("2026-11-03", "2026-12-02"));
        let instants = DaySpan::of(Some("2026-12-02"), Some("2026-12-02"), "Asia/Kolkata", now).unwrap();
        let instants = instants.instants("Asia/Kolkata");
        assert_eq!(instants.from.to_rfc3339(), "2026-12-01T18:30:00+00:00");
        assert_eq!(instants.until.to_rfc3339(), "2026-12-02T18:30:00+00:00");
    }

    #[test]
    fn spans_that_make_no_sense_are_refused() {
        let of = |from, to| DaySpan::of(from, to, "UTC", DateTime::UNIX_EPOCH).unwrap_err().0;
        assert_eq!(of(Some("2026-12-02"), Some("2026-12-01")), "from");
        assert_eq!(of(Some("2020-12-02"), Some("2026-12-01")), "from");
        assert_eq!(of(Some("yesterday"), None), "from");
        assert_eq!(of(None, Some("1.12.2026")), "to");
    }
}
