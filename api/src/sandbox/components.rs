//! The components of a sent template: what is written in them, and whether WhatsApp would take that as it is, whatever
//! the template. Whether they fit the template is told by the catalogue, if there is one.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;

use super::graph_error::GraphError;

const CARDS_MAX: usize = 10;
const COUPON_CHARS_MAX: usize = 15;

#[derive(Debug, Deserialize)]
pub(super) struct Component<'a> {
    #[serde(borrow)]
    pub(super) r#type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) sub_type: Option<Cow<'a, str>>,
    /// Text or a number.
    index: Option<Value>,
    #[serde(borrow)]
    pub(super) parameters: Option<Vec<Parameter<'a>>>,
    #[serde(borrow)]
    pub(super) cards: Option<Vec<Card<'a>>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Card<'a> {
    #[serde(borrow)]
    pub(super) components: Option<Vec<Component<'a>>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Parameter<'a> {
    #[serde(borrow)]
    pub(super) r#type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) parameter_name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) text: Option<Cow<'a, str>>,
    #[serde(borrow)]
    payload: Option<Cow<'a, str>>,
    #[serde(borrow)]
    coupon_code: Option<Cow<'a, str>>,
    image: Option<Media>,
    video: Option<Media>,
    document: Option<Media>,
    location: Option<Value>,
    currency: Option<Fallback>,
    date_time: Option<Fallback>,
    action: Option<Value>,
    limited_time_offer: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Media {
    id: Option<String>,
    link: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Fallback {
    fallback_value: Option<String>,
}

/// Where a component goes. Names come in both letter cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Header,
    Body,
    Button,
    Carousel,
    LimitedTimeOffer,
}

const PLACES: [(&str, Place); 5] = [
    ("header", Place::Header),
    ("body", Place::Body),
    ("button", Place::Button),
    ("carousel", Place::Carousel),
    ("limited_time_offer", Place::LimitedTimeOffer),
];
const BUTTONS: [&str; 9] =
    ["quick_reply", "url", "copy_code", "flow", "catalog", "mpm", "spm", "voice_call", "order_details"];

impl Component<'_> {
    pub(super) fn place(&self) -> Option<Place> {
        let name = self.r#type.as_deref()?;
        PLACES.iter().find(|(place, _)| name.eq_ignore_ascii_case(place)).map(|(_, place)| *place)
    }

    /// The button's place in the template.
    pub(super) fn index(&self) -> Option<usize> {
        let index = self.index.as_ref()?;
        let index = index.as_u64().or_else(|| index.as_str()?.parse().ok())?;
        usize::try_from(index).ok()
    }

    pub(super) fn parameters(&self) -> &[Parameter<'_>] {
        self.parameters.as_deref().unwrap_or_default()
    }

    pub(super) fn cards(&self) -> &[Card<'_>] {
        self.cards.as_deref().unwrap_or_default()
    }
}

// The JSON parser's own depth limit bounds the nesting of cards.
pub(super) fn check(components: &[Component<'_>]) -> Result<(), GraphError> {
    for component in components {
        match component.place() {
            None => {
                let details = "The type of a component must be header, body, button, carousel or limited_time_offer.";
                return Err(GraphError::invalid(details));
            }
            Some(Place::Button) => check_button(component)?,
            Some(Place::Carousel) if !(1..=CARDS_MAX).contains(&component.cards().len()) => {
                return Err(GraphError::value("A carousel has 1 to 10 cards."));
            }
            Some(Place::Header | Place::Body | Place::Carousel | Place::LimitedTimeOffer) => {}
        }
        component.parameters().iter().try_for_each(check_parameter)?;
        component.cards().iter().try_for_each(|card| check(card.components.as_deref().unwrap_or_default()))?;
    }
    Ok(())
}

fn check_button(button: &Component<'_>) -> Result<(), GraphError> {
    let kind = button.sub_type.as_deref();
    let kind = kind.ok_or_else(|| GraphError::missing("A component of type button has no sub_type."))?;
    if !BUTTONS.iter().any(|known| kind.eq_ignore_ascii_case(known)) {
        return Err(GraphError::invalid("The sub_type of a button is unknown."));
    }
    button.index().map(drop).ok_or_else(|| GraphError::missing("A component of type button has no index."))
}

fn check_parameter(parameter: &Parameter<'_>) -> Result<(), GraphError> {
    let kind = parameter.r#type.as_deref();
    let kind = kind.ok_or_else(|| GraphError::missing("A parameter has no type."))?;
    let media = |media: &Option<Media>| media.as_ref().is_some_and(|media| media.id.is_some() || media.link.is_some());
    let fallback =
        |value: &Option<Fallback>| value.as_ref().is_some_and(|value| value.fallback_value.as_deref().is_some());
    let whole = match kind {
        "text" => return check_text(parameter.text.as_deref()),
        "payload" => parameter.payload.is_some(),
        "image" => media(&parameter.image),
        "video" => media(&parameter.video),
        "document" => media(&parameter.document),
        "location" => parameter.location.is_some(),
        "currency" => fallback(&parameter.currency),
        "date_time" => fallback(&parameter.date_time),
        "action" => parameter.action.is_some(),
        "limited_time_offer" => parameter.limited_time_offer.is_some(),
        "coupon_code" => {
            let code = parameter.coupon_code.as_deref();
            if code.is_some_and(|code| code.is_empty() || code.chars().count() > COUPON_CHARS_MAX) {
                return Err(GraphError::value("A coupon code has 1 to 15 characters."));
            }
            code.is_some()
        }
        _ => return Err(GraphError::invalid("The type of a parameter is unknown.")),
    };
    if whole { Ok(()) } else { Err(GraphError::missing(format!("A parameter of type {kind} lacks its value."))) }
}

fn check_text(text: Option<&str>) -> Result<(), GraphError> {
    let text = text.ok_or_else(|| GraphError::missing("A parameter of type text has no text."))?;
    if text.trim().is_empty() {
        return Err(GraphError::variable("Parameter of type text is empty."));
    }
    if text.contains(['\n', '\r', '\t']) || text.contains("     ") {
        let details = "Param text cannot have new-line/tab characters or more than 4 consecutive spaces";
        return Err(GraphError::variable(details));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "the calls read better")]
    fn code(components: Value) -> Option<u32> {
        let text = components.to_string();
        let components: Vec<Component<'_>> = serde_json::from_str(&text).unwrap();
        check(&components).err().map(|error| error.code)
    }

    #[test]
    fn every_documented_component_is_taken() {
        let button = |kind: &str, parameter: Value| json!([{"type": "button", "sub_type": kind, "index": "0", "parameters": [parameter]}]);
        let header = |parameter: Value| json!([{"type": "header", "parameters": [parameter]}]);
        let components = [
            header(json!({"type": "text", "text": "A"})),
            header(json!({"type": "image", "image": {"id": "1"}})),
            header(json!({"type": "video", "video": {"link": "https://example.org/v.mp4"}})),
            header(json!({"type": "document", "document": {"id": "1", "filename": "a.pdf"}})),
            header(json!({"type": "location", "location": {"latitude": 1, "longitude": 2}})),
            json!([{"type": "BODY", "parameters": [{"type": "text", "parameter_name": "first_name", "text": "A"}]}]),
            json!([{"type": "body", "parameters": [
                {"type": "currency", "currency": {"fallback_value": "Rs 1", "code": "INR", "amount_1000": 1000}},
                {"type": "date_time", "date_time": {"fallback_value": "today"}},
            ]}]),
            button("quick_reply", json!({"type": "payload", "payload": "stop"})),
            button("URL", json!({"type": "text", "text": "suffix"})),
            button("copy_code", json!({"type": "coupon_code", "coupon_code": "SAVE10"})),
            button("flow", json!({"type": "action", "action": {"flow_token": "t"}})),
            button("CATALOG", json!({"type": "action", "action": {"thumbnail_product_retailer_id": "1"}})),
            button("mpm", json!({"type": "action", "action": {"sections": []}})),
            json!([{"type": "button", "sub_type": "url", "index": 1, "parameters": [{"type": "text", "text": "s"}]}]),
            json!([{"type": "limited_time_offer", "parameters": [
                {"type": "limited_time_offer", "limited_time_offer": {"expiration_time_ms": 1}},
            ]}]),
            json!([{"type": "carousel", "cards": [
                {"card_index": 0, "components": header(json!({"type": "image", "image": {"id": "1"}}))},
                {"card_index": 1, "components": []},
            ]}]),
        ];
        for components in components {
            assert_eq!(code(components.clone()), None, "{components}");
        }
    }

    #[test]
    fn what_whatsapp_would_not_take_is_refused() {
        let body = |parameter: Value| code(json!([{"type": "body", "parameters": [parameter]}]));
        for text in ["", " ", "a\nb", "a\tb", "a     b"] {
            assert_eq!(body(json!({"type": "text", "text": text})), Some(132_018), "{text:?}");
        }
        assert_eq!(body(json!({"type": "text", "text": "a    b"})), None);
        assert_eq!(body(json!({"type": "text"})), Some(131_008));
        assert_eq!(body(json!({"text": "A"})), Some(131_008));
        assert_eq!(body(json!({"type": "song"})), Some(100));
        assert_eq!(body(json!({"type": "image", "image": {}})), Some(131_008));
        assert_eq!(body(json!({"type": "coupon_code", "coupon_code": "1234567890123456"})), Some(131_009));
        assert_eq!(code(json!([{"type": "footer"}])), Some(100));
        assert_eq!(code(json!([{"type": "button", "index": "0"}])), Some(131_008));
        assert_eq!(code(json!([{"type": "button", "sub_type": "url"}])), Some(131_008));
        assert_eq!(code(json!([{"type": "button", "sub_type": "door", "index": "0"}])), Some(100));
        assert_eq!(code(json!([{"type": "carousel", "cards": []}])), Some(131_009));
        let in_card = json!([{"type": "carousel", "cards": [{"components": [
            {"type": "body", "parameters": [{"type": "text", "text": "two\nlines"}]},
        ]}]}]);
        assert_eq!(code(in_card), Some(132_018));
    }
}
