//! Who may say what: keys are fetched and believed as the identity says, forged requests are refused.

use ruma::{
    OwnedTransactionId, ServerName,
    api::federation::{
        directory::get_public_rooms, discovery::get_server_version, query::get_profile_information,
        transactions::send_transaction_message,
    },
};

use super::harness::{Peer, signed};
use crate::{account::DEFAULT_ZONE, remote::memory::MemoryNet};

fn transaction(origin: &ServerName) -> send_transaction_message::v1::Request {
    let id = OwnedTransactionId::from("t1");
    let now = ruma::MilliSecondsSinceUnixEpoch::now();
    send_transaction_message::v1::Request::new(id, origin.to_owned(), now)
}

#[tokio::test]
async fn servers_find_each_other_by_name_and_believe_signatures() {
    let net = MemoryNet::new();
    let (a, b) = (Peer::start(&net, 1).await, Peer::start(&net, 2).await);
    let version = a.server.remote.request(b.name(), get_server_version::v1::Request::new()).await.unwrap();
    assert_eq!(version.server.unwrap().name.unwrap(), "Mangrove");
    // Signed: b fetches a's keys and checks them.
    let alice = b.user("bob").await;
    let request = get_profile_information::v1::Request::new(alice);
    a.server.remote.request(b.name(), request.clone()).await.unwrap();
    let fetched = |net: &MemoryNet| {
        net.requests()
            .iter()
            .filter(|(_, to, path)| *to == a.node() && path == "/_matrix/key/v2/server")
            .count()
    };
    assert_eq!(fetched(&net), 1);
    a.server.remote.request(b.name(), request).await.unwrap();
    assert_eq!(fetched(&net), 1, "keys are kept");
    // A restarted server still knows them.
    let b = b.restart().await;
    let request = get_profile_information::v1::Request::new(b.id("bob"));
    a.server.remote.request(b.name(), request).await.unwrap();
    assert_eq!(fetched(&net), 1, "also over a restart");
}

#[tokio::test]
async fn forged_requests_are_refused() {
    let net = MemoryNet::new();
    let (a, b) = (Peer::start(&net, 1).await, Peer::start(&net, 2).await);
    let c = Peer::start(&net, 3).await;
    let key = |peer: &Peer| peer.server.remote.identity().signing_key();
    let ask = |from: &Peer, request| b.ask(from.node(), request);

    // As it should be.
    let good = signed(transaction(a.name()), a.name(), b.name(), &key(&a));
    assert_eq!(ask(&a, good).await.0, 200);

    // No signature at all.
    let mut bare = signed(transaction(a.name()), a.name(), b.name(), &key(&a));
    bare.headers_mut().remove(http::header::AUTHORIZATION);
    let (status, body) = ask(&a, bare).await;
    assert_eq!((status, &body["errcode"]), (401, &"M_UNAUTHORIZED".into()));

    // Another server's key under a's name: the key id is not a's.
    let forged = signed(transaction(a.name()), a.name(), b.name(), &key(&c));
    assert_eq!(ask(&a, forged).await.0, 401);

    // a's signature, replayed from another node.
    let stolen = signed(transaction(a.name()), a.name(), b.name(), &key(&a));
    let (status, body) = ask(&c, stolen).await;
    assert_eq!(status, 401, "{body}");
    assert!(body["error"].as_str().unwrap().contains("does not belong"), "{body}");

    // Meant for somebody else.
    let other = signed(transaction(a.name()), a.name(), c.name(), &key(&a));
    assert_eq!(ask(&a, other).await.0, 401);

    // The body was changed on the way.
    let mut bent = signed(transaction(a.name()), a.name(), b.name(), &key(&a));
    let text = String::from_utf8(bent.body().to_vec()).unwrap();
    *bent.body_mut() = text.replace("\"pdus\":[]", "\"pdus\":[{}]").into();
    assert_eq!(ask(&a, bent).await.0, 401);

    // The path was changed on the way.
    let mut bent = signed(get_public_rooms::v1::Request::new(), a.name(), b.name(), &key(&a));
    *bent.uri_mut() = "/_matrix/federation/v1/publicRooms?limit=5".parse().unwrap();
    assert_eq!(ask(&a, bent).await.0, 401);

    // A transaction in another's name, rightly signed by the one who sends it.
    let lie = signed(transaction(c.name()), a.name(), b.name(), &key(&a));
    assert_eq!(ask(&a, lie).await.0, 403);

    // In b's own name.
    let mirror = signed(transaction(b.name()), b.name(), b.name(), &key(&b));
    assert_eq!(ask(&a, mirror).await.0, 401);

    // An ordinary name cannot come over the overlay.
    let ordinary = ServerName::parse("example.org").unwrap();
    let request = signed(transaction(&ordinary), &ordinary, b.name(), &key(&a));
    let (status, body) = ask(&a, request).await;
    assert_eq!(status, 401);
    assert!(body["error"].as_str().unwrap().contains("not a name of the overlay"), "{body}");

    // The same account under another zone is nobody.
    let account = a.server.remote.identity().acct();
    for zone in ["evil.org", "other.alt"] {
        assert_ne!(zone, DEFAULT_ZONE);
        let alias = account.name_in(zone).unwrap();
        let request = signed(transaction(&alias), &alias, b.name(), &key(&a));
        assert_eq!(ask(&a, request).await.0, 401, "{alias}");
    }
}

