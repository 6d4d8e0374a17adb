//! What is asked about numbers and templates: the fields of a number, the list of templates in pages, one template,
//! and taking a pause back.

use std::collections::HashMap;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::http::header::HOST;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use super::calls::Shared;
use super::controls::InForce;
use super::graph_error::GraphError;
use super::server::Api;
use super::settings::NumberSettings;
use super::template_status::Change;
use super::templates::Template;

const LIMIT_DEFAULT: usize = 25;
const LIMIT_MAX: usize = 1_000;
/// What a template shows when nobody asks for anything.
const TEMPLATE_FIELDS: &str = "name,parameter_format,components,language,status,category,id";
const NUMBER_FIELDS: &str = "id,display_phone_number,verified_name,code_verification_status,quality_rating,\
                             platform_type,throughput";

type Parameters = Query<HashMap<String, String>>;

/// A number or a template, by its id.
pub(super) async fn show(
    State(Api(api)): State<Api>,
    Path((version, id)): Path<(String, String)>,
    Query(query): Parameters,
    headers: HeaderMap,
) -> Response {
    let shown = api.object(&version, &id, &query, &headers);
    shown.map_or_else(|error| api.refuse(error), |shown| Json(shown).into_response())
}

/// The templates of an account, page by page.
pub(super) async fn list_templates(
    State(Api(api)): State<Api>,
    Path((version, waba_id)): Path<(String, String)>,
    Query(query): Parameters,
    headers: HeaderMap,
) -> Response {
    let in_force = api.controls.present();
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    let address = format!("http://{host}/{version}/{waba_id}/message_templates");
    let page = api.check_token(&in_force, &version, &headers).and_then(|()| page(&in_force, &address, &query));
    page.map_or_else(|error| api.refuse(error), |page| Json(page).into_response())
}

/// Takes the pause of a template back.
pub(super) async fn unpause(
    State(Api(api)): State<Api>,
    Path((version, id)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let in_force = api.controls.present();
    if let Err(error) = api.check_token(&in_force, &version, &headers) {
        return api.refuse(error);
    }
    let Some(template) = find(&in_force, &id) else { return api.refuse(GraphError::unknown_object()) };
    if in_force.template_status(template) != "PAUSED" {
        return api.refuse(GraphError::invalid("The template is not paused."));
    }
    let change = Change::new(template, "APPROVED");
    api.controls.set_template_status(&change.name, "APPROVED");
    api.post(change.webhook(&api.waba_id, api.clock.now().timestamp()));
    Json(json!({"success": true})).into_response()
}

impl Shared {
    fn object(
        &self,
        version: &str,
        id: &str,
        query: &HashMap<String, String>,
        headers: &HeaderMap,
    ) -> Result<Value, GraphError> {
        let in_force = self.controls.present();
        self.check_token(&in_force, version, headers)?;
        let fields = query.get("fields").map(String::as_str);
        if let Some(template) = find(&in_force, id) {
            let all = template_object(&in_force, template);
            return pick(&all, fields.unwrap_or(TEMPLATE_FIELDS), &optional_template_fields());
        }
        self.check_call(&in_force, version, id, headers)?;
        pick(&number_object(id, &in_force.settings.number), fields.unwrap_or(NUMBER_FIELDS), &[])
    }
}

fn find<'a>(in_force: &'a InForce, id: &str) -> Option<&'a Template> {
    in_force.settings.templates.as_deref().unwrap_or_default().iter().find(|template| template.id == id)
}

fn number_object(id: &str, number: &NumberSettings) -> Map<String, Value> {
    let object = json!({
        "id": id,
        "display_phone_number": "+1 555-555-0100",
        "verified_name": "Sandbox",
        "code_verification_status": "VERIFIED",
        "quality_rating": number.quality_rating,
        "platform_type": "CLOUD_API",
        "throughput": {"level": number.throughput_level},
        "whatsapp_business_manager_messaging_limit": number.messaging_limit,
        "messaging_limit_tier": number.messaging_limit,
        "name_status": "APPROVED",
        "status": "CONNECTED",
        "account_mode": "LIVE",
    });
    object.as_object().cloned().unwrap_or_default()
}

