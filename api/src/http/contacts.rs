use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use chrono::{DateTime, Utc};
use domain::ids::ContactId;
use domain::phone;
use infrastructure::contacts::{self, Contact, ContactFilter};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::auth::Caller;
use super::fields::Faults;
use super::pages::{Page, PageRequest, Parameters};
use super::problem::Answer;
use super::state::ApiState;

/// Somebody to whom the tenant may write.
#[derive(Serialize, ToSchema)]
pub(super) struct ContactDocument {
    id: Uuid,
    /// E.164 with the leading `+`.
    phone: String,
    /// The other columns of the uploads.
    attributes: BTreeMap<String, String>,
    segments: Vec<String>,
    created_at: DateTime<Utc>,
}

impl From<Contact> for ContactDocument {
    fn from(contact: Contact) -> Self {
        let Contact { id, phone, attributes, segments, created_at } = contact;
        Self { id: id.0, phone, attributes, segments, created_at }
    }
}

/// Lists the contacts, all or those of a segment or with a number.
#[utoipa::path(
    get,
    path = "/v1/contacts",
    tag = "contacts",
    operation_id = "list_contacts",
    params(
        ("segment" = Option<String>, Query, description = "Only contacts that carry this segment"),
        ("phone" = Option<String>, Query, description = "Only the contact with this number, in any form that an upload takes"),
        ("cursor" = Option<String>, Query),
        ("limit" = Option<u32>, Query),
    ),
    responses((status = 200, body = Page<ContactDocument>))
)]
pub(super) async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    uri: Uri,
) -> Answer<Json<Page<ContactDocument>>> {
    let mut faults = Faults::default();
    let mut parameters = Parameters::of(&uri, &["segment", "phone", "cursor", "limit"], &mut faults);
    let page = PageRequest::by_id(&mut parameters, &state.config.http, &mut faults);
    let phone = parameters
        .take("phone")
        .and_then(|text| phone::normalize(&with_its_plus(&text)).map_err(|error| faults.push("phone", error)).ok());
    let filter = ContactFilter { segment: parameters.take("segment"), phone };
    faults.check()?;
    let cursor = page.cursor.map(ContactId);
    let found = contacts::list_contacts(&state.pool, caller.tenant.id, &filter, cursor, page.limit).await?;
    Ok(Json(Page {
        items: found.items.into_iter().map(ContactDocument::from).collect(),
        next_cursor: found.next_cursor.map(|cursor| cursor.to_string()),
    }))
}

/// In a query a plus means a space, which people forget when they write a number.
fn with_its_plus(text: &str) -> String {
    text.strip_prefix(' ').map_or_else(|| text.to_owned(), |digits| format!("+{digits}"))
}

/// A segment and how many contacts carry it.
#[derive(Serialize, ToSchema)]
pub(super) struct SegmentDocument {
    name: String,
    contacts: i64,
}

/// Lists the segments that contacts carry, by name.
#[utoipa::path(
    get,
    path = "/v1/segments",
    tag = "contacts",
    operation_id = "list_segments",
    params(("cursor" = Option<String>, Query), ("limit" = Option<u32>, Query)),
    responses((status = 200, body = Page<SegmentDocument>))
)]
pub(super) async fn segments(
    State(state): State<ApiState>,
    caller: Caller,
    uri: Uri,
) -> Answer<Json<Page<SegmentDocument>>> {
    let page = PageRequest::only_by_name(&uri, &state.config.http)?;
    let mut found = contacts::list_segments(&state.pool, caller.tenant.id).await?;
    // In an order of our own: that of the database follows its collation, in which a cursor cannot be compared here.
    found.sort_by(|one, other| one.name.cmp(&other.name));
    if let Some(cursor) = &page.cursor {
        found.retain(|segment| segment.name > *cursor);
    }
    Ok(Json(Page::of(
        found,
        page.limit,
        |segment| segment.name.clone(),
        |segment| SegmentDocument { name: segment.name, contacts: segment.contacts },
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_in_a_query_keeps_its_plus() {
        assert_eq!(with_its_plus(" 14155550100"), "+14155550100");
        assert_eq!(with_its_plus("+14155550100"), "+14155550100");
        assert_eq!(with_its_plus("9812345621"), "9812345621");
    }
}
