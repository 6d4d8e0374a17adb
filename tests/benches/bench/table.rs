//! The one table of all figures, aligned.

use crate::report::{Row, Target};

const HEADERS: [&str; 5] = ["key", "value", "compared with", "target", "met"];
/// The values are aligned at their right end.
const VALUE_COLUMN: usize = 1;

pub(crate) fn render(rows: &[Row]) -> String {
    let mut lines: Vec<[String; 5]> = vec![HEADERS.map(str::to_owned)];
    lines.extend(rows.iter().map(cells));
    let widths: Vec<usize> = (0..HEADERS.len())
        .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default())
        .collect();
    let mut text = String::new();
    for line in &lines {
        let cells = line.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if column == VALUE_COLUMN { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn cells(row: &Row) -> [String; 5] {
    let target = match row.target {
        Some(Target::AtLeast(bound)) => format!(">= {}", number(bound)),
        Some(Target::AtMost(bound)) => format!("<= {}", number(bound)),
        None => String::new(),
    };
    let met = row.met().map_or("", |met| if met { "yes" } else { "NO" });
    let value = format!("{} {}", number(row.value), row.unit);
    [row.key.clone(), value.trim_end().to_owned(), row.compared_with.clone(), target, met.to_owned()]
}

/// The whole number with its thousands apart; of a small one, three or four digits that mean something.
pub(crate) fn number(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 100.0 || size == 0.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 0.1 => 3,
        _ => 4,
    };
    let plain = format!("{value:.decimals$}");
    let (whole, rest) = plain.split_once('.').map_or((plain.as_str(), None), |(whole, rest)| (whole, Some(rest)));
    let digits = whole.trim_start_matches('-');
    let sign = &whole[..whole.len() - digits.len()];
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    // A bound such as 2 is no less exact than 2.00.
    let rest = rest.map(|rest| rest.trim_end_matches('0')).filter(|rest| !rest.is_empty());
    rest.map_or_else(|| format!("{sign}{grouped}"), |rest| format!("{sign}{grouped}.{rest}"))
}
