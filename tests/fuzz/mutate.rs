//! Inputs that are nearly right: a seed with a few of its parts changed, cut, repeated or moved.

use serde_json::{Map, Number, Value};

use crate::dice::Dice;
use crate::seeds::Seed;

/// Longer inputs are cut: they cost time and show nothing new.
const INPUT_BYTES_MAX: usize = 48 * 1024;
const CHANGES_MAX: usize = 6;

/// What texts are spoilt with.
const PIECES: [&str; 34] = [
    "\0",
    "\n",
    "\r\n",
    "\t",
    "     ",
    " ",
    "\u{200b}",
    "\u{200d}",
    "\u{feff}",
    "\u{202e}",
    "\u{2028}",
    "\u{a0}",
    "\u{301}",
    "\u{94d}",
    "\u{fe0f}",
    "\u{1f64f}\u{1f3fd}",
    "\u{10ffff}",
    "İ",
    "ß",
    "ﬁ",
    "９",
    "१",
    "{{1}}",
    "{{2}}",
    "{{name}}",
    "{{",
    "}}",
    "\"",
    "\\",
    "\\ud83d",
    "+91",
    "-",
    "%00",
    "https://",
];
const NUMBERS: [i64; 14] = [
    0,
    1,
    -1,
    9,
    128,
    65_535,
    131_026,
    131_056,
    2_147_483_648,
    -2_147_483_649,
    1_739_321_024,
    1_739_321_024_000,
    i64::MAX,
    i64::MIN,
];
const BYTES: [u8; 14] = [0, b'\n', b'\t', b'"', b'\\', b'{', b'}', b'[', b',', b':', 0x7f, 0x80, 0xed, 0xff];

