use axum::Json;
use utoipa::openapi::path::{ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{Object, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ComponentsBuilder, ContentBuilder, OpenApi, Ref, RefOr, ResponseBuilder};
use utoipa::{Modify, OpenApi as _};

use super::problem::ProblemDocument;
use super::{
    campaigns, consent, contacts, events, explain, health, messages, min_position, notices, runs, senders, templates,
    totals, unknown, uploads,
};
use crate::webhooks;

#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "EkTola", description = "WhatsApp campaigns: contacts, templates, campaigns, runs and messages."),
    paths(
        uploads::upload,
        contacts::list,
        contacts::segments,
        consent::get,
        consent::history,
        consent::erase,
        consent::opt_in,
        consent::opt_out,
        consent::stop_marketing,
        consent::resume_marketing,
        templates::record,
        templates::list,
        templates::get,
        templates::sync,
        templates::test,
        campaigns::create,
        campaigns::list,
        campaigns::get,
        campaigns::list_runs,
        campaigns::totals,
        campaigns::activate,
        campaigns::pause,
        campaigns::resume,
        campaigns::cancel,
        campaigns::trigger,
        runs::get,
        runs::list_messages,
        messages::list,
        messages::get,
        unknown::list,
        unknown::settle,
        notices::list,
        notices::done,
        senders::list,
        totals::usage,
        totals::daily,
        totals::billing,
        explain::get,
        events::list,
        health::livez,
        health::readyz,
        document,
        webhooks::confirm,
        webhooks::receive,
    ),
    components(schemas(ProblemDocument)),
    modifiers(&Everywhere),
    security(("token" = []))
)]
struct Documentation;

/// The description of the HTTP interface.
pub fn openapi() -> OpenApi {
    Documentation::openapi()
}

/// This description.
#[utoipa::path(
    get,
    path = "/v1/openapi.json",
    tag = "health",
    operation_id = "openapi",
    security(()),
    responses((status = 200, description = "OpenAPI 3.1"))
)]
pub(super) async fn document() -> Json<OpenApi> {
    Json(openapi())
}

/// What holds for every operation: the credential, and the form of a refusal.
struct Everywhere;

impl Modify for Everywhere {
    fn modify(&self, openapi: &mut OpenApi) {
        let token = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = openapi.components.get_or_insert_with(|| ComponentsBuilder::new().build());
        components.add_security_scheme("token", SecurityScheme::Http(token));
        let refusal = ResponseBuilder::new()
            .description("A refusal, as RFC 9457 describes it")
            .content(
                "application/problem+json",
                ContentBuilder::new().schema(Some(RefOr::Ref(Ref::from_schema_name("Problem")))).build(),
            )
            .build();
        for (name, path) in &mut openapi.paths.paths {
            // Every query of a read model may wait for a write.
            if name.starts_with("/v1/")
                && name != "/v1/openapi.json"
                && let Some(get) = &mut path.get
            {
                let parameter = ParameterBuilder::new()
                    .name(min_position::PARAMETER)
                    .parameter_in(ParameterIn::Query)
                    .description(Some(
                        "Waits until the read models show this position of the log; also as the header Min-Position",
                    ))
                    .schema(Some(Object::with_type(Type::Integer)))
                    .build();
                get.parameters.get_or_insert_default().push(RefOr::T(parameter));
            }
            let operations = [&mut path.get, &mut path.post, &mut path.put, &mut path.patch, &mut path.delete];
            for operation in operations.into_iter().flatten() {
                operation.responses.responses.insert("default".to_owned(), RefOr::T(refusal.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn written() -> Value {
        serde_json::to_value(openapi()).unwrap()
    }

    #[test]
    fn every_operation_says_how_it_refuses_and_has_a_name_of_its_own() {
        let mut names = Vec::new();
        for (path, item) in written()["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let refusal =
                    &operation["responses"]["default"]["content"]["application/problem+json"]["schema"]["$ref"];
                assert_eq!(refusal, "#/components/schemas/Problem", "{method} {path}");
                names.push(operation["operationId"].as_str().unwrap().to_owned());
            }
        }
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn references(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(entries) => {
                    for (key, entry) in entries {
                        match entry {
                            Value::String(target) if key == "$ref" => found.push(target.clone()),
                            _ => references(entry, found),
                        }
                    }
                }
                Value::Array(items) => items.iter().for_each(|item| references(item, found)),
                _ => {}
            }
        }
        let document = written();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(!found.is_empty());
        for target in found {
            assert!(document.pointer(target.trim_start_matches('#')).is_some(), "{target}");
        }
    }
}
