use domain::phone::normalize;

use super::promise;
use crate::seeds;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    seeds::texts(&[
        "9999900001",
        "09999900001",
        "919999900001",
        "+91 99999-00001",
        "00919999900001",
        "091 99999 00001",
        "(+91) 99999.00001",
        "९९९९९००००१",
        "\u{202a}+919999900001\u{202c}",
        "'9999900001",
        "9999900001.0",
        "9.19999E+11",
        "+1 (555) 010-0100",
        "+442079460000",
        "02212345678",
        "9999900001 / 9999900002",
        "9999900001,",
        "98x",
        "+",
        "",
    ])
}

pub(super) fn check(raw: &[u8]) -> Result<String, String> {
    let raw = String::from_utf8_lossy(raw);
    match normalize(&raw) {
        Ok(phone) => {
            promise(is_phone(phone.as_str()), "a phone has not the international form")?;
            promise(normalize(phone.as_str()).as_ref() == Ok(&phone), "a phone is another one when it is read again")?;
            promise(longest_number(&format!("{phone:?}")) <= 2, "debug output shows a phone")?;
            Ok(format!("{} digits, +{}", phone.as_str().len(), &phone.as_str()[1..2]))
        }
        Err(error) => {
            // The code of a sign that cannot be printed has six digits at most, a number more.
            promise(longest_number(&error.to_string()) <= 6, "a reason repeats the number")?;
            Ok(format!("{error:?}").split([' ', '{']).next().unwrap_or_default().to_owned())
        }
    }
}

/// A plus and 7 to 15 digits, of which the first is not 0.
pub(super) fn is_phone(text: &str) -> bool {
    text.strip_prefix('+').is_some_and(|digits| {
        (7..=15).contains(&digits.len()) && !digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit())
    })
}

fn longest_number(text: &str) -> usize {
    text.split(|sign: char| !sign.is_numeric()).map(|digits| digits.chars().count()).max().unwrap_or(0)
}
