//! Phone numbers as people write them, and the one form in which they are kept.
//!
//! A spreadsheet's number is somebody's customer: a wrong guess sends a message to a stranger. So only forms with one
//! meaning are read, and everything else is refused with what to write instead. No reason ever repeats the number.

use std::fmt;

use thiserror::Error;

/// The longest international number.
const DIGITS_MAX: usize = 15;
/// The shortest number with a country code that is taken for one.
const DIGITS_MIN: usize = 8;
/// The digits of an Indian number without its country code.
const NATIONAL_DIGITS: usize = 10;
/// The digits after the E of a number that a spreadsheet shortened.
const EXPONENT_DIGITS_MAX: usize = 3;
const INDIA: &str = "91";
/// How an Indian number may begin before its last ten digits.
const INDIAN_PREFIXES: [&str; 5] = ["", "0", "91", "091", "0091"];

/// A number in the international form: `+`, country code, digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Phone(String);

impl Phone {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Phone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Masked, since debug output ends up in logs.
impl fmt::Debug for Phone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = self.0.get(..3).unwrap_or_default();
        let end = self.0.get(self.0.len().saturating_sub(2)..).unwrap_or_default();
        write!(f, "Phone({start}…{end})")
    }
}

/// Why a text is not a number that can be written to. The messages are for whoever keeps the contacts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PhoneError {
    /// There is no digit in it.
    #[error("there is no phone number; write a mobile number of 10 digits")]
    Empty,
    /// It has the form 9.19877E+11.
    #[error(
        "a spreadsheet rounded this number and its last digits are lost; format the column as text and enter the \
         number again"
    )]
    RoundedBySpreadsheet,
    /// It holds letters.
    #[error("a phone number has no letters; write the digits only and put names or notes in another column")]
    Letters,
    /// It holds two numbers.
    #[error("there is more than one number here; write one number in each row")]
    SeveralNumbers,
    /// It holds a sign that no form allows.
    #[error("{sign:?} does not belong in a phone number; write digits only, with + in front for another country")]
    UnexpectedSign { sign: char },
    /// A plus comes after a digit, or twice.
    #[error("a + may only stand once, in front of the whole number")]
    MisplacedPlus,
    /// It has fewer digits than any number.
    #[error("the number is too short: it has {digits} digits, a mobile number has 10; write all of them")]
    TooShort { digits: usize },
    /// It has more digits than any number.
    #[error("the number is too long: it has {digits} digits; write one mobile number of 10 digits")]
    TooLong { digits: usize },
    /// The digits before the last ten are not how an Indian number begins.
    #[error(
        "the digits before the last 10 are not 0, 91, 091 or 0091; write the 10 digits alone, or for another country \
         + and its code in front"
    )]
    UnknownPrefix,
    /// An Indian number that does not begin with 6 to 9.
    #[error("this looks like a landline: an Indian mobile number begins with 6, 7, 8 or 9; write a mobile number")]
    Landline,
    /// The number after `+91` does not have ten digits.
    #[error("after +91 there are {digits} digits instead of 10; write +91 and the 10 digits of the mobile number")]
    IndianLength { digits: usize },
    /// The country code begins with 0.
    #[error("after + comes the country code, which never begins with 0; write +91 and the 10 digits, for example")]
    CountryCode,
    /// A number with a country code has too few or too many digits.
    #[error("a number with + has 8 to 15 digits, this one has {digits}; write the country code and the whole number")]
    InternationalLength { digits: usize },
}

/// Reads a number in any of the usual ways of writing it.
pub fn normalize(raw: &str) -> Result<Phone, PhoneError> {
    let visible: String = raw.chars().filter(|c| !is_invisible(*c)).map(plain).collect();
    let text = visible.trim().trim_start_matches('\'').trim_start();
    if is_scientific(text) {
        return Err(PhoneError::RoundedBySpreadsheet);
    }
    let (plus, digits) = split(without_decimals(text))?;
    if digits.is_empty() {
        return Err(PhoneError::Empty);
    }
    if plus { international(&digits) } else { national(&digits) }
}

/// The digits, and whether a plus stands before them.
fn split(text: &str) -> Result<(bool, String), PhoneError> {
    if text.chars().any(char::is_alphabetic) {
        return Err(PhoneError::Letters);
    }
    let mut plus = false;
    let mut digits = String::new();
    for sign in text.chars() {
        match sign {
            '0'..='9' => digits.push(sign),
            '+' if plus || !digits.is_empty() => return Err(PhoneError::MisplacedPlus),
            '+' => plus = true,
            ' ' | '-' | '(' | ')' | '.' => {}
            ',' | ';' | '/' | '|' | '&' if holds_two_numbers(text, sign) => return Err(PhoneError::SeveralNumbers),
            _ => return Err(PhoneError::UnexpectedSign { sign }),
        }
    }
    Ok((plus, digits))
}

