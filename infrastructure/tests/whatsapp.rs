//! The client against real servers on the loopback: each outcome, and what leaves on the wire.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use domain::ids::MessageId;
use domain::message::{Acceptance, FailureClass};
use infrastructure::whatsapp::client::{
    ClientConfig, ClientError, MarketingSettings, PrepareError, PreparedCall, ProductPolicy, SendRequest,
    WhatsAppClient,
};
use infrastructure::whatsapp::{PauseScope, RetryScope, SendOutcome, UnknownReason};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

const MESSAGE: MessageId = MessageId(Uuid::from_u128(0x0193_f5a0_1111_8222_8333_4444_5555_6666));
const TOKEN: &str = "secret-token";
/// Longer than any step takes here, so that a test that hangs fails by it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Method, path, headers and body of a request.
type Seen = (String, String, HeaderMap, Bytes);

fn client() -> WhatsAppClient {
    WhatsAppClient::try_new(ClientConfig { call_timeout: PATIENCE, ..ClientConfig::default() }).unwrap()
}

fn request(base_url: &str) -> SendRequest<'_> {
    SendRequest {
        base_url,
        api_version: None,
        marketing: None,
        phone_number_id: "106540352242922",
        access_token: TOKEN,
        to: "+919812345678",
        template_name: "festival_offer",
        language: "en_US",
        components: vec![json!({ "type": "body", "parameters": [{ "type": "text", "text": "Aisha \"A\" शर्मा" }] })],
        callback: MESSAGE,
    }
}

async fn send(client: &WhatsAppClient, base_url: &str) -> SendOutcome {
    let call = client.prepare(&request(base_url)).unwrap();
    tokio::time::timeout(PATIENCE, client.call(call)).await.expect("the call ends by itself")
}

fn unknown(why: UnknownReason) -> SendOutcome {
    SendOutcome::Unknown { why, pause: None }
}

/// Serves every request with `answer`, until the test's runtime ends.
async fn serve<A, F>(answer: A) -> String
where
    A: Fn(Request) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(move |request: Request| {
        let answer = answer.clone();
        async move { answer(request).await }
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

async fn serve_fixed(status: u16, body: &'static str) -> String {
    let status = StatusCode::from_u16(status).unwrap();
    serve(move |_| async move { (status, body).into_response() }).await
}

/// Hands every accepted connection to `behave`.
async fn serve_raw<B, F>(behave: B) -> SocketAddr
where
    B: Fn(TcpStream) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(behave(stream));
        }
    });
    address
}

/// Reads one request: its body ends with the callback. Empty when the client has left.
async fn read_request(stream: &mut TcpStream) -> Vec<u8> {
    let mut read = Vec::new();
    while !read.ends_with(format!("\"{MESSAGE}\"}}").as_bytes()) {
        if stream.read_buf(&mut read).await.unwrap() == 0 {
            break;
        }
    }
    read
}

#[tokio::test]
async fn the_request_on_the_wire_is_complete_and_carries_the_message_id_alone() {
    let seen: Arc<Mutex<Option<Seen>>> = Arc::default();
    let log = Arc::clone(&seen);
    let base_url = serve(move |request| {
        let log = Arc::clone(&log);
        async move {
            let (parts, body) = request.into_parts();
            let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
            *log.lock().unwrap() = Some((parts.method.to_string(), parts.uri.to_string(), parts.headers, body));
            r#"{"messages":[{"id":"wamid.1"}]}"#.into_response()
        }
    })
    .await;
    send(&client(), &format!("{base_url}/stand-in/")).await;

    let (method, path, headers, body) = seen.lock().unwrap().take().unwrap();
    assert_eq!((method.as_str(), path.as_str()), ("POST", "/stand-in/v25.0/106540352242922/messages"));
    assert_eq!(headers["authorization"], format!("Bearer {TOKEN}"));
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(
        serde_json::from_slice::<Value>(&body).unwrap(),
        json!({
            "messaging_product": "whatsapp",
            "recipient_type": "individual",
            "to": "+919812345678",
            "type": "template",
            "template": {
                "name": "festival_offer",
                "language": { "code": "en_US" },
                "components":
                    [{ "type": "body", "parameters": [{ "type": "text", "text": "Aisha \"A\" शर्मा" }] }],
            },
            "biz_opaque_callback_data": MESSAGE.to_string(),
        })
    );
}

