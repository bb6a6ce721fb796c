//! OAuth clients: what they say about themselves, and where they may be answered.
// spec: https://spec.matrix.org/v1.19/client-server-api/#client-registration

use http::Uri;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    store::{ReadTx, WriteTx, schema},
    user::{UserError, Users},
};

/// What a client registers, as far as it matters here. Fields that are not known are left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientMetadata {
    /// What it is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_name: Option<String>,
    /// Its web page.
    pub client_uri: String,
    /// Its picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logo_uri: Option<String>,
    /// Its terms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tos_uri: Option<String>,
    /// Its privacy policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_uri: Option<String>,
    /// Where the browser may be sent back to.
    #[serde(default)]
    pub redirect_uris: Vec<String>,
    /// How it gets its tokens.
    #[serde(default = "code_grants")]
    pub grant_types: Vec<String>,
    /// What it is answered with.
    #[serde(default = "code_response")]
    pub response_types: Vec<String>,
    /// How it proves who it is: public clients do not.
    #[serde(default = "no_secret")]
    pub token_endpoint_auth_method: String,
    /// `web` or `native`.
    #[serde(default = "web")]
    pub application_type: String,
}

fn code_grants() -> Vec<String> {
    vec!["authorization_code".into()]
}

fn code_response() -> Vec<String> {
    vec!["code".into()]
}

fn no_secret() -> String {
    "none".into()
}

fn web() -> String {
    "web".into()
}

/// Why a client cannot be registered: RFC 7591's code and a text.
#[derive(Debug, thiserror::Error)]
#[error("{1}")]
pub struct ClientError(pub &'static str, pub String);

impl ClientMetadata {
    fn check(&self) -> Result<(), ClientError> {
        let bad = |text: String| Err(ClientError("invalid_client_metadata", text));
        let Some(home) = self.client_uri.parse::<Uri>().ok().filter(|uri| uri.scheme_str() == Some("https"))
        else {
            return bad("client_uri has to be an https URL".into());
        };
        let host = home.host().unwrap_or_default().to_owned();
        if self.token_endpoint_auth_method != "none" {
            return bad("token_endpoint_auth_method has to be none: clients here have no secret".into());
        }
        if self.application_type != "web" && self.application_type != "native" {
            return bad("application_type is web or native".into());
        }
        for (name, uri) in
            [("logo_uri", &self.logo_uri), ("tos_uri", &self.tos_uri), ("policy_uri", &self.policy_uri)]
        {
            if uri.as_ref().is_some_and(|uri| !uri.starts_with("https://")) {
                return bad(format!("{name} has to be an https URL"));
            }
        }
        if self.redirect_uris.len() > REDIRECTS_MAX {
            return bad(format!("at most {REDIRECTS_MAX} redirect_uris"));
        }
        if self.grant_types.iter().any(|grant| grant == "authorization_code") && self.redirect_uris.is_empty()
        {
            return bad("redirect_uris is missing".into());
        }
        match self.redirect_uris.iter().find(|uri| !redirect_fits(uri, &self.application_type, &host)) {
            Some(uri) => Err(ClientError(
                "invalid_redirect_uri",
                format!(
                    "{uri:?}: https on the client's own host, or for a native client its reversed host as scheme, or http on loopback"
                ),
            )),
            None => Ok(()),
        }
    }

    /// Whether the browser may be sent to `uri`. Native clients on loopback choose their port as they start.
    pub fn may_redirect(&self, uri: &str) -> bool {
        self.redirect_uris.iter().any(|known| {
            known == uri
                || (self.application_type == "native"
                    && is_loopback(known)
                    && without_port(known).is_some_and(|known| Some(known) == without_port(uri)))
        })
    }
}

fn redirect_fits(uri: &str, application: &str, host: &str) -> bool {
    if uri.contains('#') || uri.len() > REDIRECT_BYTES_MAX {
        return false;
    }
    let Some((scheme, _)) = uri.split_once(':') else { return false };
    match scheme {
        "https" => uri.parse::<Uri>().is_ok_and(|parsed| {
            parsed.host().is_some_and(|other| other == host || other.ends_with(&format!(".{host}")))
                && !parsed.authority().is_some_and(|authority| authority.as_str().contains('@'))
        }),
        "http" => application == "native" && is_loopback(uri),
        own => {
            let reversed = host.split('.').rev().collect::<Vec<_>>().join(".");
            let scheme_fits =
                own.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'+'));
            application == "native"
                && scheme_fits
                && (own == reversed || own.starts_with(&format!("{reversed}.")))
                && !uri[own.len() + 1..].starts_with("//")
        }
    }
}

