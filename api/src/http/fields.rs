//! Reads the fields of a request one by one, so that everything that is wrong with it is said at once.

use serde_json::{Map, Value};

use super::problem::{Answer, FieldFault, Problem};

/// Faults beyond these are not listed: whoever sends that many has mistaken the whole body.
const FAULTS_MAX: usize = 100;
/// An unknown name is repeated in the answer only so far.
const NAME_CHARS_MAX: usize = 100;
const SUGGESTED_DISTANCE_MAX: usize = 3;

/// What has been found wrong so far.
#[derive(Debug, Default)]
pub(super) struct Faults {
    faults: Vec<FieldFault>,
    only_unknown_names: bool,
}

impl Faults {
    pub(super) fn push(&mut self, field: impl Into<String>, reason: impl std::fmt::Display) {
        self.only_unknown_names = false;
        self.add(FieldFault::new(field, reason));
    }

    /// Reports a name that is not known, with the known one that was probably meant.
    pub(super) fn unknown(&mut self, prefix: &str, name: &str, known: &[&str]) {
        if self.faults.is_empty() {
            self.only_unknown_names = true;
        }
        let reason = match nearest(name, known) {
            Some(meant) => format!("is not known here; did you mean {meant}?"),
            None if known.is_empty() => "is not known here; this takes none".to_owned(),
            None => format!("is not known here; known are {}", known.join(", ")),
        };
        let shown: String = name.chars().take(NAME_CHARS_MAX).collect();
        self.add(FieldFault::new(format!("{prefix}{shown}"), reason));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }

    pub(super) fn into_problem(self) -> Problem {
        if self.only_unknown_names { Problem::unknown_fields(self.faults) } else { Problem::fields(self.faults) }
    }

    pub(super) fn check(self) -> Answer<()> {
        if self.is_empty() { Ok(()) } else { Err(self.into_problem()) }
    }

    fn add(&mut self, fault: FieldFault) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(fault);
        }
    }
}

fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let name: String = name.chars().take(NAME_CHARS_MAX).flat_map(char::to_lowercase).collect();
    known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(&name, known), *known))
        .filter(|(distance, known)| *distance <= SUGGESTED_DISTANCE_MAX.min(known.len() / 2))
        .min()
        .map(|(_, known)| known)
}

/// The fields of one JSON object. A reader answers `None` where a field is absent or wrong; what is wrong is in
/// `faults`.
#[derive(Debug)]
pub(super) struct Fields {
    object: Map<String, Value>,
    /// The path of the object in the body, with a dot at its end; empty for the body itself.
    prefix: String,
}

impl Fields {
    /// Reports every field that is not in `known`.
    pub(super) fn of(object: Map<String, Value>, prefix: &str, known: &[&str], faults: &mut Faults) -> Self {
        for name in object.keys().filter(|name| !known.contains(&name.as_str())) {
            faults.unknown(prefix, name, known);
        }
        Self { object, prefix: prefix.to_owned() }
    }

    pub(super) fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub(super) fn required_text(&mut self, name: &str, faults: &mut Faults) -> Option<String> {
        let value = self.required(name, faults)?;
        self.text_of(name, value, faults)
    }

    pub(super) fn text(&mut self, name: &str, faults: &mut Faults) -> Option<String> {
        let value = self.take(name)?;
        self.text_of(name, value, faults)
    }

    /// A text that is one of a few.
    pub(super) fn required_choice<T: Copy>(
        &mut self,
        name: &str,
        choices: &[(&str, T)],
        faults: &mut Faults,
    ) -> Option<T> {
        let text = self.required_text(name, faults)?;
        self.choice_of(name, &text, choices, faults)
    }