#[tokio::test]
async fn names_that_lead_nowhere_say_why() {
    let net = MemoryNet::new();
    let (a, b) = (Peer::start(&net, 1).await, Peer::start(&net, 2).await);
    let ask = |name: String| async {
        let name = ServerName::parse(name).unwrap();
        let answer = a.server.remote.request(&name, get_server_version::v1::Request::new()).await;
        answer.unwrap_err().to_string()
    };
    let absent = crate::account::Acct([7; 32]).name_in("mesh.alt").unwrap();
    for (name, text) in [
        ("example.org".to_owned(), "overlay only"),
        ("nobody.alt".to_owned(), "nobody's name"),
        (absent.to_string(), "cannot be found"),
        (format!("{}:8448", b.name()), "nobody's name"),
        (b.name().as_str().replace("mesh.alt", "evil.org"), "cannot be found"),
        (a.name().to_string(), "with itself"),
    ] {
        let error = ask(name.clone()).await;
        assert!(error.contains(text), "{name}: {error}");
    }
    net.set_away(b.node(), true);
    let error = ask(b.name().to_string()).await;
    assert!(error.contains("cable"), "{error}");
    net.set_away(b.node(), false);
    ask_ok(&a, &b).await;
}

async fn ask_ok(a: &Peer, b: &Peer) {
    a.server.remote.request(b.name(), get_server_version::v1::Request::new()).await.unwrap();
}

#[tokio::test]
async fn strangers_see_no_client_api_over_the_overlay() {
    let net = MemoryNet::new();
    let (a, b) = (Peer::start(&net, 1).await, Peer::start(&net, 2).await);
    for path in [
        "/_matrix/client/v3/login",
        "/_matrix/client/v3/register",
        "/_matrix/client/versions",
        "/.well-known/matrix/client",
        "/_x/neighbours/v1/list",
    ] {
        let request = http::Request::get(path).body(bytes::Bytes::new()).unwrap();
        let status = b.ask(a.node(), request).await.0;
        assert!(matches!(status, 403 | 404), "{path}: {status}");
    }
    let log = http::Request::get(crate::api::x::IDENTITY_PATH).body(bytes::Bytes::new()).unwrap();
    let (status, body) = b.ask(a.node(), log).await;
    assert_eq!(status, 200);
    assert_eq!(body["entries"].as_array().unwrap().len(), 1);
}
