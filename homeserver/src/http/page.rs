//! The few web pages that the node has of its own: plain HTML, no script, nothing from elsewhere, never in a frame.

use axum::body::Body;
use data_encoding::BASE64;
use http::{HeaderValue, Response, StatusCode, header};
use sha2::{Digest as _, Sha256};

use super::{args::Head, reply::Reply};
use crate::server::Server;

/// A page: title, and the body's HTML, whose parts the caller has [`escape`]d.
pub fn page(status: StatusCode, title: &str, html: &str) -> Reply {
    page_with_form(status, title, html, &[])
}

/// A page whose forms may lead on (by a redirect) to other places besides this server: where an OAuth client waits.
pub fn page_with_form(status: StatusCode, title: &str, html: &str, form_targets: &[String]) -> Reply {
    let title = escape(title);
    let text = format!(
        "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\"><meta name=\"color-scheme\" content=\"light dark\">\
         <title>{title}</title><style>{STYLE}</style></head><body><main><h1>{title}</h1>{html}</main></body></html>"
    );
    let style = BASE64.encode(&Sha256::digest(STYLE));
    let targets = form_targets.iter().fold("'self'".to_owned(), |all, target| format!("{all} {target}"));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{style}'; img-src 'self'; form-action {targets}; frame-ancestors \
         'none'; base-uri 'none'"
    );
    let mut reply = Response::new(Body::from(text));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    if let Ok(policy) = HeaderValue::try_from(policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Says to `allow_any_page` that pages of other origins have no business reading this one.
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("null"));
    reply
}

/// Sends the browser on.
pub fn redirect(to: &str) -> Reply {
    let mut reply = Response::new(Body::empty());
    match HeaderValue::try_from(to) {
        Ok(value) => {
            *reply.status_mut() = StatusCode::SEE_OTHER;
            reply.headers_mut().insert(header::LOCATION, value);
        }
        Err(_) => *reply.status_mut() = StatusCode::BAD_REQUEST,
    }
    reply.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    reply
}

/// Text as HTML, also good inside quoted attributes.
pub fn escape(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            other => html.push(other),
        }
    }
    html
}

/// Where this server's pages are, without a slash at the end: as the operator says, or as the browser asked.
pub fn base_url(server: &Server, head: &Head) -> String {
    match &server.settings().public_url {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => {
            let host = head
                .header(header::HOST)
                .or_else(|| head.uri.authority().map(http::uri::Authority::as_str))
                .unwrap_or("localhost");
            format!("http://{host}")
        }
    }
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;margin:0;padding:1.5rem}main{max-width:26rem;margin:0 auto}\
h1{font-size:1.4rem}label{display:block;margin:.8rem 0}input:not([type=checkbox]){display:block;width:100%;box-sizing:border-box;\
padding:.55rem;font:inherit;margin-top:.2rem}button{font:inherit;padding:.55rem 1.1rem;margin:.3rem .3rem .3rem 0}\
.wrong{border-left:.3rem solid #c33;padding-left:.7rem}.quiet{opacity:.75}li{margin:.5rem 0;overflow-wrap:anywhere}";
