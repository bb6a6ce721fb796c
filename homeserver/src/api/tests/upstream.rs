//! Log-in through an outside provider, with a provider on loopback: a known user, a newcomer, a taken name, forged tokens,
//! somebody else's browser.

use std::sync::Mutex;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair as _},
};

use super::*;
use crate::user::{AccountSettings, UpstreamSettings};

/// Whom the provider vouches for next, and how well.
#[derive(Clone)]
struct Vouch {
    claims: Value,
    /// Signs with a key that it does not publish.
    forged: bool,
}

struct Provider {
    issuer: String,
    key: Ed25519KeyPair,
    pkcs8: Vec<u8>,
    vouch: Mutex<Option<Vouch>>,
    asked: Mutex<Vec<HashMap<String, String>>>,
}

use std::collections::HashMap;

fn fields(text: &str) -> HashMap<String, String> {
    url::form_urlencoded::parse(text.as_bytes()).into_owned().collect()
}

async fn answer(
    axum::extract::State(provider): axum::extract::State<Arc<Provider>>,
    request: axum::extract::Request,
) -> String {
    let path = request.uri().path().to_owned();
    let issuer = &provider.issuer;
    let told = match &*path {
        "/.well-known/openid-configuration" => json!({
            "issuer": issuer, "authorization_endpoint": format!("{issuer}/authorize"),
            "token_endpoint": format!("{issuer}/token"), "jwks_uri": format!("{issuer}/keys"),
        }),
        "/keys" => {
            let x = URL_SAFE_NO_PAD.encode(provider.key.public_key());
            let strange = json!({ "kty": "new", "kid": "0" });
            json!({ "keys": [strange, { "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": "1", "x": x }] })
        }
        "/token" => {
            let basic = request.headers()["authorization"].to_str().unwrap().to_owned();
            assert_eq!(basic, format!("Basic {}", data_encoding::BASE64.encode(b"mangrove:secret%20text")));
            let body = request.into_body().collect().await.unwrap().to_bytes();
            provider.asked.lock().unwrap().push(fields(std::str::from_utf8(&body).unwrap()));
            let vouch = provider.vouch.lock().unwrap().clone().unwrap();
            let other = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
            let pkcs8 = if vouch.forged { other.as_ref() } else { &provider.pkcs8[..] };
            let mut header = Header::new(Algorithm::EdDSA);
            header.kid = Some("1".into());
            let token =
                jsonwebtoken::encode(&header, &vouch.claims, &EncodingKey::from_ed_der(pkcs8)).unwrap();
            json!({ "access_token": "a", "token_type": "Bearer", "id_token": token })
        }
        _ => json!({}),
    };
    told.to_string()
}

async fn provider() -> Arc<Provider> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap().as_ref().to_vec();
    let provider = Arc::new(Provider {
        issuer: format!("http://{}", listener.local_addr().unwrap()),
        key: Ed25519KeyPair::from_pkcs8(&pkcs8).unwrap(),
        pkcs8,
        vouch: Mutex::default(),
        asked: Mutex::default(),
    });
    let app = Router::new().fallback(answer).with_state(Arc::clone(&provider));
    tokio::spawn(async move { axum::serve(listener, app).await });
    provider
}

async fn home(provider: &Provider) -> Home {
    let oidc = vec![UpstreamSettings {
        id: "company".into(),
        name: "The <company>".into(),
        issuer: provider.issuer.clone(),
        client_id: "mangrove".into(),
        client_secret: Some(router::config::Secret::new("secret text")),
        scopes: vec!["openid".into()],
        name_claim: "preferred_username".into(),
        sign_up: true,
    }];
    let accounts = AccountSettings { oidc, ..AccountSettings::default() };
    Home::new(Settings { accounts, public_url: Some("https://chat.example.org".into()), ..open() }).await
}

/// One log-in's way: what the browser has, and what it was told.
struct Browser<'a> {
    home: &'a Home,
    cookie: String,
}

impl Browser<'_> {
    async fn ask(&mut self, method: Method, path: &str, body: &str) -> (StatusCode, String, String) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::COOKIE, self.cookie.clone())
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Body::from(body.to_owned()))
            .unwrap();
        let (head, html) = self.home.send(request).await;
        if let Some(cookie) = head.headers.get(header::SET_COOKIE) {
            let cookie = cookie.to_str().unwrap();
            assert!(cookie.contains("HttpOnly") && cookie.contains("Secure"), "{cookie}");
            self.cookie = cookie.split(';').next().unwrap().to_owned();
        }
        let location = head.headers.get(header::LOCATION).map(|to| to.to_str().unwrap().to_owned());
        (head.status, location.unwrap_or_default(), String::from_utf8(html.to_vec()).unwrap())
    }

    /// Begins at the client's address; gives what the provider is asked.
    async fn begin(&mut self) -> HashMap<String, String> {
        let to = "http%3A%2F%2Flocalhost%3A1234%2Fapp%3Fx%3D1";
        let path = format!("/_matrix/client/v3/login/sso/redirect/company?redirectUrl={to}");
        let (status, location, html) = self.ask(Method::GET, &path, "").await;
        assert_eq!(status, StatusCode::SEE_OTHER, "{html}");
        let (_, query) = location.split_once("/authorize?").unwrap();
        fields(query)
    }

    async fn back(&mut self, asked: &HashMap<String, String>) -> (StatusCode, String, String) {
        let path = format!("/_mangrove/oidc/callback?code=c&state={}", asked["state"]);
        self.ask(Method::GET, &path, "").await
    }
}

fn claims(provider: &Provider, asked: &HashMap<String, String>, sub: &str, name: &str) -> Value {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    json!({ "iss": provider.issuer, "aud": "mangrove", "sub": sub, "exp": now + 300, "iat": now,
        "nonce": asked["nonce"], "preferred_username": name, "name": "Ann Example" })
}

