//! The mapping of a campaign: where the values of its template's variables come from.

use domain::campaign::{ParameterMapping, ParameterSource};
use domain::template::clean;
use infrastructure::templates::Template;
use serde_json::Value;

use crate::http::fields::{Faults, Fields, kind_of};

pub(super) fn read_parameters(fields: &mut Fields, faults: &mut Faults) -> ParameterMapping {
    let mut mapping = ParameterMapping::new();
    for (name, value) in fields.object("parameters", faults).unwrap_or_default() {
        let path = format!("parameters.{name}");
        let Value::Object(object) = value else {
            let reason = format!("must be an object such as {{\"attribute\": \"name\"}}, not {}", kind_of(&value));
            faults.push(path, reason);
            continue;
        };
        let mut source = Fields::of(object, &format!("{path}."), &["attribute", "fallback", "value"], faults);
        if let Some(source) = read_source(&mut source, faults) {
            mapping.insert(name, source);
        }
    }
    mapping
}

fn read_source(source: &mut Fields, faults: &mut Faults) -> Option<ParameterSource> {
    if let Some(value) = source.text("value", faults) {
        for other in ["attribute", "fallback"] {
            if source.text(other, faults).is_some() {
                faults.push(source.path(other), "must be left out beside a value, which is the same for every contact");
            }
        }
        if clean(&value).is_empty() {
            faults.push(source.path("value"), "must not be empty");
        }
        return Some(ParameterSource::Constant { value });
    }
    let attribute = source.required_text("attribute", faults).map(|attribute| attribute_key(&attribute));
    let fallback = source.text("fallback", faults);
    if attribute.as_ref().is_some_and(String::is_empty) {
        faults.push(source.path("attribute"), "must be the name of a column of the uploads");
    }
    if fallback.as_ref().is_some_and(|fallback| clean(fallback).is_empty()) {
        faults.push(source.path("fallback"), "must not be empty; leave it out to skip contacts without a value");
    }
    Some(ParameterSource::Attribute { attribute: attribute?, fallback })
}

/// Columns of uploads are kept in this form: `Due Date` and `due_date` are one.
fn attribute_key(name: &str) -> String {
    name.to_lowercase().split_whitespace().collect::<Vec<_>>().join("_")
}

pub(super) fn check_against_template(
    template: &Template,
    language: Option<&str>,
    parameters: &ParameterMapping,
    faults: &mut Faults,
) {
    if language.is_some_and(|language| language != template.language) {
        faults.push("language", format!("must be {}, the language of the template", template.language));
    }
    let content = match domain::template::Template::parse(&template.components) {
        Ok(content) => content,
        Err(error) => {
            let reason = format!("the template {} cannot be sent by this release: {error}", template.name);
            return faults.push("template_id", reason);
        }
    };
    for (name, source) in parameters {
        let Some(slot) = content.slot(name) else {
            faults.push(format!("parameters.{name}"), unknown_variable(template, &content));
            continue;
        };
        let (field, text) = match source {
            ParameterSource::Attribute { fallback, .. } => ("fallback", fallback.as_ref()),
            ParameterSource::Constant { value } => ("value", Some(value)),
        };
        // An empty one has been told already.
        if let Some(Err(error)) = text.filter(|text| !clean(text).is_empty()).map(|text| slot.kind.read(text)) {
            faults.push(format!("parameters.{name}.{field}"), error);
        }
    }
}

