//! Who reaches which endpoint: every one of the client side is asked with no token, with a wrong one, and in another
//! user's name.

use super::*;
use crate::{
    api::routes::{Group, Table},
    appservice::registration::Registration,
    http::standing::Policy,
    user::{AccountSettings, Flag, General},
};

/// Endpoints that answer without a token, after their version: logging in, discovery, and what a link in a mail or a
/// browser opens. Whatever is not here has to ask for one, a new endpoint too.
const OPEN: &[&str] = &[
    "/_matrix/client/versions",
    "/account/3pid/email/requestToken",
    "/account/3pid/msisdn/requestToken",
    // Both may be called by whoever proves another way who they are.
    "/account/deactivate",
    "/account/password",
    "/account/password/email/requestToken",
    "/account/password/msisdn/requestToken",
    "/auth/{auth_type}/fallback/web",
    "/auth_metadata",
    "/login",
    "/login/sso/redirect",
    "/login/sso/redirect/{idp_id}",
    "/org.matrix.msc2918/refresh",
    "/org.matrix.msc2965/auth_issuer",
    "/org.matrix.msc2965/auth_metadata",
    "/org.matrix.msc3231/register/org.matrix.msc3231.login.registration_token/validity",
    "/refresh",
    "/register",
    "/register/available",
    "/register/email/requestToken",
    "/register/m.login.registration_token/validity",
    "/register/msisdn/requestToken",
    // Two devices meet there before one of them is logged in.
    "/io.element.msc4388/rendezvous",
    "/io.element.msc4388/rendezvous/{id}",
    "/org.matrix.msc4108/rendezvous",
    "/_mangrove/rendezvous/{id}",
    // They ask for an OpenID token, of whatever server.
    "/_mangrove/rtc/get_token",
    "/_mangrove/rtc/sfu/get",
];

/// A path as [`OPEN`] has it.
fn unversioned(path: &str) -> &str {
    let rest = path.strip_prefix("/_matrix/client/");
    rest.and_then(|rest| rest.find('/').map(|at| &rest[at..])).unwrap_or(path)
}

fn filled(path: &str, user: &str) -> String {
    let parts = path.split('/').map(|part| match part {
        "{user_id}" => user.to_owned(),
        "{room_id}" => "!room:mesh.alt".to_owned(),
        "{room_id_or_alias}" | "{room_alias}" => "%23alias:mesh.alt".to_owned(),
        "{event_id}" => format!("$%41{}", "A".repeat(42)),
        "{server_name}" => "mesh.alt".to_owned(),
        part if part.starts_with('{') => "x".to_owned(),
        part => part.to_owned(),
    });
    let path = parts.collect::<Vec<_>>().join("/");
    format!("{path}?dir=f&ts=1&url=http://x&timeout=0")
}

/// The client side's endpoints that want a token.
fn closed() -> Vec<(Method, &'static str)> {
    let endpoints = Table::whole().endpoints();
    let closed = endpoints.into_iter().filter(|(group, method, path)| {
        // Whoever knows a delayed event's id may change it.
        let by_id = *method == Method::POST && path.contains("/delayed_events/");
        // Old media paths are open by their nature; the test of media looks at them.
        let media =
            path.starts_with("/_matrix/media/") && !path.contains("upload") && !path.contains("create");
        *group == Group::Client && !media && !by_id && !OPEN.contains(&unversioned(path))
    });
    closed.map(|(_, method, path)| (method, path)).collect()
}

