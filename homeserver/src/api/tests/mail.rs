//! E-mail addresses: proven by a link in a mail that a small SMTP server in this process takes in.

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
    sync::mpsc,
};

use super::*;
use crate::user::{AccountSettings, EmailSettings, Security};

/// Speaks as much SMTP as a client needs, and hands on each mail's text.
async fn smtp() -> (u16, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (mails, inbox) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { return };
            let mails = mails.clone();
            tokio::spawn(async move {
                let (read, mut write) = stream.into_split();
                let mut lines = BufReader::new(read).lines();
                write.write_all(b"220 sink\r\n").await.unwrap();
                let mut text: Option<String> = None;
                while let Ok(Some(line)) = lines.next_line().await {
                    let answer: &[u8] = match &mut text {
                        Some(mail) if line == "." => {
                            mails.send(std::mem::take(mail)).unwrap();
                            text = None;
                            b"250 taken\r\n"
                        }
                        Some(mail) => {
                            // Quoted-printable's soft line ends.
                            match line.strip_suffix('=') {
                                Some(part) => mail.push_str(part),
                                None => {
                                    mail.push_str(&line);
                                    mail.push('\n');
                                }
                            }
                            continue;
                        }
                        None if line == "DATA" => {
                            text = Some(String::new());
                            b"354 go on\r\n"
                        }
                        None => b"250 fine\r\n",
                    };
                    write.write_all(answer).await.unwrap();
                }
            });
        }
    });
    (port, inbox)
}

async fn home() -> (Home, mpsc::UnboundedReceiver<String>) {
    let (port, inbox) = smtp().await;
    let email = EmailSettings {
        host: "127.0.0.1".into(),
        port: Some(port),
        security: Security::None,
        user: None,
        password: None,
        from: "Chat <chat@example.org>".into(),
    };
    let accounts = AccountSettings { email: Some(email), ..AccountSettings::default() };
    (Home::new(Settings { accounts, ..open() }).await, inbox)
}

/// The link's query in a mail.
fn link(mail: &str) -> String {
    let mail = mail.replace("=3D", "=");
    let at = mail.find("/_mangrove/email?").unwrap_or_else(|| panic!("no link: {mail}"));
    mail[at..].split_whitespace().next().unwrap().split('?').nth(1).unwrap().to_owned()
}

async fn follow(home: &Home, query: &str) -> StatusCode {
    let request = Request::post("/_mangrove/email").body(Body::from(query.to_owned())).unwrap();
    home.send(request).await.0.status
}

