use std::io::Write;

use tempfile::NamedTempFile;

use super::*;
use crate::contacts::import::header::{Role, read_layout};
use crate::contacts::import::records::{CELL_BYTES_MAX, COLUMNS_MAX, Record, RecordReader};
use crate::contacts::import::text::Encoding;

fn listing(errors_listed_max: usize) -> ImportOptions {
    ImportOptions { errors_listed_max, ..ImportOptions::default() }
}

fn file(bytes: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn fault<T: std::fmt::Debug>(result: Result<T, ImportError>) -> FileFault {
    match result {
        Err(ImportError::File(fault)) => fault,
        other => panic!("no fault of the file but {other:?}"),
    }
}

fn checked(bytes: &[u8]) -> Result<Layout, ImportError> {
    let (sender, _pieces) = mpsc::channel(1);
    reading::check(file(bytes).path(), &sender)
}

/// The cells of all records, after the file was found good.
fn cells(bytes: &[u8]) -> Result<Vec<Vec<String>>, ImportError> {
    let layout = checked(bytes)?;
    let file = file(bytes);
    let mut reader = RecordReader::open(file.path(), layout.encoding, layout.delimiter)?;
    let mut record = Record::default();
    let mut all = Vec::new();
    while reader.read(&mut record)? {
        all.push((0..record.cells()).map(|column| record.cell(column).into_owned()).collect());
    }
    Ok(all)
}

/// The lines for the staging table, and what was rejected.
fn staged(bytes: &[u8]) -> (String, Tally) {
    let layout = checked(bytes).unwrap();
    let (sender, mut pieces) = mpsc::channel(100);
    let tally = reading::read(file(bytes).path(), &layout, &ImportOptions::default(), &sender).unwrap();
    drop(sender);
    let mut lines = Vec::new();
    while let Ok(piece) = pieces.try_recv() {
        lines.extend(piece.lines);
    }
    (String::from_utf8(lines).unwrap(), tally)
}

fn rejection(bytes: &[u8]) -> RowError {
    let (lines, tally) = staged(bytes);
    assert_eq!(lines, "", "nothing of a rejected row is staged");
    assert_eq!((tally.rows, tally.rejected), (1, 1));
    tally.errors.into_iter().next().unwrap()
}

fn utf16(text: &str, to_bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
    std::iter::once(0xFEFF).chain(text.encode_utf16()).flat_map(to_bytes).collect()
}

#[test]
fn every_encoding_gives_the_same_text() {
    let text = "phone,name\r\n9876543210,José Ünal\r\n";
    let windows: Vec<u8> = text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
    let expected = vec![vec!["phone", "name"], vec!["9876543210", "José Ünal"]];
    for bytes in [
        text.as_bytes().to_vec(),
        [b"\xEF\xBB\xBF", text.as_bytes()].concat(),
        utf16(text, u16::to_le_bytes),
        utf16(text, u16::to_be_bytes),
        windows,
    ] {
        assert_eq!(cells(&bytes).unwrap(), expected);
    }
}

#[test]
fn windows_1252_has_its_own_signs_between_128_and_159() {
    assert_eq!(cells(b"phone,price\n9876543210,\x80 5 \x96 6\n").unwrap()[1][1], "€ 5 – 6");
}

#[test]
fn a_character_may_lie_across_the_chunks_of_the_reader() {
    for shift in 0..4 {
        let names = "ணி".repeat(300);
        let rows = format!("9876543210,{names}\n").repeat(200);
        let text = format!("phone,{}\n{rows}", "n".repeat(shift + 1));
        assert!(text.len() > 3 * 64 * 1024);
        for bytes in [text.clone().into_bytes(), utf16(&text, u16::to_le_bytes)] {
            let all = cells(&bytes).unwrap();
            assert_eq!(all.len(), 201);
            assert!(all[1..].iter().all(|row| row[1] == names));
        }
    }
}

#[test]
fn bytes_that_no_encoding_has_are_a_fault_with_their_row() {
    let windows = b"phone,name\n9876543210,Jos\xE9\n\n9876543211,\x81\n";
    assert_eq!(fault(checked(windows)), FileFault::UnreadableEncoding { row: 3, encoding: "UTF-8 or Windows-1252" });
    let nul = b"phone,name\n9876543210,Jos\xE9\0\n";
    assert!(matches!(fault(checked(nul)), FileFault::UnreadableEncoding { row: 2, .. }));
    let marked = b"\xEF\xBB\xBFphone\n9876543210\n98\xE9\n";
    assert_eq!(fault(checked(marked)), FileFault::UnreadableEncoding { row: 3, encoding: "UTF-8" });
}

#[test]
fn broken_utf_16_is_a_fault() {
    let mut cut = utf16("phone\n9876543210\n9876543211", u16::to_le_bytes);
    cut.pop();
    assert_eq!(fault(checked(&cut)), FileFault::UnreadableEncoding { row: 3, encoding: "UTF-16" });
    let mut lone = utf16("phone,name\n9876543210,", u16::to_be_bytes);
    lone.extend([0xD8, 0x00, 0x00, 0x41]);
    assert!(matches!(fault(checked(&lone)), FileFault::UnreadableEncoding { row: 2, .. }));
}

#[test]
fn utf_16_without_its_mark_is_a_fault_and_not_a_header() {
    let bytes = utf16("phone,name\n9876543210,Asha\n", u16::to_le_bytes);
    let fault = fault(checked(&bytes[2..]));
    assert!(matches!(fault, FileFault::UnreadableEncoding { row: 1, .. }));
    assert!(fault.to_string().contains("CSV UTF-8"));
}

#[test]
fn the_delimiter_is_the_one_that_gives_a_phone_column() {
    for (header, delimiter, columns) in [
        ("phone,name", b',', 2),
        ("name;phone;city, state", b';', 3),
        ("name\tphone\tdue;date", b'\t', 3),
        ("a|b|c|phone", b'|', 4),
        ("\"name;and,more\"|phone", b'|', 2),
        ("phone", b',', 1),
    ] {
        let layout = read_layout(file(format!("{header}\n1\n").as_bytes()).path(), Encoding::Utf8).unwrap();
        assert_eq!((layout.delimiter, layout.columns.len()), (delimiter, columns), "{header}");
    }
}

#[test]
fn the_phone_column_has_several_names_and_phone_is_the_first_of_them() {
    for (header, expected) in [
        (" PHONE ,name", 0),
        ("Contact,Mobile", 1),
        ("name,Phone Number", 1),
        ("name,phone_number", 1),
        ("Mobile  Number,x", 0),
        ("whatsapp,phone", 1),
        ("Name,WhatsApp", 1),
        ("contact", 0),
    ] {
        let layout = read_layout(file(header.as_bytes()).path(), Encoding::Utf8).unwrap();
        let found = layout.columns.iter().position(|column| column.role == Role::Phone);
        assert_eq!(found, Some(expected), "{header}");
    }
}

#[test]
fn a_header_without_phone_names_what_it_has() {
    let fault = fault(checked("Name;Telefon;Città\nAsha;1;2\n".as_bytes()));
    assert_eq!(fault, FileFault::NoPhoneColumn { found: ["Name", "Telefon", "Città"].map(str::to_owned).to_vec() });
    assert!(fault.to_string().contains("`phone`") && fault.to_string().contains("`Telefon`"));
}

#[test]
fn columns_become_attributes_by_their_name() {
    let layout = checked(b"Phone, Due  Date ,AMOUNT,Segments,\n").unwrap();
    let roles: Vec<Role> = layout.columns.into_iter().map(|column| column.role).collect();
    let attribute = |name: &str| Role::Attribute(name.to_owned());
    assert_eq!(roles, [Role::Phone, attribute("due_date"), attribute("amount"), Role::Segments, Role::Unnamed]);
}

#[test]
fn one_name_for_two_columns_is_a_fault() {
    let twice = fault(checked(b"phone,Due Date,due_date\n"));
    assert_eq!(twice, FileFault::DuplicateColumn { name: "due_date".to_owned() });
    assert_eq!(fault(checked(b"phone,segment,Segments\n")), FileFault::TwoSegmentColumns);
}

#[test]
fn there_is_a_largest_number_of_columns() {
    let header = |columns: usize| {
        let names: Vec<String> = (1..columns).map(|n| format!("c{n}")).collect();
        format!("phone,{}\n", names.join(","))
    };
    assert_eq!(checked(header(COLUMNS_MAX).as_bytes()).unwrap().columns.len(), COLUMNS_MAX);
    assert_eq!(
        fault(checked(header(COLUMNS_MAX + 1).as_bytes())),
        FileFault::TooManyColumns { columns_max: COLUMNS_MAX }
    );
}

#[test]
fn a_file_without_a_header_is_empty() {
    for bytes in [b"".as_slice(), b"\xEF\xBB\xBF", b"\n\r\n  \n", b"\xFF\xFE"] {
        assert_eq!(fault(checked(bytes)), FileFault::Empty);
    }
}

#[test]
fn line_ends_and_blank_lines_do_not_matter() {
    let expected = vec![vec!["phone", "name"], vec!["1", "a"], vec!["2", ""], vec!["3", "c"]];
    for text in [
        "phone,name\n1,a\n2,\n3,c",
        "phone,name\r\n1,a\r\n2,\r\n3,c\r\n",
        "phone,name\r1,a\r2,\r3,c\r",
        "\n\nphone,name\r\n\r\n1,a\n   \n2,\n\n3,c\n\n",
    ] {
        assert_eq!(cells(text.as_bytes()).unwrap(), expected, "{text:?}");
    }
}

#[test]
fn quotes_hold_delimiters_line_ends_and_quotes() {
    let text = "phone,name,note\n1,\"Rao, Asha\",\"two\r\nlines\"\n2, \"5\"\" ring\" ,say \"hi\"\n\"\",\"\",\"\"\n";
    let expected = [vec!["1", "Rao, Asha", "two\r\nlines"], vec!["2", "5\" ring", "say \"hi\""], vec!["", "", ""]];
    assert_eq!(cells(text.as_bytes()).unwrap()[1..], expected);
}

#[test]
fn an_unclosed_quote_is_a_fault_with_the_row_where_it_opens() {
    let to_the_end = b"phone,name\n1,a\n\n2,\"b\n3,c\n4,d\n";
    assert_eq!(fault(checked(to_the_end)), FileFault::UnclosedQuote { row: 3 });
    // The next quoted cell closes it, but then text follows.
    let to_another = b"phone,name\n1,\"a\n2,\"b\"\n3,c\n";
    assert_eq!(fault(checked(to_another)), FileFault::UnclosedQuote { row: 2 });
    let in_the_header = b"phone,\"name\n1,a\n";
    assert_eq!(fault(checked(in_the_header)), FileFault::UnclosedQuote { row: 1 });
    let mut long = b"phone,name\n1,\"a".to_vec();
    long.extend(std::iter::repeat_n(b'x', 3 * CELL_BYTES_MAX));
    assert_eq!(fault(checked(&long)), FileFault::UnclosedQuote { row: 2 });
}

#[test]
fn text_after_a_closing_quote_rejects_its_row_alone() {
    let error = rejection(b"phone,name\n9876543210,\"Asha\" Rao\n");
    assert_eq!((error.row, error.column.as_deref()), (2, Some("name")));
    assert!(error.reason.contains("quote"), "{}", error.reason);
}

#[test]
fn a_long_cell_rejects_its_row_alone() {
    let row = |length: usize| format!("phone,Note\n9876543210,{}\n", "x".repeat(length)).into_bytes();
    assert_eq!(staged(&row(CELL_BYTES_MAX)).1.rejected, 0);
    let error = rejection(&row(CELL_BYTES_MAX + 1));
    assert_eq!((error.row, error.column.as_deref()), (2, Some("Note")));
    assert!(error.reason.contains("4096"), "{}", error.reason);
}

#[test]
fn more_cells_than_columns_reject_the_row_and_fewer_do_not() {
    let error = rejection(b"phone,name\n9876543210,Rao, Asha\n");
    assert_eq!((error.row, error.column.as_deref()), (2, None));
    assert!(error.reason.contains("3 cells") && error.reason.contains("2 columns"), "{}", error.reason);
    let (lines, tally) = staged(b"phone,name,city\n9876543210,Asha\n9876543211\n");
    assert_eq!(lines, "2\t+919876543210\t{\"name\":\"Asha\"}\t\\N\t\\N\n3\t+919876543211\t{}\t\\N\t\\N\n");
    assert_eq!((tally.rows, tally.rejected), (2, 0));
}

#[test]
fn a_value_without_a_column_name_rejects_the_row_and_an_empty_cell_does_not() {
    let error = rejection(b"phone,\n9876543210,lost\n");
    assert_eq!((error.row, error.column.as_deref()), (2, Some("column 2")));
    assert_eq!(staged(b"phone,,\n9876543210,,\n").1.rejected, 0);
}

#[test]
fn a_nul_character_rejects_its_row() {
    let error = rejection(b"phone,name\n9876543210,As\0ha\n");
    assert_eq!((error.row, error.column.as_deref()), (2, Some("name")));
}

#[test]
fn a_bad_number_rejects_its_row_under_the_name_that_the_file_uses() {
    let error = rejection(b"Mobile,name\n9.19877E+11,Asha\n");
    assert_eq!((error.row, error.column.as_deref()), (2, Some("Mobile")));
    assert!(error.reason.contains("spreadsheet"), "{}", error.reason);
    assert_eq!(rejection(b"phone,name\n,Asha\n").column.as_deref(), Some("phone"));
}

#[test]
fn segments_are_separated_trimmed_and_named_once() {
    let (lines, _) = staged("phone;segments\n9876543210;\" Gold |silver, Gold;;\"\n9876543211; ; \n".as_bytes());
    assert!(lines.starts_with("2\t+919876543210\t{}\t{\"Gold\",\"silver\"}\t\\N\n"), "{lines}");
    let name = |length: usize| format!("phone,segment\n9876543210,{}\n", "ா".repeat(length)).into_bytes();
    assert_eq!(staged(&name(100)).1.rejected, 0);
    let error = rejection(&name(101));
    assert_eq!((error.row, error.column.as_deref()), (2, Some("segment")));
}

#[test]
fn only_so_many_errors_are_listed() {
    let bytes = b"phone\n1\n2\n3\n9876543210\n5\n";
    let layout = checked(bytes).unwrap();
    let (sender, _pieces) = mpsc::channel(10);
    let tally = reading::read(file(bytes).path(), &layout, &listing(2), &sender).unwrap();
    assert_eq!((tally.rows, tally.rejected, tally.errors_omitted), (5, 4, 2));
    assert_eq!(tally.errors.iter().map(|error| error.row).collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn reading_ends_when_nobody_takes_the_rows() {
    let bytes = b"phone\n9876543210\n";
    let layout = checked(bytes).unwrap();
    let (sender, pieces) = mpsc::channel(1);
    drop(pieces);
    assert!(matches!(reading::read(file(bytes).path(), &layout, &listing(1), &sender), Err(ImportError::Io(_))));
}

#[test]
fn the_column_opt_in_says_yes_or_no_or_nothing() {
    for (cells, staged_as) in [
        (&["yes", "Y", "TRUE", "1", "हाँ", "હા", "ஆம்"][..], "t"),
        (&["no", "N", "False", "0", "नहीं", "ના", "இல்லை", "না"][..], "f"),
        (&["", " "][..], "\\N"),
    ] {
        for cell in cells {
            let (lines, _) = staged(format!("phone,Opt In\n9876543210,{cell}\n").as_bytes());
            assert_eq!(lines, format!("2\t+919876543210\t{{}}\t\\N\t{staged_as}\n"), "{cell}");
        }
    }
    for cell in ["perhaps", "2", "?"] {
        let error = rejection(format!("phone,opt_in\n9876543210,{cell}\n").as_bytes());
        assert_eq!((error.row, error.column.as_deref()), (2, Some("opt_in")));
        assert!(error.reason.contains("yes or no"), "{}", error.reason);
    }
}
