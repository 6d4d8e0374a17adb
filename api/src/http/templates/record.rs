use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use domain::template::{ParameterFormat, Template as Content};
use infrastructure::templates::{self, NewTemplate, TemplateRecordError};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::TemplateDocument;
use crate::http::auth::Caller;
use crate::http::body::JsonObject;
use crate::http::fields::{Faults, Fields};
use crate::http::problem::{Answer, Problem};
use crate::http::state::ApiState;

const FIELDS: [&str; 5] = ["name", "language", "category", "components", "parameter_format"];
const FORMATS: [(&str, ParameterFormat); 2] =
    [("POSITIONAL", ParameterFormat::Positional), ("NAMED", ParameterFormat::Named)];
const CATEGORIES: [&str; 3] = ["UTILITY", "MARKETING", "AUTHENTICATION"];

/// A template that exists at Meta.
#[derive(ToSchema)]
#[schema(as = NewTemplate)]
#[expect(dead_code, reason = "it documents the body, which is read field by field so that all faults are told at once")]
pub(in crate::http) struct NewTemplateDocument {
    name: String,
    /// A language code such as `en`, `en_US` or `hi`.
    language: String,
    /// `UTILITY`, `MARKETING` or `AUTHENTICATION`.
    category: String,
    /// In Meta's shape, such as `[{"type": "BODY", "text": "Dear {{1}}"}]`.
    #[schema(value_type = Vec<Object>)]
    components: Value,
    /// `POSITIONAL` or `NAMED`; told from the components if it is left out.
    parameter_format: Option<String>,
}

/// Records a template. It is never created at Meta; until templates are read from there it counts as approved.
#[utoipa::path(
    post,
    path = "/v1/templates",
    tag = "templates",
    operation_id = "record_template",
    request_body = NewTemplateDocument,
    responses((status = 201, body = TemplateDocument))
)]
pub(in crate::http) async fn record(
    State(state): State<ApiState>,
    caller: Caller,
    JsonObject(body): JsonObject,
) -> Answer<Response> {
    let new = read(body)?;
    let recorded = templates::record_template(&state.pool, caller.tenant.id, new, state.clock.now()).await;
    let template = recorded.map_err(refused)?;
    let location = format!("/v1/templates/{}", template.id);
    Ok((StatusCode::CREATED, [(LOCATION, location)], Json(TemplateDocument::from(template))).into_response())
}

fn read(body: Map<String, Value>) -> Answer<NewTemplate> {
    let mut faults = Faults::default();
    let mut fields = Fields::of(body, "", &FIELDS, &mut faults);
    let name = fields.required_text("name", &mut faults);
    let language = fields.required_text("language", &mut faults);
    let category = fields.required_text("category", &mut faults);
    let components = fields.required("components", &mut faults);
    // Checked here as well as where it is recorded, so that one answer tells of every fault.
    if category.as_ref().is_some_and(|found| !CATEGORIES.iter().any(|known| known.eq_ignore_ascii_case(found))) {
        faults.push("category", TemplateRecordError::UnknownCategory);
    }
    let format = fields.choice("parameter_format", &FORMATS, &mut faults);
    match components.as_ref().map(Content::parse) {
        Some(Err(error)) => faults.push("components", error),
        Some(Ok(content))
            if format.is_some_and(|format| format != content.parameter_format()) && !content.variables().is_empty() =>
        {
            let reason = format!("does not fit the components, which are {}", content.parameter_format().name());
            faults.push("parameter_format", reason);
        }
        Some(Ok(_)) | None => {}
    }
    match (name, language, category, components) {
        (Some(name), Some(language), Some(category), Some(components)) if faults.is_empty() => {
            Ok(NewTemplate { name, language, category, components })
        }
        _ => Err(faults.into_problem()),
    }
}

fn refused(error: TemplateRecordError) -> Problem {
    match error {
        TemplateRecordError::Database(error) => error.into(),
        TemplateRecordError::Taken { name, language } => {
            Problem::conflict(format!("A template named {name} in {language} exists already."))
        }
        TemplateRecordError::BadName
        | TemplateRecordError::BadLanguage
        | TemplateRecordError::UnknownCategory
        | TemplateRecordError::BadComponents(_)
        | TemplateRecordError::NulCharacter => Problem::field(error.field(), error),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::http::problem::ProblemKind;

    fn read_json(body: Value) -> Answer<NewTemplate> {
        let Value::Object(body) = body else { panic!("not an object") };
        read(body)
    }

    #[test]
    fn a_whole_body_is_read() {
        let components = json!([{"type": "BODY", "text": "Dear {{1}}"}]);
        let body = json!({"name": "due", "language": "en", "category": "utility", "components": components});
        assert_eq!(read_json(body).unwrap().components, components);
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let body =
            json!({"name": 7, "lang": "en", "category": "PROMO", "components": [{"type": "FOOTER", "text": "x"}]});
        let problem = read_json(body).unwrap_err();
        let mut fields: Vec<&str> = problem.faults.iter().map(|fault| fault.field.as_str()).collect();
        fields.sort_unstable();
        assert_eq!(fields, ["category", "components", "lang", "language", "name"]);
    }

    #[test]
    fn the_format_must_fit_the_components() {
        let of = |format: &str, text: &str| {
            let components = json!([{"type": "BODY", "text": text}]);
            read_json(json!({
                "name": "due", "language": "en", "category": "utility", "components": components, "parameter_format": format,
            }))
        };
        assert!(of("NAMED", "Dear {{name}}").is_ok() && of("POSITIONAL", "Dear {{1}}").is_ok());
        assert!(of("NAMED", "Hello").is_ok());
        assert_eq!(of("NAMED", "Dear {{1}}").unwrap_err().faults[0].field, "parameter_format");
        assert_eq!(of("PRINTED", "Dear {{1}}").unwrap_err().faults[0].field, "parameter_format");
    }

    #[test]
    fn a_template_that_exists_is_a_conflict() {
        let taken = TemplateRecordError::Taken { name: "due".to_owned(), language: "en".to_owned() };
        assert_eq!(refused(taken).kind, ProblemKind::Conflict);
        let problem = refused(TemplateRecordError::BadName);
        assert_eq!((problem.kind, problem.faults[0].field.as_str()), (ProblemKind::InvalidFields, "name"));
    }
}
