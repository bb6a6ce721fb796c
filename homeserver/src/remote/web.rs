//! Plain requests to services that the operator has configured: a captcha's, an outside identity provider. Trusted by
//! being configured; what a stranger names must never come here.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, header};

use super::outside::Outside;

/// Asks configured services, wherever they stand.
#[derive(Clone)]
pub struct Web(Outside);

impl Default for Web {
    fn default() -> Self {
        Self(Outside::new(true))
    }
}

impl Web {
    /// `GET`, expecting a body of at most [`BODY_BYTES_MAX`].
    pub async fn get(&self, url: &str, bearer: Option<&str>) -> Result<Bytes, String> {
        let mut request = Request::builder().method(Method::GET);
        if let Some(token) = bearer {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        self.ask(url, request, Bytes::new()).await
    }

    /// `POST` of a form.
    pub async fn post_form(&self, url: &str, form: &[(&str, &str)]) -> Result<Bytes, String> {
        let request = Request::builder()
            .method(Method::POST)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        self.ask(url, request, encode_form(form).into()).await
    }

    /// `POST` of a form by whoever has this name and secret (RFC 6749, 2.3.1).
    pub async fn post_form_as(
        &self,
        url: &str,
        form: &[(&str, &str)],
        client: Option<(&str, &str)>,
    ) -> Result<Bytes, String> {
        use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
        let mut request = Request::builder()
            .method(Method::POST)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        if let Some((name, secret)) = client {
            let encode = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
            let proof =
                data_encoding::BASE64.encode(format!("{}:{}", encode(name), encode(secret)).as_bytes());
            request = request.header(header::AUTHORIZATION, format!("Basic {proof}"));
        }
        self.ask(url, request, encode_form(form).into()).await
    }

    /// `POST` of JSON.
    pub async fn post_json(
        &self,
        url: &str,
        bearer: Option<&str>,
        json: &serde_json::Value,
    ) -> Result<Bytes, String> {
        let mut request =
            Request::builder().method(Method::POST).header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = bearer {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        self.ask(url, request, json.to_string().into()).await
    }

    async fn ask(&self, url: &str, request: http::request::Builder, body: Bytes) -> Result<Bytes, String> {
        let request = request
            .uri(url)
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("mangrove/", env!("CARGO_PKG_VERSION")))
            .body(body)
            .map_err(|error| format!("{url}: {error}"))?;
        let answer = self.0.send(request, BODY_BYTES_MAX, ANSWER_WITHIN).await;
        let (head, body) = answer.map_err(|error| format!("{url}: {error}"))?.into_parts();
        if head.status.is_success() {
            return Ok(body);
        }
        let start: String = String::from_utf8_lossy(&body).chars().take(200).collect();
        Err(format!("{url}: status {}: {start}", head.status))
    }
}

/// A form's pairs as `application/x-www-form-urlencoded`.
pub fn encode_form(form: &[(&str, &str)]) -> String {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    form.iter()
        .map(|(name, value)| {
            format!(
                "{}={}",
                utf8_percent_encode(name, NON_ALPHANUMERIC),
                utf8_percent_encode(value, NON_ALPHANUMERIC)
            )
        })
        .collect::<Vec<_>>()
        .join("&")
}

/// Key sets and metadata are far below it.
const BODY_BYTES_MAX: usize = 1 << 20;
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
