//! OAuth 2.0 as Element does it: metadata, registration, the pages, tokens, refresh, revocation, the device's way.

use std::collections::HashMap;

use super::*;
use crate::user::token;

const BASE: &str = "https://chat.example.org";
const VERIFIER: &str = "a-verifier-of-forty-three-characters-or-more-x";
const SCOPE: &str = "urn:matrix:client:api:* urn:matrix:client:device:OAUTHDEVICE";

async fn home() -> Home {
    Home::new(Settings { public_url: Some(BASE.into()), hosts: vec!["chat.example.org".into()], ..open() })
        .await
}

fn encode(form: &[(&str, &str)]) -> String {
    crate::remote::web::encode_form(form)
}

/// A browser: keeps its cookie, follows nothing by itself.
struct Tab<'a> {
    home: &'a Home,
    cookie: Option<String>,
}

struct Shown {
    status: StatusCode,
    location: Option<String>,
    html: String,
}

impl Shown {
    /// The value of a hidden field.
    fn hidden(&self, name: &str) -> String {
        let at = self
            .html
            .find(&format!("name=\"{name}\" value=\""))
            .unwrap_or_else(|| panic!("{name}: {}", self.html));
        let rest = &self.html[at + name.len() + 15..];
        rest[..rest.find('"').unwrap()].replace("&amp;", "&")
    }
}

impl<'a> Tab<'a> {
    fn new(home: &'a Home) -> Self {
        Self { home, cookie: None }
    }

    async fn go(&mut self, request: http::request::Builder, body: String) -> Shown {
        let request = match &self.cookie {
            Some(cookie) => request.header(header::COOKIE, format!("mangrove={cookie}")),
            None => request,
        };
        let (head, body) = self.home.send(request.body(Body::from(body)).unwrap()).await;
        if let Some(set) = head.headers.get(header::SET_COOKIE) {
            let set = set.to_str().unwrap();
            assert!(
                set.contains("HttpOnly") && set.contains("SameSite=Lax") && set.contains("Secure"),
                "{set}"
            );
            self.cookie = Some(set["mangrove=".len()..].split(';').next().unwrap().to_owned());
        }
        Shown {
            status: head.status,
            location: head.headers.get(header::LOCATION).map(|to| to.to_str().unwrap().to_owned()),
            html: String::from_utf8_lossy(&body).into_owned(),
        }
    }

    async fn get(&mut self, path: &str) -> Shown {
        self.go(Request::get(path), String::new()).await
    }

    async fn post(&mut self, path: &str, page: &Shown, form: &[(&str, &str)]) -> Shown {
        let mark = page.hidden("mark");
        let mut all = vec![("mark", &*mark)];
        all.extend_from_slice(form);
        self.go(Request::post(path), encode(&all)).await
    }

    /// From the log-in page to where it leads.
    async fn log_in(&mut self, to: &str, user: &str, password: &str) -> Shown {
        let page = self.get(to).await;
        let next = page.hidden("next");
        self.post("/_mangrove/login", &page, &[("user", user), ("password", password), ("next", &next)]).await
    }
}

async fn register(home: &Home) -> String {
    let client = json!({ "client_name": "Test <app>", "client_uri": "https://app.example.org",
        "redirect_uris": ["https://app.example.org/done"], "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"], "token_endpoint_auth_method": "none", "application_type": "web" });
    let (status, made) = home.call(Method::POST, "/_mangrove/oauth/register", None, client).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    made["client_id"].as_str().unwrap().to_owned()
}

fn authorize(client: &str, more: &[(&str, &str)]) -> String {
    let challenge = data_encoding::BASE64URL_NOPAD.encode(&token::hash(VERIFIER));
    let mut form: HashMap<&str, &str> = HashMap::from([
        ("client_id", client),
        ("redirect_uri", "https://app.example.org/done"),
        ("response_type", "code"),
        ("response_mode", "query"),
        ("state", "st&te"),
        ("scope", SCOPE),
        ("code_challenge_method", "S256"),
        ("code_challenge", &challenge),
    ]);
    form.extend(more.iter().copied());
    let form: Vec<(&str, &str)> = form.into_iter().collect();
    format!("/_mangrove/oauth/authorize?{}", encode(&form))
}

