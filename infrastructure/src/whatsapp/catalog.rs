//! Reads the templates of an account from Meta, page by page.
//!
//! The next page is asked for by its cursor at the address that the sender has. The address that Meta prints for it is
//! never followed: it carries the token, and nothing says that it leads to Meta.

use reqwest::header::AUTHORIZATION;
use reqwest::{Client, Url};
use serde::Deserialize;
use serde_json::Value;

use super::client::{self, ClientConfig, ClientError};

const FIELDS: &str = "id,name,language,status,category,parameter_format,components,quality_score";
const NAME_CHARS_MAX: usize = 512;
const LABEL_CHARS_MAX: usize = 64;
const CURSOR_CHARS_MAX: usize = 4096;
/// Meta's codes for too many calls: of the app, of the user, of the account.
const RATE_CODES: [i64; 6] = [4, 17, 32, 613, 80_007, 80_008];

/// How an account is read.
#[derive(Debug, Clone)]
pub struct CatalogConfig {
    /// Time-outs and the version of the Graph API, as for sending.
    pub client: ClientConfig,
    /// Templates of one page.
    pub page_size: u32,
    /// More pages are not read, and the account counts as unreadable.
    pub pages_max: u32,
    /// A longer page is not read.
    pub page_bytes_max: usize,
}

/// The account to read.
pub struct Account<'a> {
    pub base_url: &'a str,
    pub waba_id: &'a str,
    pub access_token: &'a str,
    /// `None`: the version that is configured for all.
    pub api_version: Option<&'a str>,
}

/// A template as Meta lists it.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedTemplate {
    pub provider_id: Option<String>,
    pub name: String,
    /// With an underscore: `en_US`.
    pub language: String,
    /// In capitals.
    pub status: String,
    /// In capitals.
    pub category: String,
    /// In Meta's shape.
    pub components: Value,
    pub quality_score: Option<String>,
}

#[derive(Debug, Default, PartialEq)]
pub struct Catalog {
    pub templates: Vec<ListedTemplate>,
    /// Entries without a name, a language, a status or a list of components.
    pub unreadable: usize,
}

/// A part of an account's list.
#[derive(Debug, PartialEq)]
pub struct CatalogPage {
    pub templates: Vec<ListedTemplate>,
    /// Entries that are not templates.
    pub unreadable: usize,
    /// The cursor of the page that follows; `None` on the last one.
    pub next: Option<String>,
}

/// Why the templates of an account could not be read. Nothing is changed then.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("the account's address, id, version or access token is not valid; ektola sender add gives new ones")]
    BadAccount,
    #[error("the address does not answer")]
    NoAnswer(#[source] reqwest::Error),
    #[error("Meta limits the calls about this account (code {code}); they are tried again later")]
    RateLimited { code: i64 },
    #[error("the address serves no list of templates (HTTP status {http_status}); a stand-in may have none")]
    NoCatalog { http_status: u16 },
    #[error(
        "Meta refuses to list the templates (code {code}, HTTP status {http_status}); check token, rights and account id"
    )]
    Refused { code: i64, http_status: u16 },
    #[error("the answer is not a list of templates (HTTP status {http_status})")]
    Unreadable { http_status: u16 },
    #[error("a page has more than {bytes_max} bytes; the key templates.sync_page_max_bytes allows more")]
    PageTooLarge { bytes_max: usize },
    #[error("there are more than {pages_max} pages; the key templates.sync_pages_max allows more")]
    TooManyPages { pages_max: u32 },
}

/// A cheap handle.
#[derive(Debug, Clone)]
pub struct CatalogClient {
    http: Client,
    config: CatalogConfig,
}

impl CatalogClient {
    pub fn try_new(config: CatalogConfig) -> Result<Self, ClientError> {
        let http = client::http_client(&config.client).map_err(ClientError::Setup)?;
        Ok(Self { http, config })
    }

    /// All templates of the account, or an error: a part of the list would make the others look deleted.
    pub async fn fetch(&self, account: &Account<'_>) -> Result<Catalog, CatalogError> {
        let mut catalog = Catalog::default();
        let mut after: Option<String> = None;
        for _ in 0..self.config.pages_max {
            let CatalogPage { templates, unreadable, next } = self.page(account, after.as_deref()).await?;
            catalog.templates.extend(templates);
            catalog.unreadable += unreadable;
            match next {
                // A cursor that leads to itself would never end.
                Some(cursor) if cursor.len() <= CURSOR_CHARS_MAX && after.as_ref() != Some(&cursor) => {
                    after = Some(cursor);
                }
                Some(_) => return Err(CatalogError::Unreadable { http_status: 200 }),
                None => return Ok(catalog),
            }
        }
        Err(CatalogError::TooManyPages { pages_max: self.config.pages_max })
    }

