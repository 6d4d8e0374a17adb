use std::sync::LazyLock;

use api::config::Config;
use domain::consent::{Keywords, normal_form};

use super::promise;
use crate::seeds;

/// Those that hold without configuration.
static KEYWORDS: LazyLock<Keywords> =
    LazyLock::new(|| Config::default().consent.keywords().expect("the compiled-in words agree"));

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let consent = Config::default().consent;
    let lists = [&consent.opt_out_words, &consent.stop_words, &consent.start_words];
    let words = lists.into_iter().flat_map(|list| list.split(',')).map(|word| word.trim().as_bytes().to_vec());
    words.chain(seeds::texts(&["please do not stop", "Stop!!! 🙏🏽", "Don\u{2019}t send", ""])).collect()
}

pub(super) fn check(text: &[u8]) -> Result<String, String> {
    let text = String::from_utf8_lossy(text);
    let found = KEYWORDS.find(&text);
    let form = normal_form(&text);
    promise(normal_form(&form) == form, "a normal form has another one")?;
    if text.chars().count() < 100 {
        for decorated in [format!("{text}!"), format!(" {text}"), format!("*{text}*")] {
            promise(KEYWORDS.find(&decorated) == found, "punctuation makes another word of a text")?;
        }
    }
    // A list of an operator that nobody else has.
    let list = Keywords::parse("", &text, "");
    if let (Ok(list), false) = (&list, text.contains(',') || form.is_empty()) {
        promise(list.find(text.trim()).is_some(), "a word of a list is not found")?;
    }
    Ok(format!("{found:?} {}", list.is_ok()))
}