async fn tokens(home: &Home, form: &[(&str, &str)]) -> (StatusCode, Value) {
    let request = Request::post("/_mangrove/oauth/token").body(Body::from(encode(form))).unwrap();
    let (head, body) = home.send(request).await;
    (head.status, serde_json::from_slice(&body).unwrap())
}

fn part(location: &str, name: &str) -> String {
    let query = location.split(['?', '#']).nth(1).unwrap();
    let pair = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    percent_encoding::percent_decode_str(pair.unwrap_or_else(|| panic!("{name}: {location}")))
        .decode_utf8()
        .unwrap()
        .into_owned()
}

#[tokio::test]
async fn metadata_is_told_only_where_clients_can_trust_it() {
    let home = home().await;
    let path = "/_matrix/client/v1/auth_metadata";
    let (status, metadata) = home.call(Method::GET, path, None, Value::Null).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(metadata["issuer"], "https://chat.example.org/");
    assert_eq!(metadata["code_challenge_methods_supported"], json!(["S256"]));
    for endpoint in
        ["authorization_endpoint", "token_endpoint", "registration_endpoint", "revocation_endpoint"]
    {
        assert!(metadata[endpoint].as_str().unwrap().starts_with(BASE), "{metadata}");
    }
    for public_url in [None, Some("http://chat.example.org".to_owned())] {
        let without = Home::new(Settings { public_url, ..open() }).await;
        assert_error(without.call(Method::GET, path, None, Value::Null).await, 404, "M_UNRECOGNIZED");
        let refused = without.call(Method::GET, "/_mangrove/account", None, Value::Null).await;
        assert_error(refused, 404, "M_UNRECOGNIZED");
    }
}