    async fn page(&self, account: &Account<'_>, after: Option<&str>) -> Result<CatalogPage, CatalogError> {
        let url = self.url(account, after).ok_or(CatalogError::BadAccount)?;
        let token = client::bearer(account.access_token).map_err(|_| CatalogError::BadAccount)?;
        let response = self.http.get(url).header(AUTHORIZATION, token).send().await.map_err(no_answer)?;
        let http_status = response.status().as_u16();
        let bytes_max = self.config.page_bytes_max;
        let body = client::read_bounded(response, bytes_max).await.map_err(no_answer)?;
        let body = body.ok_or(CatalogError::PageTooLarge { bytes_max })?;
        parse_page(http_status, &body)
    }

    fn url(&self, account: &Account<'_>, after: Option<&str>) -> Option<Url> {
        let version = account.api_version.unwrap_or(&self.config.client.api_version);
        if !client::is_path_segment(account.waba_id) || !client::is_version(version) {
            return None;
        }
        let mut url = client::graph_url(account.base_url, [version, account.waba_id, "message_templates"])?;
        let mut query = url.query_pairs_mut();
        query.append_pair("fields", FIELDS).append_pair("limit", &self.config.page_size.to_string());
        if let Some(after) = after {
            query.append_pair("after", after);
        }
        drop(query);
        Some(url)
    }
}

/// Reads the answer to a call for one page.
pub fn parse_page(http_status: u16, body: &[u8]) -> Result<CatalogPage, CatalogError> {
    if !(200..300).contains(&http_status) {
        return Err(refusal(http_status, body));
    }
    let unreadable = || CatalogError::Unreadable { http_status };
    // A list would do for a struct as well, and be a page without templates.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(unreadable());
    }
    let page: Page = serde_json::from_slice(body).map_err(|_| unreadable())?;
    let entries = page.data.len();
    let templates: Vec<ListedTemplate> = page.data.iter().filter_map(listed).collect();
    let paging = page.paging.filter(|paging| paging.next.is_some());
    Ok(CatalogPage {
        unreadable: entries - templates.len(),
        templates,
        next: paging.and_then(|paging| paging.cursors).and_then(|cursors| cursors.after),
    })
}

fn no_answer(error: reqwest::Error) -> CatalogError {
    CatalogError::NoAnswer(error.without_url())
}

fn refusal(http_status: u16, body: &[u8]) -> CatalogError {
    let envelope: Option<Value> = serde_json::from_slice(body).ok();
    let code = envelope.as_ref().and_then(|envelope| envelope.pointer("/error/code")).and_then(Value::as_i64);
    match code {
        Some(code) if RATE_CODES.contains(&code) => CatalogError::RateLimited { code },
        Some(code) => CatalogError::Refused { code, http_status },
        None if http_status == 429 => CatalogError::RateLimited { code: 0 },
        None if matches!(http_status, 404 | 405 | 501) => CatalogError::NoCatalog { http_status },
        None => CatalogError::Unreadable { http_status },
    }
}

#[derive(Deserialize)]
struct Page {
    data: Vec<Value>,
    #[serde(default)]
    paging: Option<Paging>,
}

#[derive(Deserialize)]
struct Paging {
    #[serde(default)]
    cursors: Option<Cursors>,
    #[serde(default)]
    next: Option<String>,
}

#[derive(Deserialize)]
struct Cursors {
    #[serde(default)]
    after: Option<String>,
}

/// `None`: it lacks something without which it is no template.
fn listed(entry: &Value) -> Option<ListedTemplate> {
    let text = |field: &str, chars_max: usize| {
        let text = entry.get(field)?.as_str()?;
        (1..=chars_max).contains(&text.chars().count()).then(|| text.to_owned()).filter(|text| !text.contains('\0'))
    };
    let label = |field: &str| text(field, LABEL_CHARS_MAX).and_then(|text| status_name(&text));
    let provider_id = match entry.get("id") {
        Some(Value::Number(number)) => Some(number.to_string()),
        _ => text("id", LABEL_CHARS_MAX),
    };
    let score = entry.pointer("/quality_score/score").or_else(|| entry.get("quality_score"));
    Some(ListedTemplate {
        provider_id,
        name: text("name", NAME_CHARS_MAX)?,
        language: language(&text("language", LABEL_CHARS_MAX)?),
        status: label("status")?,
        category: label("category")?,
        components: entry.get("components").filter(|components| components.is_array())?.clone(),
        quality_score: score.and_then(Value::as_str).and_then(status_name),
    })
}

/// Meta's names in capitals; `None` for what is no such name.
pub(crate) fn status_name(text: &str) -> Option<String> {
    let name = text.trim().to_ascii_uppercase();
    let is_name = (1..=LABEL_CHARS_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    is_name.then_some(name)
}

/// Webhooks print `en-US` where the API prints `en_US`.
pub(crate) fn language(text: &str) -> String {
    text.trim().replace('-', "_")
}
