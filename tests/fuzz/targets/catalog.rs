use infrastructure::whatsapp::catalog::parse_page;
use serde_json::Value;

use super::{promise, without_nul};
use crate::seeds;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    seeds::files("catalog", ".page.json")
}

pub(super) fn check(body: &[u8]) -> Result<String, String> {
    // What is no page is read as a refusal, too.
    let refusal = parse_page(400, body).err().ok_or("a refusal is read as a page")?;
    let page = match parse_page(200, body) {
        Ok(page) => page,
        Err(error) => return Ok(format!("{error} {refusal}")),
    };
    promise(parse_page(200, body).is_ok_and(|again| again == page), "the same page is read in two ways")?;
    // What nobody asks for need not be JSON to its last byte.
    if let Ok(body) = serde_json::from_slice::<Value>(body) {
        let entries = body["data"].as_array().map(Vec::len);
        promise(entries == Some(page.templates.len() + page.unreadable), "an entry of the page is lost")?;
    }
    for template in &page.templates {
        let labels = [&template.status, &template.category];
        for label in labels.into_iter().chain(&template.quality_score) {
            let is_label = label.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
            promise(is_label && (1..=64).contains(&label.len()), "a label is not in capitals, empty or too long")?;
        }
        for text in [&template.name, &template.language].into_iter().chain(&template.provider_id) {
            without_nul(text, "a template")?;
            promise(!text.is_empty(), "a text of a template is empty")?;
        }
        promise(template.components.is_array(), "components are no list")?;
    }
    let (templates, unreadable) = (page.templates.len().min(3), page.unreadable.min(3));
    Ok(format!("{templates} templates, {unreadable} unreadable, {}", page.next.is_some()))
}