#[tokio::test]
async fn a_client_is_let_in_refreshes_and_is_shut_out() {
    let home = home().await;
    let alice = home.user("alice").await;
    let client = register(&home).await;
    assert_eq!(client, register(&home).await, "the same words are the same client");
    let mut tab = Tab::new(&home);

    let first = tab.get(&authorize(&client, &[])).await;
    let login = first.location.unwrap();
    assert!(login.starts_with("/_mangrove/login?next="), "{login}");
    let wrong = tab.log_in(&login, "alice", "wrong").await;
    assert_eq!(wrong.status, StatusCode::FORBIDDEN);
    let in_now = tab.log_in(&login, "Alice", PASSWORD).await;
    let consent = tab.get(&in_now.location.unwrap()).await;
    assert!(
        consent.html.contains("Test &lt;app&gt;") && consent.html.contains(&alice.id),
        "{}",
        consent.html
    );
    assert!(!consent.html.contains("<script"));
    let request = consent.hidden("request");
    // A form that another site made carries no mark of ours.
    let forged = tab
        .go(
            Request::post("/_mangrove/oauth/authorize"),
            encode(&[("request", &request), ("decision", "allow")]),
        )
        .await;
    assert_eq!(forged.status, StatusCode::FORBIDDEN);
    let denied = tab
        .post("/_mangrove/oauth/authorize", &consent, &[("request", &request), ("decision", "deny")])
        .await;
    assert_eq!(part(&denied.location.unwrap(), "error"), "access_denied");
    let allowed = tab
        .post("/_mangrove/oauth/authorize", &consent, &[("request", &request), ("decision", "allow")])
        .await;
    let to = allowed.location.unwrap();
    assert!(to.starts_with("https://app.example.org/done?"), "{to}");
    assert_eq!(part(&to, "state"), "st&te");
    assert_eq!(part(&to, "iss"), "https://chat.example.org/");
    let code = part(&to, "code");

    let redeem = |verifier: &'static str| {
        let (client, code) = (client.clone(), code.clone());
        let home = &home;
        async move {
            tokens(
                home,
                &[
                    ("grant_type", "authorization_code"),
                    ("client_id", &client),
                    ("code", &code),
                    ("redirect_uri", "https://app.example.org/done"),
                    ("code_verifier", verifier),
                ],
            )
            .await
        }
    };
    let (status, given) = redeem(VERIFIER).await;
    assert_eq!(status, StatusCode::OK, "{given}");
    assert_eq!((&given["token_type"], &given["scope"]), (&json!("Bearer"), &json!(SCOPE)));
    let access = given["access_token"].as_str().unwrap();
    let (_, who) =
        home.call(Method::GET, "/_matrix/client/v3/account/whoami", Some(access), Value::Null).await;
    assert_eq!((&who["user_id"], &who["device_id"]), (&json!(alice.id), &json!("OAUTHDEVICE")), "{who}");

    let refresh = given["refresh_token"].as_str().unwrap().to_owned();
    let (status, stolen) = tokens(
        &home,
        &[("grant_type", "refresh_token"), ("client_id", "other"), ("refresh_token", &refresh)],
    )
    .await;
    assert_eq!((status, &stolen["error"]), (StatusCode::BAD_REQUEST, &json!("invalid_client")));
    let (status, next) = tokens(
        &home,
        &[("grant_type", "refresh_token"), ("client_id", &client), ("refresh_token", &refresh)],
    )
    .await;
    assert_eq!(status, StatusCode::OK, "{next}");
    let access = next["access_token"].as_str().unwrap();
    let whoami = "/_matrix/client/v3/account/whoami";
    assert_eq!(home.call(Method::GET, whoami, Some(access), Value::Null).await.0, StatusCode::OK);
    let (_, old) = tokens(
        &home,
        &[("grant_type", "refresh_token"), ("client_id", &client), ("refresh_token", &refresh)],
    )
    .await;
    assert_eq!(old["error"], "invalid_grant");

    // A code that comes twice was stolen: what it made ends.
    let (_, twice) = redeem(VERIFIER).await;
    assert_eq!(twice["error"], "invalid_grant");
    assert_error(home.call(Method::GET, whoami, Some(access), Value::Null).await, 401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn what_does_not_hold_is_refused() {
    let home = home().await;
    home.user("alice").await;
    let client = register(&home).await;
    let mut tab = Tab::new(&home);
    // Nobody is answered at a place that was not registered.
    for more in [("redirect_uri", "https://evil.example/"), ("client_id", "nobody")] {
        let shown = tab.get(&authorize(&client, &[more])).await;
        assert_eq!((shown.status, shown.location), (StatusCode::BAD_REQUEST, None));
    }
    for (more, error) in [
        (("response_type", "token"), "unsupported_response_type"),
        (("code_challenge_method", "plain"), "invalid_request"),
        (("scope", "openid"), "invalid_scope"),
    ] {
        let shown = tab.get(&authorize(&client, &[more, ("response_mode", "fragment")])).await;
        let to = shown.location.unwrap();
        assert!(to.starts_with("https://app.example.org/done#"), "{to}");
        assert_eq!(part(&to, "error"), error);
    }
    // Links do not lead out of our pages.
    let page = tab.get("/_mangrove/login?next=https://evil.example/").await;
    assert_eq!(page.hidden("next"), "/_mangrove/account");
    // The wrong verifier.
    let login = tab.get(&authorize(&client, &[])).await.location.unwrap();
    let at = tab.log_in(&login, "alice", PASSWORD).await.location.unwrap();
    let consent = tab.get(&at).await;
    let request = consent.hidden("request");
    let to = tab
        .post("/_mangrove/oauth/authorize", &consent, &[("request", &request), ("decision", "allow")])
        .await
        .location
        .unwrap();
    let (status, refused) = tokens(
        &home,
        &[
            ("grant_type", "authorization_code"),
            ("client_id", &client),
            ("code", &part(&to, "code")),
            ("redirect_uri", "https://app.example.org/done"),
            ("code_verifier", "another"),
        ],
    )
    .await;
    assert_eq!((status, &refused["error"]), (StatusCode::BAD_REQUEST, &json!("invalid_grant")));
}

#[tokio::test]
async fn a_device_without_a_browser_is_linked() {
    let home = home().await;
    let alice = home.user("alice").await;
    let client = register(&home).await;
    let form = encode(&[("client_id", &client), ("scope", SCOPE)]);
    let (_, body) = home.send(Request::post("/_mangrove/oauth/device").body(Body::from(form)).unwrap()).await;
    let asked: Value = serde_json::from_slice(&body).unwrap();
    let (code, user_code) = (asked["device_code"].as_str().unwrap(), asked["user_code"].as_str().unwrap());
    let poll = || {
        let form = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
            ("client_id", &*client),
            ("device_code", code),
        ];
        let home = &home;
        async move { tokens(home, &form).await.1 }
    };
    assert_eq!(poll().await["error"], "authorization_pending");
    assert_eq!(poll().await["error"], "slow_down");
    home.server.clock.advance(5_001);
    assert_eq!(poll().await["error"], "authorization_pending");

    let mut tab = Tab::new(&home);
    let login = tab.get(&format!("/_mangrove/link?code={user_code}")).await.location.unwrap();
    let at = tab.log_in(&login, "alice", PASSWORD).await.location.unwrap();
    let page = tab.get(&at).await;
    assert!(page.html.contains("OAUTHDEVICE"), "{}", page.html);
    let done = tab.post("/_mangrove/link", &page, &[("code", user_code), ("decision", "allow")]).await;
    assert!(done.html.contains("is linked"), "{}", done.html);
    let given = poll().await;
    let access = given["access_token"].as_str().unwrap_or_else(|| panic!("{given}"));
    let (_, who) =
        home.call(Method::GET, "/_matrix/client/v3/account/whoami", Some(access), Value::Null).await;
    assert_eq!(who["user_id"], alice.id);
    assert_eq!(poll().await["error"], "invalid_grant");

    // Revocation ends the device.
    let form = encode(&[("token", given["refresh_token"].as_str().unwrap()), ("client_id", &client)]);
    home.send(Request::post("/_mangrove/oauth/revoke").body(Body::from(form)).unwrap()).await;
    let gone = home.call(Method::GET, "/_matrix/client/v3/account/whoami", Some(access), Value::Null).await;
    assert_error(gone, 401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn the_account_page_does_what_it_says() {
    let home = home().await;
    let alice = home.user("alice").await;
    let user = ruma::UserId::parse(&*alice.id).unwrap();
    let mut tab = Tab::new(&home);
    let login = tab.get("/_mangrove/account?action=org.matrix.profile").await.location.unwrap();
    let at = tab.log_in(&login, "alice", PASSWORD).await.location.unwrap();
    let page = tab.get(&at).await;
    assert!(page.html.contains(&alice.device), "{}", page.html);
    let page = tab.post("/_mangrove/account", &page, &[("do", "rename"), ("name", "A. <b>")]).await;
    assert!(page.html.contains("A. &lt;b&gt;"), "{}", page.html);
    tab.post("/_mangrove/account", &page, &[("do", "end_device"), ("device_id", &alice.device)]).await;
    assert_error(home.get("/_matrix/client/v3/account/whoami", &alice).await, 401, "M_UNKNOWN_TOKEN");

    assert!(!home.server.users.may_reset_identity(&user));
    let reset = tab.get("/_mangrove/account?action=org.matrix.cross_signing_reset").await;
    tab.post("/_mangrove/account", &reset, &[("do", "reset_identity")]).await;
    assert!(home.server.users.may_reset_identity(&user));
    home.server.clock.advance(600_001);
    assert!(!home.server.users.may_reset_identity(&user));

    let page = tab.get("/_mangrove/account").await;
    let form = [("do", "password"), ("password", "wrong"), ("new_password", "the next one")];
    let page = tab.post("/_mangrove/account", &page, &form).await;
    assert!(page.html.contains("wrong"), "{}", page.html);
    let form = [("do", "password"), ("password", PASSWORD), ("new_password", "the next one")];
    tab.post("/_mangrove/account", &page, &form).await;
    home.server.users.check_password(&user, "the next one").await.unwrap();
    let page = tab.get("/_mangrove/account?action=org.matrix.account_deactivate").await;
    let form = [("do", "deactivate"), ("password", "the next one")];
    let gone = tab.post("/_mangrove/account", &page, &form).await;
    assert_eq!(gone.status, StatusCode::SEE_OTHER);
    assert!(!home.server.users.exists(&user).await.unwrap());
}

#[tokio::test]
async fn a_newcomer_signs_up_in_the_browser() {
    let home = home().await;
    let client = register(&home).await;
    let mut tab = Tab::new(&home);
    let at = tab.get(&authorize(&client, &[("prompt", "create")])).await.location.unwrap();
    assert!(at.starts_with("/_mangrove/signup?"), "{at}");
    let page = tab.get(&at).await;
    let next = page.hidden("next");
    let short = tab
        .post("/_mangrove/signup", &page, &[("user", "bob"), ("password", "short"), ("next", &next)])
        .await;
    assert_eq!(short.status, StatusCode::FORBIDDEN);
    let made = tab
        .post("/_mangrove/signup", &short, &[("user", "Bob"), ("password", PASSWORD), ("next", &next)])
        .await;
    let consent = tab.get(&made.location.unwrap()).await;
    assert!(consent.html.contains("@bob:"), "{}", consent.html);
}