/// A seed, changed.
pub(crate) fn mutated(dice: &mut Dice, seeds: &[Seed]) -> Vec<u8> {
    let seed = dice.pick(seeds);
    let mut input = match &seed.json {
        Some(json) if !dice.one_in(8) => {
            let mut json = json.clone();
            for _ in 0..=dice.below(CHANGES_MAX) {
                change_json(dice, &mut json, seeds);
            }
            [seed.head.as_slice(), &written(dice, &json)].concat()
        }
        _ => seed.bytes(),
    };
    let is_text = seed.json.is_none();
    if is_text || dice.one_in(6) {
        for _ in 0..=dice.below(CHANGES_MAX) {
            change_bytes(dice, &mut input, seeds);
        }
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

/// Compact, with line ends, or in ASCII as Meta writes it.
fn written(dice: &mut Dice, json: &Value) -> Vec<u8> {
    match dice.below(4) {
        0 => format!("{json:#}").into_bytes(),
        1 => {
            let mut ascii = String::new();
            let mut units = [0; 2];
            for sign in json.to_string().chars() {
                if sign.is_ascii() {
                    ascii.push(sign);
                } else {
                    let units = sign.encode_utf16(&mut units).iter();
                    units.for_each(|unit| ascii.push_str(&format!("\\u{unit:04x}")));
                }
            }
            ascii.into_bytes()
        }
        _ => json.to_string().into_bytes(),
    }
}

fn change_json(dice: &mut Dice, json: &mut Value, seeds: &[Seed]) {
    let place = dice.below(count(json));
    let Some(node) = nth(json, place) else { return };
    match (dice.below(9), &mut *node) {
        (0, _) => *node = value(dice),
        (1, _) => *node = foreign_node(dice, seeds),
        (2, _) => *node = Value::Array(vec![node.take()]),
        (3, _) => *node = Value::Object(Map::from_iter([(key(dice), node.take())])),
        (4, Value::Number(number)) => *node = Value::String(number.to_string()),
        (4, Value::String(text)) => *node = text.parse::<i64>().map_or(Value::Null, Value::from),
        (_, Value::String(text)) => change_text(dice, text),
        (_, Value::Number(_)) => *node = number(dice),
        (_, Value::Object(fields)) => change_object(dice, fields, seeds),
        (_, Value::Array(items)) => change_array(dice, items, seeds),
        (_, Value::Null | Value::Bool(_)) => *node = value(dice),
    }
}

fn change_object(dice: &mut Dice, fields: &mut Map<String, Value>, seeds: &[Seed]) {
    if fields.is_empty() || dice.one_in(4) {
        fields.insert(key(dice), foreign_node(dice, seeds));
        return;
    }
    let names: Vec<String> = fields.keys().cloned().collect();
    let name = dice.pick(&names).clone();
    let taken = fields.remove(&name);
    match dice.below(3) {
        0 => {}
        1 => drop(fields.insert(key(dice), taken.unwrap_or_default())),
        _ => {
            // Two fields change their values.
            let other = dice.pick(&names).clone();
            let value = fields.insert(other, taken.unwrap_or_default());
            fields.insert(name, value.unwrap_or_default());
        }
    }
}

fn change_array(dice: &mut Dice, items: &mut Vec<Value>, seeds: &[Seed]) {
    if items.is_empty() || dice.one_in(4) {
        items.push(foreign_node(dice, seeds));
        return;
    }
    let (one, other) = (dice.below(items.len()), dice.below(items.len()));
    match dice.below(4) {
        0 => drop(items.remove(one)),
        1 => items.swap(one, other),
        2 => items.insert(other, items[one].clone()),
        _ => {
            let item = items[one].clone();
            items.extend(std::iter::repeat_n(item, 1 + dice.below(12)));
        }
    }
}

pub(crate) fn change_text(dice: &mut Dice, text: &mut String) {
    let places: Vec<usize> = text.char_indices().map(|(place, _)| place).chain([text.len()]).collect();
    let (start, end) = (*dice.pick(&places), *dice.pick(&places));
    let (start, end) = (start.min(end), start.max(end));
    match dice.below(6) {
        0 => drop(text.drain(start..end)),
        1 => *text = text[start..end].repeat(1 + dice.below(60)),
        2 => *text = if dice.one_in(2) { text.to_uppercase() } else { text.to_lowercase() },
        _ => text.insert_str(start, dice.pick::<&str>(&PIECES)),
    }
}

fn change_bytes(dice: &mut Dice, input: &mut Vec<u8>, seeds: &[Seed]) {
    let (start, end) = (dice.below(input.len() + 1), dice.below(input.len() + 1));
    let (start, end) = (start.min(end), start.max(end));
    match dice.below(8) {
        0 => drop(input.drain(start..end.min(start + 64))),
        1 => input.truncate(end),
        2 => {
            let repeated = input[start..end.min(start + 256)].repeat(1 + dice.below(8));
            input.splice(start..start, repeated);
        }
        3 => {
            let other = dice.pick(seeds).bytes();
            let from = dice.below(other.len() + 1);
            input.splice(start.., other[from..].iter().copied());
        }
        4 if start < input.len() => input[start] = *dice.pick(&BYTES),
        5 if start < input.len() => input[start] ^= 1 << dice.below(8),
        6 => drop(input.splice(start..start, number(dice).to_string().into_bytes())),
        _ => drop(input.splice(start..start, dice.pick(&PIECES).bytes())),
    }
}

fn value(dice: &mut Dice) -> Value {
    match dice.below(8) {
        0 => Value::Null,
        1 => Value::Bool(dice.one_in(2)),
        2 => number(dice),
        3 => Value::String(number(dice).to_string()),
        4 => Value::Array(Vec::new()),
        5 => Value::Object(Map::new()),
        6 => Value::String(dice.pick(&PIECES).repeat(1 + dice.below(1200))),
        _ => Value::String(String::new()),
    }
}

fn number(dice: &mut Dice) -> Value {
    match dice.below(4) {
        0 => Number::from_f64([0.5, -1e18, 1.7e308, 5e-324][dice.below(4)]).map_or(Value::Null, Value::Number),
        1 => dice.next().into(),
        _ => (*dice.pick(&NUMBERS)).into(),
    }
}

fn key(dice: &mut Dice) -> String {
    const KEYS: [&str; 24] = [
        "id",
        "type",
        "text",
        "entry",
        "changes",
        "value",
        "field",
        "statuses",
        "messages",
        "user_preferences",
        "contacts",
        "errors",
        "code",
        "timestamp",
        "metadata",
        "phone_number_id",
        "event",
        "message_template_name",
        "components",
        "format",
        "cards",
        "buttons",
        "url",
        "\0",
    ];
    (*dice.pick(&KEYS)).to_owned()
}

/// A part of another seed.
fn foreign_node(dice: &mut Dice, seeds: &[Seed]) -> Value {
    let Some(mut node) = dice.pick(seeds).json.as_ref() else { return Value::Null };
    while !dice.one_in(6) {
        let children: Vec<&Value> = match node {
            Value::Array(items) => items.iter().collect(),
            Value::Object(fields) => fields.values().collect(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => break,
        };
        if children.is_empty() {
            break;
        }
        node = children[dice.below(children.len())];
    }
    node.clone()
}

fn count(json: &Value) -> usize {
    1 + match json {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(fields) => fields.values().map(count).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// The node at this place, counted from the root downwards.
fn nth(json: &mut Value, place: usize) -> Option<&mut Value> {
    if place == 0 {
        return Some(json);
    }
    let mut left = place - 1;
    let children: Vec<&mut Value> = match json {
        Value::Array(items) => items.iter_mut().collect(),
        Value::Object(fields) => fields.values_mut().collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    };
    for child in children {
        let size = count(child);
        if left < size {
            return nth(child, left);
        }
        left -= size;
    }
    None
}
