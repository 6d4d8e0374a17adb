//! The client of WhatsApp's send call.
//!
//! It follows no redirect and retries nothing: a second request that nobody asked for could reach a person twice. It
//! uses HTTP/1.1 with one call at a time on each connection, so that a connection that breaks leaves one outcome
//! unknown and not hundreds. Everything that can fail without WhatsApp fails in [`WhatsAppClient::prepare`], before
//! the call is marked in the call journal.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use domain::ids::MessageId;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Client, Request, Response, Url, redirect, retry};
use serde::Serialize;
use serde_json::Value;

use super::answer::{self, SendOutcome, UnknownReason};
use super::retry_ladder::RetryLadder;

/// WhatsApp's own address; a sender may have another one for stand-ins.
pub const DEFAULT_BASE_URL: &str = "https://graph.facebook.com";

#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// For resolving the name, connecting and TLS together. Default 5 s; must be shorter than `call_timeout`, so that
    /// a connection that cannot be made is told apart from a call without an answer.
    pub connect_timeout: Duration,
    /// For the whole call, from connecting to the last byte of the answer. Default 30 s.
    pub call_timeout: Duration,
    /// The version of the Graph API. Default `v25.0`.
    pub api_version: String,
    /// A longer answer is not read to its end, and the outcome is unknown. Default 64 KiB.
    pub response_bytes_max: usize,
    /// How long an unused connection is kept. Default 15 s: shorter than servers keep theirs, since a call on a
    /// connection that the server is just closing ends as unknown.
    pub pool_idle_timeout: Duration,
    /// How many unused connections are kept for each host. Default 512: 1,000 calls a second of half a second each.
    pub pool_idle_connections_max: usize,
    /// How often a silent connection is probed. Default 10 s.
    pub tcp_keepalive: Duration,
    /// How long a refusal asks to wait.
    pub retries: RetryLadder,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(30),
            api_version: "v25.0".to_owned(),
            response_bytes_max: 64 * 1024,
            pool_idle_timeout: Duration::from_secs(15),
            pool_idle_connections_max: 512,
            tcp_keepalive: Duration::from_secs(10),
            retries: RetryLadder::default(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// `connect_timeout` is not shorter than `call_timeout`.
    #[error("the connect time-out must be shorter than the call time-out")]
    TimeoutsOutOfOrder,
    /// `api_version` is not of the form `v25.0`.
    #[error("the API version must have the form v25.0")]
    ApiVersion,
    /// The HTTP client could not be set up, for want of root certificates for example.
    #[error("the HTTP client could not be set up")]
    Setup(#[source] reqwest::Error),
}

/// Why a call could not be built. Nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PrepareError {
    /// The sender's base URL is not an http or https address.
    #[error("the sender's base URL is not an http or https address")]
    BaseUrl,
    /// The sender's phone number id is empty or cannot be part of a path.
    #[error("the sender's phone number id is not valid")]
    PhoneNumberId,
    /// The sender's access token is empty or has characters that a header cannot carry.
    #[error("the sender's access token is not valid")]
    AccessToken,
    /// The sender's version of the Graph API is not of the form `v25.0`.
    #[error("the sender's version of the Graph API must have the form v25.0")]
    ApiVersion,
    /// The recipient is not a number with a leading `+`. Without it WhatsApp may put the sender's country before it.
    #[error("the recipient is not an international phone number")]
    Recipient,
    /// The message cannot be written as JSON.
    #[error("the message cannot be written as JSON")]
    Body,
}

/// What the endpoint for marketing messages does where the account or the template is not set up for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProductPolicy {
    /// The message goes through the Cloud API.
    #[default]
    CloudApiFallback,
    /// The message is refused.
    Strict,
}

impl ProductPolicy {
    pub const ALL: [Self; 2] = [Self::CloudApiFallback, Self::Strict];

    /// As Meta writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::CloudApiFallback => "CLOUD_API_FALLBACK",
            Self::Strict => "STRICT",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.name().eq_ignore_ascii_case(name))
    }
}