#[tokio::test]
async fn an_address_is_proven_added_and_finds_the_account() {
    let (home, mut inbox) = home().await;
    let alice = home.user("alice").await;
    let path = "/_matrix/client/v3/account/3pid/email/requestToken";
    let ask = json!({ "client_secret": "hush", "email": "Alice@Example.org", "send_attempt": 1 });
    let (status, asked) = home.call(Method::POST, path, None, ask.clone()).await;
    assert_eq!(status, StatusCode::OK, "{asked}");
    let query = link(&inbox.recv().await.unwrap());
    // The same wish again sends nothing, a later one does; the older link ends then.
    let (_, again) = home.call(Method::POST, path, None, ask).await;
    assert_eq!(again["sid"], asked["sid"]);
    assert!(inbox.try_recv().is_err());
    let ask = json!({ "client_secret": "hush", "email": "alice@example.org", "send_attempt": 2 });
    home.call(Method::POST, path, None, ask).await;
    let newer = link(&inbox.recv().await.unwrap());
    assert_eq!(follow(&home, &query).await, StatusCode::BAD_REQUEST);

    let auth = json!({ "type": "m.login.password", "password": PASSWORD,
        "identifier": { "type": "m.id.user", "user": "alice" } });
    let add = json!({ "client_secret": "hush", "sid": asked["sid"], "auth": auth });
    let add_path = "/_matrix/client/v3/account/3pid/add";
    assert_error(home.post(add_path, &alice, add.clone()).await, 401, "M_THREEPID_AUTH_FAILED");
    // Looking at the link proves nothing, the button does.
    let (head, _) =
        home.send(Request::get(format!("/_mangrove/email?{newer}")).body(Body::empty()).unwrap()).await;
    assert_eq!(head.status, StatusCode::OK);
    assert_error(home.post(add_path, &alice, add.clone()).await, 401, "M_THREEPID_AUTH_FAILED");
    assert_eq!(follow(&home, &newer).await, StatusCode::OK);
    let mut stolen = add.clone();
    stolen["client_secret"] = "guess".into();
    assert_error(home.post(add_path, &alice, stolen).await, 401, "M_THREEPID_AUTH_FAILED");
    let (status, added) = home.post(add_path, &alice, add).await;
    assert_eq!(status, StatusCode::OK, "{added}");
    let (_, known) = home.get("/_matrix/client/v3/account/3pid", &alice).await;
    assert_eq!(known["threepids"][0]["address"], "alice@example.org");

    let body = json!({ "type": "m.login.password", "password": PASSWORD,
        "identifier": { "type": "m.id.thirdparty", "medium": "email", "address": "ALICE@example.org" } });
    let (status, made) = home.call(Method::POST, "/_matrix/client/v3/login", None, body).await;
    assert_eq!((status, &made["user_id"]), (StatusCode::OK, &json!(alice.id)), "{made}");
    // It is taken now.
    let ask = json!({ "client_secret": "x", "email": "alice@example.org", "send_attempt": 1 });
    let taken = home.call(Method::POST, "/_matrix/client/v3/register/email/requestToken", None, ask).await;
    assert_error(taken, 400, "M_THREEPID_IN_USE");
}

#[tokio::test]
async fn a_forgotten_password_is_set_by_mail_once() {
    let (home, mut inbox) = home().await;
    let alice = home.user("alice").await;
    let user = ruma::UserId::parse(&*alice.id).unwrap();
    home.server.users.set_addresses(&user, &["alice@example.org".into()]).await.unwrap();
    let path = "/_matrix/client/v3/account/password/email/requestToken";
    let nobody = json!({ "client_secret": "x", "email": "nobody@example.org", "send_attempt": 1 });
    assert_error(home.call(Method::POST, path, None, nobody).await, 400, "M_THREEPID_NOT_FOUND");
    let ask = json!({ "client_secret": "x", "email": "alice@example.org", "send_attempt": 1 });
    let (_, asked) = home.call(Method::POST, path, None, ask).await;
    let query = link(&inbox.recv().await.unwrap());

    let password = "/_matrix/client/v3/account/password";
    let (status, flows) =
        home.call(Method::POST, password, None, json!({ "new_password": "a new one" })).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!(flows["flows"], json!([{ "stages": ["m.login.email.identity"] }]), "{flows}");
    let body = json!({ "new_password": "a new one", "auth": { "type": "m.login.email.identity",
        "session": flows["session"],
        "threepid_creds": { "sid": asked["sid"], "client_secret": "x" } } });
    let (status, early) = home.call(Method::POST, password, None, body.clone()).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{early}");
    assert_eq!(follow(&home, &query).await, StatusCode::OK);
    let (status, done) = home.call(Method::POST, password, None, body.clone()).await;
    assert_eq!(status, StatusCode::OK, "{done}");
    assert_error(home.get("/_matrix/client/v3/account/whoami", &alice).await, 401, "M_UNKNOWN_TOKEN");
    let (status, _) = home.call(Method::POST, password, None, body).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "a link is good once");
    assert!(home.server.users.check_password(&user, "a new one").await.is_ok());
}

#[tokio::test]
async fn without_mail_it_is_said() {
    let home = Home::new(open()).await;
    let path = "/_matrix/client/v3/account/3pid/email/requestToken";
    let ask = json!({ "client_secret": "x", "email": "alice@example.org", "send_attempt": 1 });
    assert_error(home.call(Method::POST, path, None, ask).await, 400, "M_THREEPID_MEDIUM_NOT_SUPPORTED");
}