fn unknown_variable(template: &Template, content: &domain::template::Template) -> String {
    let known: Vec<&str> = content.slots().iter().map(|slot| slot.name.as_str()).collect();
    if known.is_empty() {
        format!("the template {} has no variables", template.name)
    } else {
        format!("is not a variable of the template {}; it has {}", template.name, known.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::http::templates::sample;

    fn fields(body: &Value) -> Fields {
        Fields::of(body.as_object().unwrap().clone(), "", &["parameters"], &mut Faults::default())
    }

    fn faulty(faults: Faults) -> Vec<String> {
        faults
            .check()
            .err()
            .map_or_else(Vec::new, |problem| problem.faults.into_iter().map(|fault| fault.field).collect())
    }

    #[test]
    fn parameters_name_a_column_as_uploads_keep_it() {
        let mut faults = Faults::default();
        let body = json!({"parameters": {
            "1": {"attribute": " Due Date ", "fallback": "soon"},
            "2": {"attribute": "name"},
            "3": {"value": "https://cdn.example/a.jpg"},
        }});
        let mapping = read_parameters(&mut fields(&body), &mut faults);
        assert!(faults.is_empty());
        assert_eq!(
            mapping["1"],
            ParameterSource::Attribute { attribute: "due_date".to_owned(), fallback: Some("soon".to_owned()) }
        );
        assert_eq!(mapping["2"], ParameterSource::Attribute { attribute: "name".to_owned(), fallback: None });
        assert_eq!(mapping["3"], ParameterSource::Constant { value: "https://cdn.example/a.jpg".to_owned() });
    }

    #[test]
    fn each_fault_of_a_parameter_is_told_at_its_place() {
        let mut faults = Faults::default();
        let body = json!({"parameters": {
            "1": "name",
            "2": {"attribute": "", "fallback": " "},
            "3": {"atribute": "name"},
            "4": {"value": " ", "fallback": "x"},
        }});
        read_parameters(&mut fields(&body), &mut faults);
        let expected = [
            "parameters.1",
            "parameters.2.attribute",
            "parameters.2.fallback",
            "parameters.3.atribute",
            "parameters.3.attribute",
            "parameters.4.fallback",
            "parameters.4.value",
        ];
        assert_eq!(faulty(faults), expected);
    }

    #[test]
    fn language_and_parameters_must_be_the_templates() {
        let source = ParameterSource::Attribute { attribute: "name".to_owned(), fallback: None };
        let mapping: ParameterMapping = ["1", "3"].map(|name| (name.to_owned(), source.clone())).into();
        let mut faults = Faults::default();
        check_against_template(&sample(&["1", "2"]), Some("hi"), &mapping, &mut faults);
        let problem = faults.check().unwrap_err();
        assert_eq!(problem.faults.len(), 2);
        assert_eq!(problem.faults[0].reason, "must be en, the language of the template");
        assert_eq!(problem.faults[1].reason, "is not a variable of the template due; it has 1, 2");

        let mut faults = Faults::default();
        check_against_template(&sample(&["1", "2", "3"]), Some("en"), &mapping, &mut faults);
        assert!(faults.is_empty());
    }

    #[test]
    fn a_value_that_could_never_be_sent_is_told_at_once() {
        let components = json!([
            {"type": "HEADER", "format": "IMAGE"},
            {"type": "BODY", "text": "x"},
            {"type": "BUTTONS", "buttons": [{"type": "COPY_CODE"}, {"type": "QUICK_REPLY"}]},
        ]);
        let template = Template { components, ..sample(&[]) };
        let constant = |value: &str| ParameterSource::Constant { value: value.to_owned() };
        let of = |image: &str, fallback: &str| {
            let code = ParameterSource::Attribute { attribute: "code".to_owned(), fallback: Some(fallback.to_owned()) };
            let mapping = [
                ("header.image", constant(image)),
                ("button.0.coupon_code", code),
                ("button.1.payload", constant("paid")),
            ];
            let mapping = mapping.map(|(name, source)| (name.to_owned(), source)).into();
            let mut faults = Faults::default();
            check_against_template(&template, None, &mapping, &mut faults);
            faulty(faults)
        };
        assert!(of("https://cdn.example/a.jpg", "SAVE10").is_empty());
        assert_eq!(
            of("a.jpg", "SAVE 10"),
            ["parameters.button.0.coupon_code.fallback", "parameters.header.image.value"]
        );
        let unreadable = Template { components: json!([]), ..template.clone() };
        let mut faults = Faults::default();
        check_against_template(&unreadable, None, &ParameterMapping::new(), &mut faults);
        assert_eq!(faulty(faults), ["template_id"]);
    }
}