/// How a message leaves through the endpoint for marketing messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MarketingSettings {
    pub product_policy: ProductPolicy,
    /// May Meta use what happens to the message? `None`: as the account is set up.
    pub activity_sharing: Option<bool>,
}

/// One template to one number.
pub struct SendRequest<'a> {
    pub base_url: &'a str,
    /// `None`: the version that is configured for all.
    pub api_version: Option<&'a str>,
    /// `None`: the endpoint for all messages.
    pub marketing: Option<MarketingSettings>,
    pub phone_number_id: &'a str,
    pub access_token: &'a str,
    /// E.164 with the leading `+`.
    pub to: &'a str,
    pub template_name: &'a str,
    pub language: &'a str,
    /// `template.components`, already filled.
    pub components: Vec<Value>,
    /// Comes back in statuses, so that a message is found whose answer was lost.
    pub callback: MessageId,
}

impl fmt::Debug for SendRequest<'_> {
    /// Leaves out the token and what is personal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendRequest").field("callback", &self.callback).finish_non_exhaustive()
    }
}

/// A request that is ready to leave.
pub struct PreparedCall {
    request: Request,
    callback: MessageId,
}

impl PreparedCall {
    /// The body as it will leave: JSON, with what is personal.
    pub fn body(&self) -> &[u8] {
        self.request.body().and_then(reqwest::Body::as_bytes).unwrap_or_default()
    }
}

impl fmt::Debug for PreparedCall {
    /// Leaves out the token and what is personal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreparedCall").field("callback", &self.callback).finish_non_exhaustive()
    }
}

/// A cheap handle; clones share their connections.
#[derive(Debug, Clone)]
pub struct WhatsAppClient {
    http: Client,
    config: Arc<ClientConfig>,
}

impl WhatsAppClient {
    pub fn try_new(config: ClientConfig) -> Result<Self, ClientError> {
        if config.connect_timeout >= config.call_timeout {
            return Err(ClientError::TimeoutsOutOfOrder);
        }
        if !is_version(&config.api_version) {
            return Err(ClientError::ApiVersion);
        }
        let http = http_client(&config).map_err(ClientError::Setup)?;
        Ok(Self { http, config: Arc::new(config) })
    }

    /// The ladder by which outcomes were given their first waits, for the further ones.
    pub fn retries(&self) -> &RetryLadder {
        &self.config.retries
    }

    /// Builds the whole request, so that nothing can fail any more between the mark in the call journal and the call.
    pub fn prepare(&self, request: &SendRequest<'_>) -> Result<PreparedCall, PrepareError> {
        let url = self.url(request)?;
        if !is_international(request.to) {
            return Err(PrepareError::Recipient);
        }
        let body = serde_json::to_vec(&Body::of(request)).map_err(|_| PrepareError::Body)?;
        let request_built = self
            .http
            .post(url)
            .header(AUTHORIZATION, bearer(request.access_token)?)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(body)
            .build()
            .map_err(|_| PrepareError::BaseUrl)?;
        Ok(PreparedCall { request: request_built, callback: request.callback })
    }

    /// Makes the call, once. A future that is dropped before it ends leaves the outcome unknown.
    pub async fn call(&self, call: PreparedCall) -> SendOutcome {
        let callback = call.callback;
        let mut response = match self.http.execute(call.request).await {
            Ok(response) => response,
            Err(error) => return failed_call(callback, error),
        };
        let http_status = response.status().as_u16();
        let headers = std::mem::take(response.headers_mut());
        match read_bounded(response, self.config.response_bytes_max).await {
            Ok(Some(body)) => answer::answer_of(&self.config.retries, http_status, &headers, &body),
            Ok(None) => UnknownReason::AnswerTooLarge.into_outcome(),
            Err(error) => broken_call(&error),
        }
    }

    fn url(&self, request: &SendRequest<'_>) -> Result<Url, PrepareError> {
        let id = request.phone_number_id;
        if !is_path_segment(id) {
            return Err(PrepareError::PhoneNumberId);
        }
        let version = request.api_version.unwrap_or(&self.config.api_version);
        if !is_version(version) {
            return Err(PrepareError::ApiVersion);
        }
        let endpoint = if request.marketing.is_some() { "marketing_messages" } else { "messages" };
        graph_url(request.base_url, [version, id, endpoint]).ok_or(PrepareError::BaseUrl)
    }
}

