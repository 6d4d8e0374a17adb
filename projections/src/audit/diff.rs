//! What differs between two states, field by field.

use serde::Serialize;
use serde_json::Value;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// The names of the fields on the way, with dots between them.
    pub path: String,
    /// Null where there was nothing.
    pub before: Value,
    pub after: Value,
}

/// In the order of their paths.
pub fn changes(before: &Value, after: &Value) -> Vec<Change> {
    let mut found = Vec::new();
    compare("", before, after, &mut found);
    found
}

fn compare(path: &str, before: &Value, after: &Value, found: &mut Vec<Change>) {
    if before == after {
        return;
    }
    let (Some(old), Some(new)) = (before.as_object(), after.as_object()) else {
        found.push(Change { path: path.to_owned(), before: before.clone(), after: after.clone() });
        return;
    };
    let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let deeper = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let of = |fields: &serde_json::Map<String, Value>| fields.get(name).cloned().unwrap_or(Value::Null);
        compare(&deeper, &of(old), &of(new), found);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn changes_are_named_by_their_fields() {
        let before = json!({"status": "running", "counts": {"sent": 1, "read": 0}, "gone": [1]});
        let after = json!({"status": "paused", "counts": {"sent": 1, "read": 2}, "new": null});
        let found = changes(&before, &after);
        let paths: Vec<&str> = found.iter().map(|change| change.path.as_str()).collect();
        assert_eq!(paths, ["counts.read", "gone", "status"]);
        assert_eq!((&found[0].before, &found[0].after), (&json!(0), &json!(2)));
        assert_eq!(found[1].after, Value::Null);
        assert_eq!(changes(&after, &after), []);
    }
}