/// The token behind the link that a client waits for.
fn login_token(html: &str) -> String {
    let (_, rest) = html.split_once("loginToken=").unwrap_or_else(|| panic!("{html}"));
    rest.split('"').next().unwrap().to_owned()
}

async fn log_in(home: &Home, token: &str) -> (StatusCode, Value) {
    let body = json!({ "type": "m.login.token", "token": token });
    home.call(Method::POST, "/_matrix/client/v3/login", None, body).await
}

#[tokio::test]
async fn a_newcomer_gets_an_account_and_comes_back_to_it() {
    let provider = provider().await;
    let home = home(&provider).await;
    let (_, flows) = home.call(Method::GET, "/_matrix/client/v3/login", None, Value::Null).await;
    assert!(flows.to_string().contains(r#""id":"company""#), "{flows}");
    for _ in 0..2 {
        let mut browser = Browser { home: &home, cookie: String::new() };
        let asked = browser.begin().await;
        assert_eq!(asked["redirect_uri"], "https://chat.example.org/_mangrove/oidc/callback");
        assert_eq!(asked["code_challenge_method"], "S256");
        let claims = claims(&provider, &asked, "subject-1", "Ann@example.org");
        *provider.vouch.lock().unwrap() = Some(Vouch { claims, forged: false });
        let (status, _, html) = browser.back(&asked).await;
        assert_eq!(status, StatusCode::OK, "{html}");
        assert!(html.contains("http://localhost") && html.contains("/app?x=1&amp;loginToken="), "{html}");
        let (status, session) = log_in(&home, &login_token(&html)).await;
        assert_eq!(
            (status, &session["user_id"]),
            (StatusCode::OK, &json!(format!("@ann:{}", home.server.name)))
        );
        let exchanged = provider.asked.lock().unwrap().pop().unwrap();
        let challenge = URL_SAFE_NO_PAD
            .encode(ring::digest::digest(&ring::digest::SHA256, exchanged["code_verifier"].as_bytes()));
        assert_eq!((&exchanged["code"], challenge), (&"c".to_owned(), asked["code_challenge"].clone()));
        // The state is used up.
        assert_eq!(browser.back(&asked).await.0, StatusCode::BAD_REQUEST);
    }
}

#[tokio::test]
async fn whose_name_is_taken_chooses_another() {
    let provider = provider().await;
    let home = home(&provider).await;
    home.user("ann").await;
    let mut browser = Browser { home: &home, cookie: String::new() };
    let asked = browser.begin().await;
    let claims = claims(&provider, &asked, "subject-2", "ann");
    *provider.vouch.lock().unwrap() = Some(Vouch { claims, forged: false });
    let (_, _, mut html) = browser.back(&asked).await;
    for (name, works) in [("ann", false), ("not a name", false), ("Ann2", true)] {
        let (_, rest) = html.split_once("name=\"state\" value=\"").unwrap_or_else(|| panic!("{html}"));
        let state = rest.split('"').next().unwrap();
        let body = format!("state={state}&user={}", name.replace(' ', "+"));
        html = browser.ask(Method::POST, "/_mangrove/oidc/name", &body).await.2;
        assert_eq!(html.contains("loginToken="), works, "{name}: {html}");
    }
    let (_, session) = log_in(&home, &login_token(&html)).await;
    assert_eq!(session["user_id"], format!("@ann2:{}", home.server.name));
}

#[tokio::test]
async fn forged_tokens_and_other_browsers_are_refused() {
    let provider = provider().await;
    let home = home(&provider).await;
    let mut browser = Browser { home: &home, cookie: String::new() };
    type Spoil = fn(&mut Value);
    let spoils: [(&str, bool, Spoil); 6] = [
        ("another key", true, |_| {}),
        ("another log-in", false, |claims| claims["nonce"] = "other".into()),
        ("another client", false, |claims| claims["aud"] = "other".into()),
        ("another issuer", false, |claims| claims["iss"] = "https://evil.example.org".into()),
        ("long over", false, |claims| claims["exp"] = 1_000_000.into()),
        ("nobody", false, |claims| {
            claims.as_object_mut().unwrap().remove("sub");
        }),
    ];
    for (what, forged, spoil) in spoils {
        let asked = browser.begin().await;
        let mut claims = claims(&provider, &asked, "subject-3", "eve");
        spoil(&mut claims);
        *provider.vouch.lock().unwrap() = Some(Vouch { claims, forged });
        let (status, _, html) = browser.back(&asked).await;
        assert_eq!(status, StatusCode::BAD_GATEWAY, "{what}: {html}");
    }
    // A link that somebody else began.
    let asked = browser.begin().await;
    let claims = claims(&provider, &asked, "subject-3", "eve");
    *provider.vouch.lock().unwrap() = Some(Vouch { claims, forged: false });
    let mut other = Browser { home: &home, cookie: String::new() };
    assert_eq!(other.back(&asked).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(browser.back(&asked).await.0, StatusCode::OK, "its own browser still may");
    for bad in ["", "?redirectUrl=", "?redirectUrl=javascript%3Aalert(1)", "?redirectUrl=no%20address"] {
        let path = format!("/_matrix/client/v3/login/sso/redirect{bad}");
        let (status, _) = home.call(Method::GET, &path, None, Value::Null).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{bad}");
    }
    let unknown = "/_matrix/client/v3/login/sso/redirect/nobody?redirectUrl=http%3A%2F%2Fx";
    assert_eq!(home.call(Method::GET, unknown, None, Value::Null).await.0, StatusCode::NOT_FOUND);
}