/// Path and body of a request that differs from the usual one.
async fn on_the_wire(change: fn(&mut SendRequest<'_>)) -> (String, Value) {
    let seen: Arc<Mutex<Option<(String, Bytes)>>> = Arc::default();
    let log = Arc::clone(&seen);
    let base_url = serve(move |request| {
        let log = Arc::clone(&log);
        async move {
            let (parts, body) = request.into_parts();
            let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
            *log.lock().unwrap() = Some((parts.uri.to_string(), body));
            r#"{"messages":[{"id":"wamid.1"}]}"#.into_response()
        }
    })
    .await;
    let client = client();
    let mut request = request(&base_url);
    change(&mut request);
    let outcome = client.call(client.prepare(&request).unwrap()).await;
    assert!(matches!(outcome, SendOutcome::Accepted { .. }), "{outcome:?}");
    let (path, body) = seen.lock().unwrap().take().unwrap();
    (path, serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn a_sender_can_be_pinned_to_another_version() {
    let (path, _) = on_the_wire(|request| request.api_version = Some("v24.0")).await;
    assert_eq!(path, "/v24.0/106540352242922/messages");
}

#[tokio::test]
async fn an_offer_leaves_through_the_endpoint_for_marketing_messages() {
    let (path, body) = on_the_wire(|request| request.marketing = Some(MarketingSettings::default())).await;
    assert_eq!(path, "/v25.0/106540352242922/marketing_messages");
    assert_eq!(body["product_policy"], "CLOUD_API_FALLBACK");
    assert_eq!(body.get("message_activity_sharing"), None);
    assert_eq!(body["template"]["name"], "festival_offer");
    assert_eq!(body["biz_opaque_callback_data"], MESSAGE.to_string());

    let (_, body) = on_the_wire(|request| {
        let product_policy = ProductPolicy::Strict;
        request.marketing = Some(MarketingSettings { product_policy, activity_sharing: Some(false) });
    })
    .await;
    assert_eq!((&body["product_policy"], &body["message_activity_sharing"]), (&json!("STRICT"), &json!(false)));
    let (_, body) = on_the_wire(|_| {}).await;
    assert_eq!((body.get("product_policy"), body.get("message_activity_sharing")), (None, None));
}

#[tokio::test]
async fn accepted_with_each_acceptance() {
    for (body, acceptance) in [
        (r#"{"messages":[{"id":"wamid.1"}]}"#, Acceptance::Accepted),
        (r#"{"messages":[{"id":"wamid.1","message_status":"held_for_quality_assessment"}]}"#, Acceptance::Held),
        (r#"{"messages":[{"id":"wamid.1","message_status":"paused"}]}"#, Acceptance::Paused),
    ] {
        let base_url = serve_fixed(200, body).await;
        let expected = SendOutcome::Accepted { wamid: "wamid.1".to_owned(), acceptance };
        assert_eq!(send(&client(), &base_url).await, expected);
    }
}

#[tokio::test]
async fn refused_with_its_class_and_pause() {
    let base_url = serve_fixed(400, r#"{"error":{"code":131026,"message":"(#131026)"}}"#).await;
    let class = FailureClass::Undeliverable;
    assert_eq!(send(&client(), &base_url).await, SendOutcome::Refused { code: 131026, class, pause: None });

    let base_url = serve_fixed(400, r#"{"error":{"code":132015}}"#).await;
    let class = FailureClass::Configuration;
    let expected = SendOutcome::Refused { code: 132015, class, pause: Some(PauseScope::Template) };
    assert_eq!(send(&client(), &base_url).await, expected);

    let base_url = serve_fixed(404, "no such page").await;
    assert_eq!(send(&client(), &base_url).await, SendOutcome::Refused { code: 404, class, pause: None });
}

#[tokio::test]
async fn deferred_with_the_wait_of_the_table_or_of_the_headers() {
    let base_url = serve(|_| async {
        (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "17")], r#"{"error":{"code":130429}}"#).into_response()
    })
    .await;
    let (after, scope) = (Duration::from_secs(17), RetryScope::Sender);
    let expected = SendOutcome::Deferred { code: 130429, after, scope, pause: None };
    assert_eq!(send(&client(), &base_url).await, expected);

    let base_url = serve_fixed(401, r#"{"error":{"code":190}}"#).await;
    assert!(matches!(
        send(&client(), &base_url).await,
        SendOutcome::Deferred { code: 190, scope: RetryScope::Contact, pause: Some(PauseScope::Account), .. }
    ));
}

#[tokio::test]
async fn unclear_answers_are_unknown() {
    for (status, body, why) in [
        (500, "<html>oops</html>", UnknownReason::UnclearStatus { http_status: 500 }),
        (502, "", UnknownReason::UnclearStatus { http_status: 502 }),
        (500, r#"{"error":{"code":131000}}"#, UnknownReason::AmbiguousCode { code: 131000 }),
        (200, r#"{"success":true}"#, UnknownReason::NoMessageId),
        (200, "", UnknownReason::NoMessageId),
    ] {
        assert_eq!(send(&client(), &serve_fixed(status, body).await).await, unknown(why), "{status} {body}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let target = serve(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { r#"{"messages":[{"id":"wamid.1"}]}"#.into_response() }
    })
    .await;
    let base_url = serve(move |_| {
        let redirect = Redirect::temporary(&target);
        async move { redirect.into_response() }
    })
    .await;
    let expected = unknown(UnknownReason::UnclearStatus { http_status: 307 });
    assert_eq!(send(&client(), &base_url).await, expected);
    assert_eq!(calls.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_answer_is_read_up_to_its_bound() {
    let answer = r#"{"messages":[{"id":"wamid.1"}]}"#;
    let limited = |response_bytes_max| {
        WhatsAppClient::try_new(ClientConfig { response_bytes_max, ..ClientConfig::default() }).unwrap()
    };
    let base_url = serve_fixed(200, answer).await;
    assert!(matches!(send(&limited(answer.len()), &base_url).await, SendOutcome::Accepted { .. }));
    assert_eq!(send(&limited(answer.len() - 1), &base_url).await, unknown(UnknownReason::AnswerTooLarge));

    // A body without an end and without a declared length.
    let address = serve_raw(|mut stream| async move {
        read_request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n").await;
        while stream.write_all(&[b' '; 8192]).await.is_ok() {}
    })
    .await;
    assert_eq!(send(&client(), &format!("http://{address}")).await, unknown(UnknownReason::AnswerTooLarge));
}

#[tokio::test]
async fn nothing_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    assert_eq!(send(&client(), &format!("http://{address}")).await, SendOutcome::NotConnected);
}

#[tokio::test]
async fn a_name_that_does_not_resolve() {
    // The top-level name `invalid` is reserved never to resolve.
    assert_eq!(send(&client(), "http://graph.invalid").await, SendOutcome::NotConnected);
}

#[tokio::test]
async fn tls_that_fails_or_never_answers_is_not_connected() {
    let plain = serve_fixed(200, "{}").await.replace("http://", "https://");
    assert_eq!(send(&client(), &plain).await, SendOutcome::NotConnected);

    let address = serve_raw(|mut stream| async move {
        let mut hello = Vec::new();
        while stream.read_buf(&mut hello).await.is_ok_and(|read| read > 0) {}
    })
    .await;
    let hasty =
        ClientConfig { connect_timeout: Duration::from_millis(200), call_timeout: PATIENCE, ..ClientConfig::default() };
    let client = WhatsAppClient::try_new(hasty).unwrap();
    assert_eq!(send(&client, &format!("https://{address}")).await, SendOutcome::NotConnected);
}

#[tokio::test]
async fn a_server_that_accepts_and_never_answers_times_out() {
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    let address = serve_raw(move |mut stream| {
        let counted = Arc::clone(&counted);
        async move {
            read_request(&mut stream).await;
            counted.fetch_add(1, Ordering::SeqCst);
            // Holds the connection open until the client leaves.
            let _ = stream.read(&mut [0; 1]).await;
        }
    })
    .await;
    let hasty = ClientConfig {
        connect_timeout: Duration::from_millis(250),
        call_timeout: Duration::from_millis(500),
        ..ClientConfig::default()
    };
    let client = WhatsAppClient::try_new(hasty).unwrap();
    assert_eq!(send(&client, &format!("http://{address}")).await, unknown(UnknownReason::TimedOut));
    assert_eq!(requests.load(Ordering::SeqCst), 1, "the request had left, once");
}

#[tokio::test]
async fn a_connection_that_breaks_is_unknown_and_not_tried_again() {
    for answer in ["", "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"messages\":[{\"id\":\"wamid.1\"}]"] {
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        let address = serve_raw(move |mut stream| {
            let counted = Arc::clone(&counted);
            async move {
                read_request(&mut stream).await;
                counted.fetch_add(1, Ordering::SeqCst);
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        })
        .await;
        let outcome = send(&client(), &format!("http://{address}")).await;
        assert_eq!(outcome, unknown(UnknownReason::ConnectionLost), "{answer}");
        assert_eq!(requests.load(Ordering::SeqCst), 1, "{answer}");
    }
}

#[tokio::test]
async fn connections_are_kept() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let address = serve_raw(move |mut stream| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            let body = r#"{"messages":[{"id":"wamid.1"}]}"#;
            while !read_request(&mut stream).await.is_empty() {
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    let client = client();
    for _ in 0..3 {
        let outcome = send(&client.clone(), &format!("http://{address}")).await;
        assert!(matches!(outcome, SendOutcome::Accepted { .. }), "{outcome:?}");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_kept_connection_that_breaks_under_a_call_is_unknown_and_not_tried_again() {
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    let address = serve_raw(move |mut stream| {
        let counted = Arc::clone(&counted);
        async move {
            let body = r#"{"messages":[{"id":"wamid.1"}]}"#;
            for answer in [format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()), String::new()] {
                if read_request(&mut stream).await.is_empty() {
                    return;
                }
                counted.fetch_add(1, Ordering::SeqCst);
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    let (client, base_url) = (client(), format!("http://{address}"));
    assert!(matches!(send(&client, &base_url).await, SendOutcome::Accepted { .. }));
    assert_eq!(send(&client, &base_url).await, unknown(UnknownReason::ConnectionLost));
    assert_eq!(requests.load(Ordering::SeqCst), 2);
}

#[test]
fn what_cannot_be_sent_fails_before_the_call() {
    let client = client();
    let refused = |change: fn(&mut SendRequest<'_>)| {
        let mut request = request("https://graph.facebook.com");
        change(&mut request);
        client.prepare(&request).map(|_: PreparedCall| ()).unwrap_err()
    };
    for base_url in ["", "graph.facebook.com", "ftp://graph.facebook.com", "mailto:a@b.example", "http://u:p@host"] {
        assert_eq!(client.prepare(&request(base_url)).unwrap_err(), PrepareError::BaseUrl, "{base_url}");
    }
    assert_eq!(refused(|request| request.phone_number_id = ""), PrepareError::PhoneNumberId);
    assert_eq!(refused(|request| request.phone_number_id = ".."), PrepareError::PhoneNumberId);
    assert_eq!(refused(|request| request.phone_number_id = "1/2"), PrepareError::PhoneNumberId);
    assert_eq!(refused(|request| request.api_version = Some("v25.0/me")), PrepareError::ApiVersion);
    assert_eq!(refused(|request| request.access_token = ""), PrepareError::AccessToken);
    assert_eq!(refused(|request| request.access_token = "a\r\nb"), PrepareError::AccessToken);
    assert_eq!(refused(|request| request.to = "919812345678"), PrepareError::Recipient);
    assert_eq!(refused(|request| request.to = "+91 98123 45678"), PrepareError::Recipient);
    assert_eq!(refused(|request| request.to = "+"), PrepareError::Recipient);
}

#[test]
fn debug_output_holds_neither_token_nor_phone_nor_text() {
    let request = request("https://graph.facebook.com");
    let call = client().prepare(&request).unwrap();
    for text in [format!("{request:?}"), format!("{call:?}")] {
        assert!(text.contains(&MESSAGE.to_string()), "{text}");
        for secret in [TOKEN, "9812345678", "Aisha"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

#[test]
fn a_configuration_that_blurs_outcomes_is_refused() {
    let second = Duration::from_secs(1);
    let equal = ClientConfig { connect_timeout: second, call_timeout: second, ..ClientConfig::default() };
    assert!(matches!(WhatsAppClient::try_new(equal), Err(ClientError::TimeoutsOutOfOrder)));
    for api_version in ["", "25.0", "v25", "v.0", "v25.0/me"] {
        let config = ClientConfig { api_version: api_version.to_owned(), ..ClientConfig::default() };
        assert!(matches!(WhatsAppClient::try_new(config), Err(ClientError::ApiVersion)), "{api_version}");
    }
}