    pub(super) fn choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)], faults: &mut Faults) -> Option<T> {
        let text = self.text(name, faults)?;
        self.choice_of(name, &text, choices, faults)
    }

    pub(super) fn object(&mut self, name: &str, faults: &mut Faults) -> Option<Map<String, Value>> {
        let value = self.take(name)?;
        self.object_of(name, value, faults)
    }

    /// Any value, for content that has its own reader.
    pub(super) fn required(&mut self, name: &str, faults: &mut Faults) -> Option<Value> {
        let value = self.take(name);
        if value.is_none() {
            faults.push(self.path(name), "is missing");
        }
        value
    }

    /// `null` is the same as no field.
    fn take(&mut self, name: &str) -> Option<Value> {
        self.object.remove(name).filter(|value| !value.is_null())
    }

    fn text_of(&self, name: &str, value: Value, faults: &mut Faults) -> Option<String> {
        match value {
            // Postgres cannot store it, neither as text nor in JSON.
            Value::String(text) if text.contains('\0') => {
                faults.push(self.path(name), "must not contain the character U+0000");
                None
            }
            Value::String(text) => Some(text),
            other => {
                faults.push(self.path(name), format!("must be a string, not {}", kind_of(&other)));
                None
            }
        }
    }

    fn choice_of<T: Copy>(&self, name: &str, text: &str, choices: &[(&str, T)], faults: &mut Faults) -> Option<T> {
        let found = choices.iter().find(|(choice, _)| *choice == text).map(|(_, value)| *value);
        if found.is_none() {
            let names: Vec<&str> = choices.iter().map(|(choice, _)| *choice).collect();
            faults.push(self.path(name), format!("must be {}", names.join(" or ")));
        }
        found
    }

    fn object_of(&self, name: &str, value: Value, faults: &mut Faults) -> Option<Map<String, Value>> {
        match value {
            Value::Object(object) => Some(object),
            other => {
                faults.push(self.path(name), format!("must be an object, not {}", kind_of(&other)));
                None
            }
        }
    }
}

/// What a JSON value is, with its article.
pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::problem::ProblemKind;
    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        let Value::Object(object) = value else { panic!("not an object") };
        object
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let body = json!({"name": 7, "tempalte_id": "x", "campaign_type": "promo", "zzz": 1, "note": "a\u{0}b"});
        let mut faults = Faults::default();
        let known = ["name", "template_id", "campaign_type", "note"];
        let mut fields = Fields::of(object(body), "", &known, &mut faults);
        assert_eq!(fields.required_text("name", &mut faults), None);
        assert_eq!(fields.required_text("template_id", &mut faults), None);
        assert_eq!(fields.required_choice("campaign_type", &[("utility", 1), ("marketing", 2)], &mut faults), None);
        assert_eq!(fields.text("note", &mut faults), None);
        let problem = faults.check().unwrap_err();
        assert_eq!(problem.kind, ProblemKind::InvalidFields);
        let reason = |field: &str| problem.faults.iter().find(|fault| fault.field == field).unwrap().reason.clone();
        assert_eq!(reason("tempalte_id"), "is not known here; did you mean template_id?");
        assert_eq!(reason("zzz"), "is not known here; known are name, template_id, campaign_type, note");
        assert_eq!(reason("name"), "must be a string, not a number");
        assert_eq!(reason("template_id"), "is missing");
        assert_eq!(reason("campaign_type"), "must be utility or marketing");
        assert_eq!(reason("note"), "must not contain the character U+0000");
    }

    #[test]
    fn an_unknown_name_alone_is_a_kind_of_its_own() {
        let mut faults = Faults::default();
        Fields::of(object(json!({"nmae": "x"})), "parameters.1.", &["name"], &mut faults);
        let problem = faults.check().unwrap_err();
        assert_eq!(problem.kind, ProblemKind::UnknownField);
        assert_eq!(problem.faults[0].field, "parameters.1.nmae");

        let mut faults = Faults::default();
        faults.push("name", "is missing");
        faults.unknown("", "x", &["name"]);
        assert_eq!(faults.check().unwrap_err().kind, ProblemKind::InvalidFields);
    }

    #[test]
    fn null_is_the_same_as_nothing() {
        let mut faults = Faults::default();
        let mut fields = Fields::of(object(json!({"end_date": null})), "", &["end_date"], &mut faults);
        assert_eq!(fields.text("end_date", &mut faults), None);
        assert!(faults.is_empty());
    }

    #[test]
    fn faults_are_bounded() {
        let mut faults = Faults::default();
        let body: Map<String, Value> = (0..10_000).map(|n| (format!("field{n}"), Value::Null)).collect();
        Fields::of(body, "", &[], &mut faults);
        assert_eq!(faults.into_problem().faults.len(), FAULTS_MAX);
    }
}