fn international(digits: &str) -> Result<Phone, PhoneError> {
    if let Some(rest) = digits.strip_prefix(INDIA) {
        if rest.len() != NATIONAL_DIGITS {
            return Err(PhoneError::IndianLength { digits: rest.len() });
        }
        return indian(rest);
    }
    if digits.starts_with('0') {
        return Err(PhoneError::CountryCode);
    }
    if !(DIGITS_MIN..=DIGITS_MAX).contains(&digits.len()) {
        return Err(PhoneError::InternationalLength { digits: digits.len() });
    }
    Ok(Phone(format!("+{digits}")))
}

fn national(digits: &str) -> Result<Phone, PhoneError> {
    let Some(prefix_len) = digits.len().checked_sub(NATIONAL_DIGITS) else {
        return Err(PhoneError::TooShort { digits: digits.len() });
    };
    if digits.len() > DIGITS_MAX {
        return Err(PhoneError::TooLong { digits: digits.len() });
    }
    let (prefix, rest) = digits.split_at(prefix_len);
    if !INDIAN_PREFIXES.contains(&prefix) {
        return Err(PhoneError::UnknownPrefix);
    }
    indian(rest)
}

fn indian(rest: &str) -> Result<Phone, PhoneError> {
    if rest.starts_with(['6', '7', '8', '9']) {
        Ok(Phone(format!("+{INDIA}{rest}")))
    } else {
        Err(PhoneError::Landline)
    }
}

/// Whether both sides of a sign hold enough digits for a number.
fn holds_two_numbers(text: &str, sign: char) -> bool {
    text.split(sign).filter(|part| part.bytes().filter(u8::is_ascii_digit).count() >= DIGITS_MIN).count() > 1
}

/// `9.19877E+11`: what a spreadsheet shows in place of a long number.
fn is_scientific(text: &str) -> bool {
    let Some((mantissa, exponent)) = text.split_once(['e', 'E']) else { return false };
    let mantissa = mantissa.strip_prefix('+').unwrap_or(mantissa);
    let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    let (whole, fraction) = mantissa.split_once(['.', ',']).unwrap_or((mantissa, "0"));
    exponent.len() <= EXPONENT_DIGITS_MAX && [whole, fraction, exponent].into_iter().all(is_digits)
}

/// Drops the `.0` or `.00` of a number that a spreadsheet wrote out as text.
fn without_decimals(text: &str) -> &str {
    match text.rsplit_once('.') {
        Some((whole, "0" | "00")) if is_digits(whole.strip_prefix('+').unwrap_or(whole)) => whole,
        _ => text,
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Signs without width that copying from a web page or a chat leaves behind: soft hyphen, zero-width and direction
/// marks, byte order mark, variation selectors.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
    )
}