fn template_object(in_force: &InForce, template: &Template) -> Map<String, Value> {
    let mut object =
        serde_json::to_value(template).ok().and_then(|value| value.as_object().cloned()).unwrap_or_default();
    object.insert("status".to_owned(), in_force.template_status(template).into());
    object
}

/// Fields that exist and need not be there.
fn optional_template_fields() -> [&'static str; 8] {
    [
        "quality_score",
        "sub_category",
        "previous_category",
        "correct_category",
        "rejected_reason",
        "message_send_ttl_seconds",
        "degrees_of_freedom_spec",
        "cta_url_link_tracking_opted_out",
    ]
}

/// The fields that are asked for, and always the id. What is asked of a field within braces is shown with the rest.
fn pick(object: &Map<String, Value>, fields: &str, optional: &[&str]) -> Result<Value, GraphError> {
    let mut picked = Map::new();
    let mut depth = 0_u32;
    let plain: String = fields
        .chars()
        .filter(|c| {
            depth += u32::from(*c == '{');
            let outside = depth == 0;
            depth = depth.saturating_sub(u32::from(*c == '}'));
            outside
        })
        .collect();
    for field in plain.split(',').map(str::trim).chain(["id"]).filter(|field| !field.is_empty()) {
        match object.get(field) {
            Some(value) => drop(picked.insert(field.to_owned(), value.clone())),
            None if optional.contains(&field) => {}
            None => return Err(GraphError::invalid(format!("Tried accessing nonexisting field ({field})"))),
        }
    }
    Ok(Value::Object(picked))
}

fn page(in_force: &InForce, address: &str, query: &HashMap<String, String>) -> Result<Value, GraphError> {
    let text = |key: &str| query.get(key).map(String::as_str);
    let limit = text("limit").map_or(Ok(LIMIT_DEFAULT), str::parse);
    let limit = limit.ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
    let limit = limit.ok_or_else(|| GraphError::invalid("limit must be 1 to 1000."))?;
    let after = text("after").map_or(Some(0), place_of);
    let after = after.ok_or_else(|| GraphError::invalid("after is no cursor of this list."))?;
    let fits = |template: &&Template| {
        let wanted = |key: &str, has: &str| text(key).is_none_or(|wanted| wanted.eq_ignore_ascii_case(has));
        wanted("status", in_force.template_status(template))
            && wanted("name", &template.name)
            && wanted("language", &template.language)
            && wanted("category", &template.category)
    };
    let all: Vec<&Template> = in_force.settings.templates.as_deref().unwrap_or_default().iter().filter(fits).collect();
    let shown = all.get(after..).unwrap_or_default();
    let fields = text("fields").unwrap_or(TEMPLATE_FIELDS);
    let data: Result<Vec<Value>, GraphError> = shown
        .iter()
        .take(limit)
        .map(|template| pick(&template_object(in_force, template), fields, &optional_template_fields()))
        .collect();
    let data = data?;
    if data.is_empty() {
        return Ok(json!({"data": data}));
    }
    let end = after + data.len();
    let mut paging = json!({"cursors": {"before": cursor(after), "after": cursor(end)}});
    if end < all.len() {
        let kept = query.iter().filter(|(key, _)| !matches!(key.as_str(), "after" | "access_token"));
        let mut url = reqwest::Url::parse(address).map_err(|_| GraphError::unknown_path())?;
        url.query_pairs_mut().extend_pairs(kept).append_pair("after", &cursor(end));
        paging["next"] = url.as_str().into();
    }
    Ok(json!({"data": data, "paging": paging}))
}

fn cursor(place: usize) -> String {
    URL_SAFE_NO_PAD.encode(format!("templates:{place}"))
}

fn place_of(cursor: &str) -> Option<usize> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
    text.strip_prefix("templates:")?.parse().ok()
}
