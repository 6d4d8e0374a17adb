//! The catalogue of templates, in Meta's shape, and whether a send fits its template. Without a catalogue every
//! template is taken.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::components::{Component, Parameter, Place};
use super::graph_error::GraphError;

/// The most characters of a body with its variables filled in.
const BODY_CHARS_MAX: usize = 1_024;

/// One template in one language. Keys that are not named here are kept as they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Template {
    /// Made up when it is left out.
    #[serde(default)]
    pub id: String,
    pub name: String,
    pub language: String,
    /// APPROVED, PAUSED, DISABLED, PENDING and so on.
    #[serde(default = "approved")]
    pub status: String,
    /// MARKETING, UTILITY or AUTHENTICATION.
    #[serde(default = "marketing")]
    pub category: String,
    /// POSITIONAL or NAMED.
    #[serde(default = "positional")]
    pub parameter_format: String,
    #[serde(default)]
    pub components: Vec<Value>,
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

fn approved() -> String {
    "APPROVED".to_owned()
}

fn marketing() -> String {
    "MARKETING".to_owned()
}

fn positional() -> String {
    "POSITIONAL".to_owned()
}

/// The templates with what each expects of a send.
#[derive(Debug)]
pub(super) struct Catalogue {
    templates: Vec<(Template, Expected)>,
    by_name: HashMap<String, Vec<usize>>,
}

impl Catalogue {
    pub(super) fn new(templates: &[Template]) -> Self {
        let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
        for (place, template) in templates.iter().enumerate() {
            by_name.entry(template.name.clone()).or_default().push(place);
        }
        let expected =
            |template: &Template| (template.clone(), Expected::of(&template.components, template.is_named()));
        Self { templates: templates.iter().map(expected).collect(), by_name }
    }

    /// The template of the send, if the send fits it. `status` overrules the template's own.
    pub(super) fn admit(
        &self,
        name: &str,
        language: &str,
        status: Option<&str>,
        components: &[Component<'_>],
    ) -> Result<&Template, GraphError> {
        let places = self.by_name.get(name).map(Vec::as_slice).unwrap_or_default();
        let found = places.iter().map(|place| &self.templates[*place]).find(|(t, _)| t.language == language);
        let (template, expected) = found.ok_or_else(|| missing(name, language))?;
        admit_status(status.unwrap_or(&template.status), name, language)?;
        expected.check(components)?;
        Ok(template)
    }
}

impl Template {
    pub(super) fn is_marketing(&self) -> bool {
        self.category.eq_ignore_ascii_case("MARKETING")
    }

    fn is_named(&self) -> bool {
        self.parameter_format.eq_ignore_ascii_case("NAMED")
    }
}

fn missing(name: &str, language: &str) -> GraphError {
    let details = format!("template name ({name}) does not exist in {language}");
    GraphError::of_code(132_001, Cow::Owned(details))
}

/// Whether a template of this status can be sent. Those that wait for approval are as if they were not there.
pub(super) fn admit_status(status: &str, name: &str, language: &str) -> Result<(), GraphError> {
    match status.to_ascii_uppercase().as_str() {
        "APPROVED" => Ok(()),
        "PAUSED" => Err(GraphError::of_code(132_015, None)),
        "DISABLED" => Err(GraphError::of_code(132_016, None)),
        _ => Err(missing(name, language)),
    }
}

/// What a template, or a card of one, expects of a send.
#[derive(Debug)]
struct Expected {
    named: bool,
    header: Option<Header>,
    body: String,
    body_variables: BTreeSet<String>,
    buttons: Vec<Value>,
    offer: bool,
    cards: Option<Vec<Self>>,
}

#[derive(Debug)]
enum Header {
    Text(BTreeSet<String>),
    /// The type of its only parameter.
    Media(String),
}

impl Expected {
    fn of(components: &[Value], named: bool) -> Self {
        let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let mut expected = Self {
            named,
            header: None,
            body: String::new(),
            body_variables: BTreeSet::new(),
            buttons: Vec::new(),
            offer: false,
            cards: None,
        };
        for component in components {
            match text(component, "type").to_ascii_uppercase().as_str() {
                "HEADER" => {
                    let format = text(component, "format").to_ascii_lowercase();
                    expected.header = Some(match format.as_str() {
                        "" | "text" => Header::Text(variables(&text(component, "text"))),
                        _ => Header::Media(format),
                    });
                }
                "BODY" => {
                    expected.body = text(component, "text");
                    expected.body_variables = variables(&expected.body);
                }
                "BUTTONS" => expected.buttons = component["buttons"].as_array().cloned().unwrap_or_default(),
                "LIMITED_TIME_OFFER" => {
                    expected.offer = component["limited_time_offer"]["has_expiration"].as_bool().unwrap_or(false);
                }
                "CAROUSEL" => {
                    let cards = component["cards"].as_array().map(Vec::as_slice).unwrap_or_default();
                    let card = |card: &Value| {
                        Self::of(card["components"].as_array().map(Vec::as_slice).unwrap_or_default(), named)
                    };
                    expected.cards = Some(cards.iter().map(card).collect());
                }
                _ => {}
            }
        }
        expected
    }

