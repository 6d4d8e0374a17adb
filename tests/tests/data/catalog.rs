use infrastructure::whatsapp::catalog::{CatalogError, CatalogPage, parse_page};
use serde_json::{Value, json};

use crate::shapes::CATALOG;
use crate::{cases, compare, object};

#[test]
fn each_page_of_templates_is_read() {
    compare(cases("catalog", "page", CATALOG).into_iter().map(|case| {
        let found = match parse_page(200, &case.payload) {
            Ok(page) => rendered(&page),
            Err(CatalogError::Unreadable { http_status: 200 }) => json!({"error": "unreadable"}),
            Err(error) => panic!("{}: {error}", case.name),
        };
        (case, found)
    }));
}

fn rendered(page: &CatalogPage) -> Value {
    let templates = page.templates.iter().map(|template| {
        assert!(template.components.is_array(), "{template:?}");
        object([
            ("id", json!(template.provider_id)),
            ("name", template.name.as_str().into()),
            ("language", template.language.as_str().into()),
            ("status", template.status.as_str().into()),
            ("category", template.category.as_str().into()),
            ("quality", json!(template.quality_score)),
        ])
    });
    let mut page_rendered = json!({"templates": templates.collect::<Value>(), "unreadable": page.unreadable});
    if let Some(next) = &page.next {
        page_rendered["next"] = json!(next);
    }
    page_rendered
}