/// The one way in which requests to Meta are made.
pub(super) fn http_client(config: &ClientConfig) -> reqwest::Result<Client> {
    Client::builder()
        .connect_timeout(config.connect_timeout)
        .timeout(config.call_timeout)
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        // A proxy of the environment would see the calls to stand-ins, and its own errors look like answers.
        .no_proxy()
        .referer(false)
        .http1_only()
        .pool_idle_timeout(config.pool_idle_timeout)
        .pool_max_idle_per_host(config.pool_idle_connections_max)
        .tcp_keepalive(config.tcp_keepalive)
        .user_agent(concat!("ektola/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// What the id of a number or an account may be without changing the address that it is put into.
pub(super) fn is_path_segment(id: &str) -> bool {
    !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// `None` if the base is not a plain http or https address.
pub(super) fn graph_url(base_url: &str, path: [&str; 3]) -> Option<Url> {
    let mut url = Url::parse(base_url).ok()?;
    // Credentials in the address would become a second Authorization header.
    let plain = url.username().is_empty() && url.password().is_none();
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() || !plain {
        return None;
    }
    url.set_query(None);
    url.set_fragment(None);
    url.path_segments_mut().ok()?.pop_if_empty().extend(path);
    Some(url)
}

/// `v` and two numbers.
pub fn is_version(text: &str) -> bool {
    let number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    text.strip_prefix('v')
        .and_then(|numbers| numbers.split_once('.'))
        .is_some_and(|(major, minor)| number(major) && number(minor))
}

fn is_international(to: &str) -> bool {
    to.strip_prefix('+')
        .is_some_and(|digits| (7..=15).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Marked as sensitive, so that it is not printed.
pub(super) fn bearer(token: &str) -> Result<HeaderValue, PrepareError> {
    if token.is_empty() {
        return Err(PrepareError::AccessToken);
    }
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| PrepareError::AccessToken)?;
    value.set_sensitive(true);
    Ok(value)
}

/// The call ended without an answer.
fn failed_call(callback: MessageId, error: reqwest::Error) -> SendOutcome {
    // A builder error comes before anything is sent. The connect time-out counts as not connected too.
    if error.is_connect() || error.is_builder() {
        let error = error.without_url();
        tracing::debug!(
            message.id = %callback,
            error = &error as &dyn std::error::Error,
            "the connection to WhatsApp could not be made"
        );
        return SendOutcome::NotConnected;
    }
    broken_call(&error)
}

fn broken_call(error: &reqwest::Error) -> SendOutcome {
    let why = if error.is_timeout() { UnknownReason::TimedOut } else { UnknownReason::ConnectionLost };
    why.into_outcome()
}

/// `None`: it is longer than that.
pub(super) async fn read_bounded(mut response: Response, bytes_max: usize) -> reqwest::Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > bytes_max {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

#[derive(Serialize)]
struct Body<'a> {
    messaging_product: &'static str,
    recipient_type: &'static str,
    to: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    template: Template<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    product_policy: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_activity_sharing: Option<bool>,
    /// The message id and nothing else: it passes through WhatsApp's logs.
    biz_opaque_callback_data: MessageId,
}

#[derive(Serialize)]
struct Template<'a> {
    name: &'a str,
    language: Language<'a>,
    #[serde(skip_serializing_if = "<[Value]>::is_empty")]
    components: &'a [Value],
}

#[derive(Serialize)]
struct Language<'a> {
    code: &'a str,
}

impl<'a> Body<'a> {
    fn of(request: &'a SendRequest<'_>) -> Self {
        Self {
            messaging_product: "whatsapp",
            recipient_type: "individual",
            to: request.to,
            kind: "template",
            template: Template {
                name: request.template_name,
                language: Language { code: request.language },
                components: &request.components,
            },
            product_policy: request.marketing.map(|marketing| marketing.product_policy.name()),
            message_activity_sharing: request.marketing.and_then(|marketing| marketing.activity_sharing),
            biz_opaque_callback_data: request.callback,
        }
    }
}