/// The plain form of a sign that has several: spaces, dashes, apostrophes, and the decimal digits of Indian scripts.
fn plain(c: char) -> char {
    /// The zeros of the scripts in which a number may be typed; their digits follow in order.
    const ZEROS: [char; 13] = [
        '\u{660}', '\u{6f0}', '\u{966}', '\u{9e6}', '\u{a66}', '\u{ae6}', '\u{b66}', '\u{be6}', '\u{c66}', '\u{ce6}',
        '\u{d66}', '\u{1c50}', '\u{ff10}',
    ];
    match c {
        _ if c.is_whitespace() => ' ',
        '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{fe58}' | '\u{fe63}' | '\u{ff0d}' => '-',
        '\u{2018}' | '\u{2019}' | '\u{2bc}' | '`' => '\'',
        '\u{ff0b}' => '+',
        '\u{ff08}' => '(',
        '\u{ff09}' => ')',
        _ => ZEROS
            .iter()
            .find_map(|zero| char::from_digit(u32::from(c).checked_sub(u32::from(*zero)).filter(|d| *d < 10)?, 10))
            .unwrap_or(c),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_usual_way_of_writing_a_mobile_number_gives_the_same() {
        let ways = [
            "9812345678",
            "09812345678",
            "919812345678",
            "0919812345678",
            "00919812345678",
            "+919812345678",
            "+91 98123 45678",
            "+91-98123-45678",
            "(+91) 98123 45678",
            "+ 91 (98123) 45678",
            "98123.45678",
            "98.1234.5678",
            "  9812345678\t",
            "'9812345678",
            "’+91 9812345678",
            "' 9812345678",
            "9812345678.0",
            "919812345678.0",
            "919812345678.00",
            "+919812345678.0",
            "98123\u{a0}45678",
            "\u{feff}9812345678\u{200b}",
            "\u{202a}+91 98123 45678\u{202c}",
            "98123\u{2013}45678",
            "\u{ff0b}91 9812345678",
            "९८१२३४५६७८",
            "+९१ ९८१२३ ४५६७८",
            "૯૮૧૨૩૪૫૬૭૮",
            "௯௮௧௨௩௪௫௬௭௮",
            "৯৮১২৩৪৫৬৭৮",
            "98123४५६७८",
        ];
        for way in ways {
            assert_eq!(normalize(way).map(|phone| phone.to_string()), Ok("+919812345678".to_owned()), "{way:?}");
        }
    }

    #[test]
    fn other_numbers_that_are_kept() {
        let cases = [
            ("9123456780", "+919123456780"),
            ("9198765432", "+919198765432"),
            ("6000000000", "+916000000000"),
            ("+1 (415) 555-2671", "+14155552671"),
            ("+971 50 123 4567", "+971501234567"),
            ("+44 20 7946 0958", "+442079460958"),
            ("+12345678", "+12345678"),
            ("+123456789012345", "+123456789012345"),
        ];
        for (raw, expected) in cases {
            assert_eq!(normalize(raw).map(|phone| phone.to_string()), Ok(expected.to_owned()), "{raw:?}");
        }
    }

    const REFUSED: [(&str, PhoneError); 44] = [
        ("", PhoneError::Empty),
        ("   ", PhoneError::Empty),
        ("\u{200b}", PhoneError::Empty),
        ("'", PhoneError::Empty),
        ("-", PhoneError::Empty),
        ("+", PhoneError::Empty),
        ("9.19877E+11", PhoneError::RoundedBySpreadsheet),
        ("9.2E+09", PhoneError::RoundedBySpreadsheet),
        ("9,19877E+11", PhoneError::RoundedBySpreadsheet),
        ("9.19877e11", PhoneError::RoundedBySpreadsheet),
        ("9E+11", PhoneError::RoundedBySpreadsheet),
        ("98123E5678", PhoneError::Letters),
        ("Ramesh", PhoneError::Letters),
        ("N/A", PhoneError::Letters),
        ("98123 4567O", PhoneError::Letters),
        ("tel:+919812345678", PhoneError::Letters),
        ("रमेश", PhoneError::Letters),
        ("9812345678 / 9876543210", PhoneError::SeveralNumbers),
        ("9812345678,9876543210", PhoneError::SeveralNumbers),
        ("98123,45678", PhoneError::UnexpectedSign { sign: ',' }),
        ("98123#45678", PhoneError::UnexpectedSign { sign: '#' }),
        ("98123'45678", PhoneError::UnexpectedSign { sign: '\'' }),
        ("########", PhoneError::UnexpectedSign { sign: '#' }),
        ("++919812345678", PhoneError::MisplacedPlus),
        ("98123+45678", PhoneError::MisplacedPlus),
        ("919812345678+", PhoneError::MisplacedPlus),
        ("981234567", PhoneError::TooShort { digits: 9 }),
        ("98123456.00", PhoneError::TooShort { digits: 8 }),
        ("9812345678987654", PhoneError::TooLong { digits: 16 }),
        ("9812345678 9876543210", PhoneError::TooLong { digits: 20 }),
        ("19812345678", PhoneError::UnknownPrefix),
        ("00971501234567", PhoneError::UnknownPrefix),
        ("929812345678", PhoneError::UnknownPrefix),
        ("981234567890123", PhoneError::UnknownPrefix),
        ("2266778899", PhoneError::Landline),
        ("02266778899", PhoneError::Landline),
        ("912266778899", PhoneError::Landline),
        ("00912266778899", PhoneError::Landline),
        ("+91 22 6677 8899", PhoneError::Landline),
        ("+91 981234567", PhoneError::IndianLength { digits: 9 }),
        ("+91 (0) 98123 45678", PhoneError::IndianLength { digits: 11 }),
        ("+09812345678", PhoneError::CountryCode),
        ("+1234567", PhoneError::InternationalLength { digits: 7 }),
        ("+1234567890123456", PhoneError::InternationalLength { digits: 16 }),
    ];

    #[test]
    fn what_is_no_number_is_refused_with_its_own_reason() {
        for (raw, expected) in REFUSED {
            assert_eq!(normalize(raw), Err(expected), "{raw:?}");
        }
    }

    #[test]
    fn no_reason_repeats_the_number() {
        for (raw, error) in REFUSED {
            let digits: String = raw.chars().filter(char::is_ascii_digit).collect();
            let message = error.to_string();
            assert!(digits.len() < 5 || !message.contains(&digits[digits.len() - 5..]), "{message}");
        }
    }

    #[test]
    fn debug_output_hides_the_number() {
        let phone = normalize("9812345621").expect("a mobile number");
        assert_eq!(format!("{phone:?}"), "Phone(+91…21)");
    }

    proptest! {
        #[test]
        fn any_text_is_answered_and_a_kept_number_stays_as_it_is(raw in "[ +0-9().eE'/\u{a0}-]{0,20}|\\PC{0,20}") {
            if let Ok(phone) = normalize(&raw) {
                prop_assert!(phone.as_str().starts_with('+'));
                prop_assert!(phone.as_str()[1..].bytes().all(|byte| byte.is_ascii_digit()));
                prop_assert_eq!(normalize(phone.as_str()), Ok(phone));
            }
        }

        #[test]
        fn ten_digits_from_six_up_are_always_a_mobile_number(number in 6_000_000_000_u64..=9_999_999_999) {
            prop_assert_eq!(normalize(&number.to_string()).map(|phone| phone.to_string()), Ok(format!("+91{number}")));
        }
    }
}