    fn check(&self, components: &[Component<'_>]) -> Result<(), GraphError> {
        let of = |place: Place| components.iter().find(|component| component.place() == Some(place));
        let parameters = |place: Place| of(place).map(Component::parameters).unwrap_or_default();
        self.check_header(parameters(Place::Header))?;
        let body = parameters(Place::Body);
        self.check_variables("body", &self.body_variables, body)?;
        self.check_length(body)?;
        self.check_buttons(components)?;
        if self.offer && of(Place::LimitedTimeOffer).is_none() {
            return Err(GraphError::missing("limited_time_offer: the offer's end is required"));
        }
        let cards = of(Place::Carousel).map(Component::cards).unwrap_or_default();
        let expected = self.cards.as_deref().unwrap_or_default();
        if cards.len() != expected.len() {
            return Err(mismatch(format!("carousel: {} cards, expected {}", cards.len(), expected.len())));
        }
        let mut pairs = expected.iter().zip(cards);
        pairs.try_for_each(|(expected, card)| expected.check(card.components.as_deref().unwrap_or_default()))
    }

    fn check_header(&self, parameters: &[Parameter<'_>]) -> Result<(), GraphError> {
        let none = BTreeSet::new();
        match &self.header {
            Some(Header::Text(variables)) => self.check_variables("header", variables, parameters),
            Some(Header::Media(kind)) => {
                count("header", parameters.len(), 1)?;
                let given = parameters.first().and_then(|parameter| parameter.r#type.as_deref()).unwrap_or_default();
                if given == kind {
                    return Ok(());
                }
                Err(mismatch(format!("header: Format mismatch, expected {kind}, received {given}")))
            }
            None => self.check_variables("header", &none, parameters),
        }
    }

    fn check_variables(
        &self,
        place: &str,
        variables: &BTreeSet<String>,
        parameters: &[Parameter<'_>],
    ) -> Result<(), GraphError> {
        count(place, parameters.len(), variables.len())?;
        for parameter in parameters {
            match parameter.parameter_name.as_deref() {
                Some(name) if self.named && variables.contains(name) => {}
                None if !self.named => {}
                Some(name) => return Err(mismatch(format!("{place}: the template has no parameter named {name}"))),
                None => return Err(mismatch(format!("{place}: the template's parameters have names"))),
            }
            let kind = parameter.r#type.as_deref().unwrap_or_default();
            if !matches!(kind, "text" | "currency" | "date_time") {
                return Err(mismatch(format!("{place}: Format mismatch, expected text, received {kind}")));
            }
        }
        Ok(())
    }

    fn check_length(&self, parameters: &[Parameter<'_>]) -> Result<(), GraphError> {
        let placeholders: usize = self.body_variables.iter().map(|name| name.chars().count() + 4).sum();
        let texts = parameters.iter().filter_map(|parameter| parameter.text.as_deref());
        let filled = texts.map(|text| text.chars().count()).sum::<usize>();
        let length = (self.body.chars().count() + filled).saturating_sub(placeholders);
        if length <= BODY_CHARS_MAX { Ok(()) } else { Err(GraphError::of_code(132_005, None)) }
    }

    fn check_buttons(&self, components: &[Component<'_>]) -> Result<(), GraphError> {
        let sent = || components.iter().filter(|component| component.place() == Some(Place::Button));
        for button in sent() {
            let index = button.index().unwrap_or(usize::MAX);
            if index >= self.buttons.len() {
                return Err(mismatch(format!("buttons: the template has no button at index {index}")));
            }
        }
        for (index, button) in self.buttons.iter().enumerate() {
            let kind = button["type"].as_str().unwrap_or_default().to_ascii_uppercase();
            let required = match kind.as_str() {
                "URL" => button["url"].as_str().is_some_and(|url| !variables(url).is_empty()),
                "COPY_CODE" | "MPM" => true,
                _ => false,
            };
            let given = sent().any(|sent| sent.index() == Some(index) && !sent.parameters().is_empty());
            if required && !given {
                let details = format!("buttons: Button at index {index} of type {kind} requires a parameter");
                return Err(GraphError::missing(details));
            }
        }
        Ok(())
    }
}

fn count(place: &str, given: usize, expected: usize) -> Result<(), GraphError> {
    if given == expected {
        return Ok(());
    }
    let details = format!(
        "{place}: number of localizable_params ({given}) does not match the expected number of params ({expected})"
    );
    Err(GraphError::of_code(132_000, Cow::Owned(details)))
}

fn mismatch(details: String) -> GraphError {
    GraphError::of_code(132_012, Cow::Owned(details))
}

/// The names between double braces.
fn variables(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once("{{").and_then(|(_, from)| from.split_once("}}")) {
        names.insert(name.trim().to_owned());
        rest = after;
    }
    names
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn catalogue(templates: Value) -> Catalogue {
        Catalogue::new(&serde_json::from_value::<Vec<Template>>(templates).unwrap())
    }

    #[expect(clippy::needless_pass_by_value, reason = "the calls read better")]
    fn code(catalogue: &Catalogue, name: &str, language: &str, components: Value) -> Option<u32> {
        let text = components.to_string();
        let components: Vec<Component<'_>> = serde_json::from_str(&text).unwrap();
        catalogue.admit(name, language, None, &components).err().map(|error| error.code)
    }

    #[expect(clippy::needless_pass_by_value, reason = "the calls read better")]
    fn body(parameters: Value) -> Value {
        json!([{"type": "body", "parameters": parameters}])
    }

    #[test]
    fn a_send_must_fit_its_template() {
        let catalogue = catalogue(json!([
            {"name": "two", "language": "en", "components": [{"type": "BODY", "text": "Dear {{1}}, {{2}}"}]},
            {"name": "named", "language": "en", "parameter_format": "NAMED",
             "components": [{"type": "BODY", "text": "Dear {{name}}"}]},
            {"name": "paused", "language": "en", "status": "PAUSED"},
            {"name": "disabled", "language": "en", "status": "DISABLED"},
            {"name": "pending", "language": "en", "status": "PENDING"},
        ]));
        let (one, text) = (json!({"type": "text", "text": "A"}), json!({"type": "text", "text": "B"}));
        let code = |name, language, components| code(&catalogue, name, language, components);
        assert_eq!(code("two", "en", body(json!([one, text]))), None);
        assert_eq!(code("two", "hi", body(json!([one, text]))), Some(132_001));
        assert_eq!(code("none", "en", json!([])), Some(132_001));
        assert_eq!(code("two", "en", body(json!([one]))), Some(132_000));
        let named = |name: &str| json!([{"type": "text", "parameter_name": name, "text": "A"}]);
        assert_eq!(code("named", "en", body(named("name"))), None);
        assert_eq!(code("named", "en", body(named("title"))), Some(132_012));
        assert_eq!(code("named", "en", body(json!([one]))), Some(132_012));
        assert_eq!(code("two", "en", body(json!([one, {"type": "payload", "payload": "x"}]))), Some(132_012));
        assert_eq!(code("two", "en", body(json!([one, {"type": "text", "text": "x".repeat(1_024)}]))), Some(132_005));
        assert_eq!(code("paused", "en", json!([])), Some(132_015));
        assert_eq!(code("disabled", "en", json!([])), Some(132_016));
        assert_eq!(code("pending", "en", json!([])), Some(132_001));
    }

    #[test]
    fn headers_buttons_and_cards_are_expected_too() {
        let catalogue = catalogue(json!([
            {"name": "rich", "language": "en", "components": [
                {"type": "HEADER", "format": "IMAGE"}, {"type": "BODY", "text": "Hello"},
                {"type": "BUTTONS", "buttons": [
                    {"type": "QUICK_REPLY", "text": "Stop"}, {"type": "URL", "url": "https://example.org/{{1}}"},
                ]},
            ]},
            {"name": "cards", "language": "en", "components": [{"type": "CAROUSEL", "cards": [
                {"components": [{"type": "BODY", "text": "{{1}}"}]}, {"components": []},
            ]}]},
        ]));
        let image = json!({"type": "header", "parameters": [{"type": "image", "image": {"id": "1"}}]});
        let url = |index: u32| {
            let parameters = json!([{"type": "text", "text": "x"}]);
            json!({"type": "button", "sub_type": "url", "index": index, "parameters": parameters})
        };
        let code = |name, components| code(&catalogue, name, "en", components);
        assert_eq!(code("rich", json!([image, url(1)])), None);
        assert_eq!(code("rich", json!([image])), Some(131_008));
        assert_eq!(code("rich", json!([url(1)])), Some(132_000));
        assert_eq!(code("rich", json!([image, url(1), url(2)])), Some(132_012));
        let video = json!({"type": "header", "parameters": [{"type": "video", "video": {"id": "1"}}]});
        assert_eq!(code("rich", json!([video, url(1)])), Some(132_012));
        let card = json!({"components": body(json!([{"type": "text", "text": "A"}]))});
        let cards = |cards: Value| json!([{"type": "carousel", "cards": cards}]);
        assert_eq!(code("cards", cards(json!([card, {"components": []}]))), None);
        assert_eq!(code("cards", cards(json!([card]))), Some(132_012));
        assert_eq!(code("cards", cards(json!([{"components": []}, {"components": []}]))), Some(132_000));
    }

    #[test]
    fn an_offer_that_does_not_say_that_it_ends_needs_no_end() {
        let offer = |offer: Value| {
            let components = json!([
                {"type": "LIMITED_TIME_OFFER", "limited_time_offer": offer}, {"type": "BODY", "text": "Hello"},
            ]);
            code(
                &catalogue(json!([{"name": "offer", "language": "en", "components": components}])),
                "offer",
                "en",
                json!([]),
            )
        };
        assert_eq!(offer(json!({"text": "Soon!"})), None);
        assert_eq!(offer(json!({"text": "Soon!", "has_expiration": false})), None);
        assert_eq!(offer(json!({"text": "Soon!", "has_expiration": true})), Some(131_008));
    }
}