fn is_loopback(uri: &str) -> bool {
    uri.parse::<Uri>().is_ok_and(|uri| {
        uri.scheme_str() == Some("http") && matches!(uri.host(), Some("localhost" | "127.0.0.1" | "[::1]"))
    })
}

fn without_port(uri: &str) -> Option<(String, String)> {
    let uri: Uri = uri.parse().ok()?;
    (uri.scheme_str() == Some("http"))
        .then(|| Some((uri.host()?.to_owned(), uri.path_and_query()?.as_str().to_owned())))?
}

impl Users {
    /// Registers a client; the same words make the same client, so that nothing grows by asking twice.
    pub async fn register_client(
        &self,
        metadata: &ClientMetadata,
    ) -> Result<Result<String, ClientError>, UserError> {
        if let Err(error) = metadata.check() {
            return Ok(Err(error));
        }
        let json = serde_json::to_string(metadata).unwrap_or_default();
        if json.len() > METADATA_BYTES_MAX {
            return Ok(Err(ClientError("invalid_client_metadata", "that is too much".into())));
        }
        let id = data_encoding::BASE64URL_NOPAD.encode(&Sha256::digest(json.as_bytes())[..18]);
        let (stored, now) = (id.clone(), self.clock.now_ms());
        self.store
            .write(move |tx: &mut WriteTx<'_>| {
                Ok::<_, UserError>(schema::oauth::put_client(tx, &stored, &json, now, CLIENTS_MAX)?)
            })
            .await?;
        Ok(Ok(id))
    }

    /// A registered client.
    pub async fn client(&self, id: &str) -> Result<Option<ClientMetadata>, UserError> {
        let id = id.to_owned();
        let json = self
            .store
            .read(move |tx: &ReadTx<'_>| Ok::<_, UserError>(schema::oauth::client(tx, &id)?))
            .await?;
        Ok(json.and_then(|json| serde_json::from_str(&json).ok()))
    }
}

/// Clients have one to five.
const REDIRECTS_MAX: usize = 20;
const REDIRECT_BYTES_MAX: usize = 2_048;
const METADATA_BYTES_MAX: usize = 16_384;
/// Clients remembered; beyond, those go that were used least recently and have no device.
const CLIENTS_MAX: u64 = 5_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn client(application: &str, redirect: &str) -> ClientMetadata {
        serde_json::from_value(serde_json::json!({
            "client_uri": "https://app.example.org", "redirect_uris": [redirect], "application_type": application,
        }))
        .unwrap()
    }

    #[test]
    fn redirects_lead_to_the_client_alone() {
        for (application, redirect) in [
            ("web", "https://app.example.org/login"),
            ("web", "https://sub.app.example.org/"),
            ("native", "org.example.app:/callback"),
            ("native", "org.example.app.debug:/callback"),
            ("native", "http://localhost/callback"),
            ("native", "http://[::1]/callback"),
        ] {
            assert!(client(application, redirect).check().is_ok(), "{redirect}");
        }
        for (application, redirect) in [
            ("web", "https://evil.example/login"),
            ("web", "https://app.example.org.evil.example/"),
            ("web", "https://app.example.org@evil.example/"),
            ("web", "https://app.example.org/#x"),
            ("web", "http://app.example.org/"),
            ("web", "http://localhost/"),
            ("web", "javascript:alert(1)"),
            ("native", "javascript:alert(1)"),
            ("native", "org.other:/x"),
            ("native", "org.example.app://host/x"),
            ("native", "http://192.168.0.1/"),
        ] {
            assert!(client(application, redirect).check().is_err(), "{redirect}");
        }
        let native = client("native", "http://localhost/callback");
        assert!(native.may_redirect("http://localhost:4711/callback"));
        assert!(!native.may_redirect("http://localhost:4711/other"));
        assert!(!native.may_redirect("https://localhost:4711/callback"));
    }
}
