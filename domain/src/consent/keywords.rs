//! The words by which a contact stops messages and lets them come again.
//!
//! A word counts only as the whole message: "please do not stop" is no stop. How it is written does not matter: case,
//! punctuation, emoji, spaces and the several ways in which Unicode spells the same letter are all the same.

use std::collections::HashMap;

use thiserror::Error;
use unicode_normalization::UnicodeNormalization as _;

/// Longer texts are no keyword and are not looked at.
const TEXT_CHARS_MAX: usize = 100;

/// What a keyword asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Word {
    /// No messages at all.
    OptOut,
    /// No offers.
    StopMarketing,
    /// Messages again.
    ResumeMarketing,
}

/// The keywords of an installation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keywords(HashMap<String, Word>);

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeywordFault {
    /// Nothing is left of it but punctuation.
    #[error("{0:?} has no letter or digit")]
    Empty(String),
    /// It is longer than any message that is looked at.
    #[error("{0:?} is longer than {TEXT_CHARS_MAX} characters")]
    TooLong(String),
    /// It stands in two lists that ask for different things.
    #[error("{0:?} stands in two lists")]
    Ambiguous(String),
}

impl Keywords {
    /// From lists with commas between the words.
    pub fn parse(opt_out: &str, stop: &str, resume: &str) -> Result<Self, KeywordFault> {
        let mut words = HashMap::new();
        for (list, word) in [(opt_out, Word::OptOut), (stop, Word::StopMarketing), (resume, Word::ResumeMarketing)] {
            for text in list.split(',').map(str::trim).filter(|text| !text.is_empty()) {
                if text.chars().count() > TEXT_CHARS_MAX {
                    return Err(KeywordFault::TooLong(text.to_owned()));
                }
                let form = normal_form(text);
                if form.is_empty() {
                    return Err(KeywordFault::Empty(text.to_owned()));
                }
                if words.insert(form, word).is_some_and(|other| other != word) {
                    return Err(KeywordFault::Ambiguous(text.to_owned()));
                }
            }
        }
        Ok(Self(words))
    }

    /// What this text asks for, if it is a keyword and nothing else.
    pub fn find(&self, text: &str) -> Option<Word> {
        if text.chars().nth(TEXT_CHARS_MAX).is_some() {
            return None;
        }
        self.0.get(&normal_form(text)).copied()
    }
}

/// Two texts that read the same have the same normal form.
pub fn normal_form(text: &str) -> String {
    let mut form = String::with_capacity(text.len());
    let mut gap = false;
    for char in text.nfkc().flat_map(char::to_lowercase).nfkc() {
        if is_part_of_word(char) {
            if gap && !form.is_empty() {
                form.push(' ');
            }
            gap = false;
            form.push(char);
        } else if !joins(char) {
            gap = true;
        }
    }
    form
}

/// Letters, digits, and the signs of Indian scripts that no letter can do without (Rust counts the virama and the nukta
/// as neither).
fn is_part_of_word(char: char) -> bool {
    let is_indic_punctuation = matches!(char, '\u{964}' | '\u{965}' | '\u{970}');
    char.is_alphanumeric() || (('\u{900}'..='\u{dff}').contains(&char) && !is_indic_punctuation)
}

/// What stands inside a word without being part of it: apostrophes, and the marks that tell a font how to join letters or
/// how to draw an emoji.
fn joins(char: char) -> bool {
    matches!(char, '\'' | '\u{2019}' | '\u{ad}' | '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keywords() -> Keywords {
        Keywords::parse("STOP ALL, सब बंद करें", "Stop, don't send, Stop promotions, বন্ধ করো, நிறுத்துங்கள்", "start, शुरू करें")
            .unwrap()
    }

    #[test]
    fn a_keyword_counts_however_it_is_written() {
        for (text, word) in [
            ("STOP", Word::StopMarketing),
            (" stop. ", Word::StopMarketing),
            ("Stop!!! 🙏🏽", Word::StopMarketing),
            ("\u{ff33}\u{ff34}\u{ff2f}\u{ff30}", Word::StopMarketing),
            ("STOP\u{200b}", Word::StopMarketing),
            ("*stop*", Word::StopMarketing),
            ("stop\npromotions", Word::StopMarketing),
            ("dont send", Word::StopMarketing),
            ("Don\u{2019}t send", Word::StopMarketing),
            ("stop  all", Word::OptOut),
            ("Stop-All", Word::OptOut),
            ("सब बंद करें।", Word::OptOut),
            ("शुरू करें", Word::ResumeMarketing),
            // The vowel sign in one piece and in two.
            ("বন্ধ কর\u{9cb}", Word::StopMarketing),
            ("বন্ধ কর\u{9c7}\u{9be}", Word::StopMarketing),
            ("\u{200e}start", Word::ResumeMarketing),
        ] {
            assert_eq!(keywords().find(text), Some(word), "{text:?}");
        }
    }

    #[test]
    fn a_keyword_inside_a_message_is_none() {
        for text in ["", "!", "please do not stop", "stopp", "stop it all", "the start", "बंद", &"stop ".repeat(30)]
        {
            assert_eq!(keywords().find(text), None, "{text:?}");
        }
        // The virama is part of the word: without it this is another one.
        assert_eq!(keywords().find("বনধ করো"), None);
    }

    #[test]
    fn lists_that_cannot_be_meant_are_refused() {
        assert_eq!(Keywords::parse("Stop", "STOP!", ""), Err(KeywordFault::Ambiguous("STOP!".to_owned())));
        assert_eq!(Keywords::parse("", "stop, ?", ""), Err(KeywordFault::Empty("?".to_owned())));
        let long = "a".repeat(TEXT_CHARS_MAX + 1);
        assert_eq!(Keywords::parse("", "", &long), Err(KeywordFault::TooLong(long)));
        assert!(Keywords::parse("", "stop,, stop!", "").is_ok(), "the same twice is no contradiction");
    }
}
