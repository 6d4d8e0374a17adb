use axum::Json;
use axum::extract::State;
use infrastructure::templates::{AccountReport, SyncError};
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::auth::Caller;
use crate::http::body::NoFields;
use crate::http::problem::{Answer, Problem, ProblemKind};
use crate::http::state::ApiState;

/// What reading the templates of each account did.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct TemplateSyncAnswer {
    accounts: Vec<AccountDocument>,
}

/// What reading the templates of one account did.
#[derive(Serialize, ToSchema)]
#[schema(as = SyncedAccount)]
pub(in crate::http) struct AccountDocument {
    waba_id: String,
    /// Templates that the account has.
    found: usize,
    added: usize,
    changed: usize,
    /// Templates that the account no longer has.
    deleted: usize,
    /// Templates whose name and language another account has already; they are left alone.
    elsewhere: usize,
    /// Entries that could not be understood; while there are any, none counts as deleted.
    unreadable: usize,
    /// Why the account could not be read; nothing was changed then.
    error: Option<String>,
}

/// Reads the templates of all accounts of the tenant from Meta now. The engine does so by itself from time to time.
#[utoipa::path(
    post,
    path = "/v1/templates/sync",
    tag = "templates",
    operation_id = "sync_templates",
    responses((status = 200, body = TemplateSyncAnswer))
)]
pub(in crate::http) async fn sync(
    State(state): State<ApiState>,
    caller: Caller,
    _: NoFields,
) -> Answer<Json<TemplateSyncAnswer>> {
    let reports = state.templates.sync_tenant(caller.tenant.id).await?;
    if reports.is_empty() {
        return Err(Problem::conflict(
            "There is no sender whose account could be read. Add one with ektola sender add.",
        ));
    }
    if reports.iter().all(|(_, report)| report.is_err()) {
        return Err(all_failed(&reports));
    }
    let accounts = reports.into_iter().map(|(waba_id, report)| document(waba_id, report)).collect();
    Ok(Json(TemplateSyncAnswer { accounts }))
}

fn all_failed(reports: &[(String, Result<AccountReport, SyncError>)]) -> Problem {
    let errors = reports.iter().filter_map(|(waba_id, report)| Some((waba_id, report.as_ref().err()?)));
    let reasons: Vec<String> = errors.clone().map(|(waba_id, error)| format!("{waba_id}: {error}")).collect();
    let temporary = errors.map(|(_, error)| error).any(SyncError::is_temporary);
    let kind = if temporary { ProblemKind::Unavailable } else { ProblemKind::Conflict };
    Problem::new(kind, format!("No account could be read. {}", reasons.join("; ")))
}

fn document(waba_id: String, report: Result<AccountReport, SyncError>) -> AccountDocument {
    let (report, error) = match report {
        Ok(report) => (report, None),
        Err(error) => (AccountReport::default(), Some(error.to_string())),
    };
    let AccountReport { found, added, changed, deleted, elsewhere, unreadable } = report;
    AccountDocument { waba_id, found, added, changed, deleted, elsewhere, unreadable, error }
}
