use infrastructure::contacts::{ImportError, read_file};
use serde_json::{Value, json};

use crate::shapes::CONTACTS;
use crate::{cases, compare};

#[test]
fn each_file_of_contacts_is_read() {
    compare(cases("contacts", "rows", CONTACTS).into_iter().map(|case| {
        let found = match read_file(&case.path, 100) {
            Ok(content) => {
                let lines = String::from_utf8(content.lines).expect("lines of UTF-8");
                json!({
                    "rows": content.rows, "rejected": content.rejected,
                    "lines": lines.lines().map(line).collect::<Value>(),
                })
            }
            Err(ImportError::File(fault)) => json!({"error": fault.to_string()}),
            Err(error) => panic!("{}: {error}", case.name),
        };
        (case, found)
    }));
}

/// The row, the phone, the attributes, the segments, whether it agreed: from the text form of `COPY`.
fn line(line: &str) -> Value {
    let fields: Vec<String> = line.split('\t').map(unescaped).collect();
    let [row, phone, attributes, segments, opt_in] = fields.as_slice() else { panic!("{line}") };
    let attributes: Value = serde_json::from_str(attributes).expect("attributes are JSON");
    // An array of Postgres in which every element is quoted is, but for its brackets, one of JSON.
    let segments = match segments.strip_prefix('{').and_then(|segments| segments.strip_suffix('}')) {
        Some(segments) => serde_json::from_str(&format!("[{segments}]")).expect("segments are quoted"),
        None => json!([]),
    };
    let opt_in = match opt_in.as_str() {
        "t" => Some(true),
        "f" => Some(false),
        _ => None,
    };
    json!([row.parse::<u64>().expect("a row"), phone, attributes, segments, opt_in])
}

fn unescaped(field: &str) -> String {
    let mut text = String::new();
    let mut signs = field.chars();
    while let Some(sign) = signs.next() {
        text.push(match (sign, sign == '\\') {
            (_, true) => match signs.next() {
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                Some(other) => other,
                None => panic!("{field}"),
            },
            (sign, false) => sign,
        });
    }
    text
}
