//! Aligned columns without lines around them.

use comfy_table::{Attribute, Cell, CellAlignment, ContentArrangement, presets};

use super::Style;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// For texts.
    Left,
    /// For numbers.
    Right,
}

#[derive(Debug)]
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(columns: impl IntoIterator<Item = (&'static str, Align)>) -> Self {
        Self { columns: columns.into_iter().collect(), rows: Vec::new() }
    }

    /// Names with their values; it has no header.
    pub fn of_fields() -> Self {
        Self::new([("", Align::Left), ("", Align::Left)])
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    pub fn field(&mut self, name: &str, value: impl Into<String>) {
        self.row([name.to_owned(), value.into()]);
    }

    pub(super) fn render(&self, style: Style) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING);
        if style.color {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        if style.terminal {
            table.set_content_arrangement(ContentArrangement::Dynamic);
        }
        if self.columns.iter().any(|(name, _)| !name.is_empty()) {
            table.set_header(self.columns.iter().map(|(name, _)| Cell::new(name).add_attribute(Attribute::Bold)));
        }
        table.add_rows(self.rows.iter().map(|row| row.iter().map(Cell::new).collect::<Vec<_>>()));
        for (column, (_, align)) in table.column_iter_mut().zip(&self.columns) {
            column.set_padding((0, 2));
            column.set_cell_alignment(match align {
                Align::Left => CellAlignment::Left,
                Align::Right => CellAlignment::Right,
            });
        }
        table.trim_fmt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_stand_left_and_numbers_right() {
        let mut table = Table::new([("name", Align::Left), ("lag", Align::Right), ("note", Align::Left)]);
        table.row(["runs", "7", "a"]);
        table.row(["messages", "12,345", ""]);
        let expected = "name         lag  note\nruns           7  a\nmessages  12,345";
        assert_eq!(table.render(Style::default()), expected);
    }

    #[test]
    fn fields_have_no_header() {
        let mut table = Table::of_fields();
        table.field("rows", "1,012");
        table.field("duplicate", "0");
        assert_eq!(table.render(Style::default()), "rows       1,012\nduplicate  0");
    }
}