async fn status_of(home: &Home, method: Method, path: &str, token: Option<&str>) -> (StatusCode, String) {
    let mut request = Request::builder().method(method.clone()).uri(path);
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let body = if method == Method::GET { Body::empty() } else { Body::from("{}") };
    let (head, body) = home.send(request.body(body).unwrap()).await;
    let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
    (head.status, answer["errcode"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn every_open_endpoint_is_there() {
    let endpoints = Table::whole().endpoints();
    for open in OPEN {
        assert!(endpoints.iter().any(|(_, _, path)| unversioned(path) == *open), "{open}");
    }
}

/// Administrators' endpoints but for the one that asks for the shared secret.
fn administrators() -> Vec<(Method, &'static str)> {
    let endpoints = Table::whole().endpoints().into_iter();
    let theirs = endpoints.filter(|(group, _, path)| {
        *group == Group::Admin
            && !path.ends_with("/_synapse/admin/v1/register")
            && !path.ends_with("/server_version")
    });
    theirs.map(|(_, method, path)| (method, path)).collect()
}

#[tokio::test]
async fn administrators_endpoints_are_for_administrators_alone() {
    let accounts = AccountSettings {
        general: General { guests: true, ..General::default() },
        ..AccountSettings::default()
    };
    let registration = Arc::new(Registration::parse(REGISTRATION).unwrap());
    let home = Home::new(Settings { accounts, appservices: vec![registration], ..open() }).await;
    let (alice, bob, root) = (home.user("alice").await, home.user("bob").await, home.user("root").await);
    let register = "/_matrix/client/v3/register?kind=guest";
    let guest = User::of(&home.call(Method::POST, register, None, json!({})).await.1);
    let name = |user: &User| ruma::UserId::parse(&*user.id).unwrap();
    home.server.users.set_flag(&name(&bob), Flag::Suspended, true).await.unwrap();
    home.server.users.set_flag(&name(&root), Flag::Admin, true).await.unwrap();
    let all = administrators();
    assert!(all.len() > 50, "the table has lost endpoints: {}", all.len());
    let mut wrong = Vec::new();
    for (method, path) in all {
        let uri = filled(path, "@nobody:mesh.alt");
        let mut expect = async |token: Option<&str>, expected: u16, who: &str| {
            let (status, said) = status_of(&home, method.clone(), &uri, token).await;
            if status.as_u16() != expected {
                wrong.push(format!("{method} {path}, {who}: {status} {said}"));
            }
        };
        expect(None, 401, "without a token").await;
        expect(Some("nonsense"), 401, "with a wrong one").await;
        expect(Some(&alice.token), 403, "a user").await;
        expect(Some(&bob.token), 403, "somebody suspended").await;
        expect(Some(&guest.token), 403, "a guest").await;
        expect(Some("as_secret"), 401, "a service").await;
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // The same paths let an administrator in.
    for path in
        ["/_synapse/admin/v2/users", "/_synapse/admin/v1/rooms", "/_synapse/admin/v1/registration_tokens"]
    {
        assert_eq!(status_of(&home, Method::GET, path, Some(&root.token)).await.0, StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn nothing_is_told_or_done_without_a_token() {
    let home = Home::new(open()).await;
    let closed = closed();
    assert!(closed.len() > 150, "the table has lost endpoints: {}", closed.len());
    let mut wrong = Vec::new();
    for (method, path) in closed {
        let uri = filled(path, "@alice:mesh.alt");
        for (token, errcode) in [(None, "M_MISSING_TOKEN"), (Some("nonsense"), "M_UNKNOWN_TOKEN")] {
            let (status, said) = status_of(&home, method.clone(), &uri, token).await;
            if status != StatusCode::UNAUTHORIZED || said != errcode {
                wrong.push(format!("{method} {path} with {token:?}: {status} {said}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Whether an answer says that this kind of account may not do this here.
fn refused((status, said): &(StatusCode, String), errcode: &str) -> bool {
    *status == StatusCode::FORBIDDEN && said == errcode
}

/// Endpoints that are no question of the caller's standing: they end its session, are for services alone, or open to all.
fn asks_nothing(path: &str) -> bool {
    path.ends_with("/logout")
        || path.ends_with("/logout/all")
        || path.contains("/appservice/{appservice_id}/ping")
        || path.contains("/directory/list/room/")
        || path.contains("/directory/list/appservice/")
}

#[tokio::test]
async fn guests_are_refused_wherever_they_have_no_business() {
    let accounts = AccountSettings {
        general: General { guests: true, ..General::default() },
        ..AccountSettings::default()
    };
    let home = Home::new(Settings { accounts, ..open() }).await;
    let register = "/_matrix/client/v3/register?kind=guest";
    let (_, made) = home.call(Method::POST, register, None, json!({})).await;
    let guest = User::of(&made);
    let mut wrong = Vec::new();
    let (mut may, mut may_not) = (0, 0);
    for (method, path) in closed() {
        if asks_nothing(path) {
            continue;
        }
        let uri = filled(path, &guest.id);
        let answer = status_of(&home, method.clone(), &uri, Some(&guest.token)).await;
        let let_in = Policy::of(&method, path).lets_guests_in();
        if refused(&answer, "M_GUEST_ACCESS_FORBIDDEN") == let_in {
            wrong.push(format!("{method} {path}, open to guests: {let_in}: {answer:?}"));
        }
        if let_in { may += 1 } else { may_not += 1 }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(may > 50 && may_not > 80, "{may} {may_not}");
}

#[tokio::test]
async fn suspended_and_locked_accounts_are_refused_at_every_endpoint_that_is_not_theirs() {
    let home = Home::new(open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let name = |user: &User| ruma::UserId::parse(&*user.id).unwrap();
    home.server.users.set_flag(&name(&alice), Flag::Suspended, true).await.unwrap();
    home.server.users.set_flag(&name(&bob), Flag::Locked, true).await.unwrap();
    let mut wrong = Vec::new();
    let mut held = 0;
    for (method, path) in closed() {
        if asks_nothing(path) {
            continue;
        }
        let answer = status_of(&home, method.clone(), &filled(path, &alice.id), Some(&alice.token)).await;
        let may = Policy::of(&method, path).lets_suspended_in();
        // A redaction is looked at: of nothing that is there, it is refused.
        if refused(&answer, "M_USER_SUSPENDED") == may {
            wrong.push(format!("{method} {path}, open to the suspended: {may}: {answer:?}"));
        }
        held += u32::from(!may);
        let answer = status_of(&home, method.clone(), &filled(path, &bob.id), Some(&bob.token)).await;
        if answer != (StatusCode::UNAUTHORIZED, "M_USER_LOCKED".to_owned()) {
            wrong.push(format!("{method} {path}, locked: {answer:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(held > 25, "{held}");
}

const REGISTRATION: &str = "
id: bridge
url: null
as_token: as_secret
hs_token: hs_secret
sender_localpart: bridgebot
namespaces:
  users: [{regex: '@_bridge_.*', exclusive: true}]
";

#[tokio::test]
async fn an_application_service_acts_for_its_own_users_and_nobody_elses() {
    let registration = Registration::parse(REGISTRATION).unwrap();
    let home = Home::new(Settings { appservices: vec![Arc::new(registration)], ..open() }).await;
    let alice = home.user("alice").await;
    let mut wrong = Vec::new();
    for (method, path) in closed() {
        if asks_nothing(path) || path.starts_with("/_synapse/") {
            continue;
        }
        // In the name of a user who is not the service's, and of one that it has not made.
        for user in [alice.id.as_str(), "@_bridge_nobody:elsewhere.org", "@_bridge_unmade:mesh.alt"] {
            let uri = format!("{}&user_id={user}", filled(path, user));
            let (status, said) = status_of(&home, method.clone(), &uri, Some("as_secret")).await;
            let open_to_services =
                path.contains("/appservice/") || path.contains("/directory/list/appservice");
            if !(open_to_services || status == StatusCode::FORBIDDEN || said == "M_EXCLUSIVE") {
                wrong.push(format!("{method} {path} as {user}: {status} {said}"));
            }
        }
        let (status, said) =
            status_of(&home, method.clone(), &filled(path, &alice.id), Some("hs_secret")).await;
        if status != StatusCode::UNAUTHORIZED {
            wrong.push(format!("{method} {path} with the token that we show: {status} {said}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn nobody_acts_in_anothers_name() {
    let home = Home::new(open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let mut wrong = Vec::new();
    for (method, path) in closed() {
        let own = path.contains("/user/{user_id}/")
            || path.contains("/profile/{user_id}") && method != Method::GET
            || path.contains("/presence/{user_id}") && method == Method::PUT;
        if !own || path.contains("/report") {
            continue;
        }
        let uri = filled(path, &alice.id);
        let (status, said) = status_of(&home, method.clone(), &uri, Some(&bob.token)).await;
        // A body or parameter that does not fit may be found first; it must never be taken.
        if status.is_success() || status == StatusCode::NOT_FOUND {
            wrong.push(format!("{method} {path}: {status} {said}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
