//! Log-in through an outside OpenID Connect provider: the browser is sent there, comes back with a code, and the provider says
//! by a signed token who it is.
//!
//! spec: <https://openid.net/specs/openid-connect-core-1_0.html>

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jsonwebtoken::{Algorithm, DecodingKey, Validation, jwk::Jwk};
use router::config::Secret;
use ruma::{OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::{NewAccount, Proof, UserError, Users, active, token};
use crate::{
    clock::Clock,
    remote::web::{Web, encode_form},
    store::{ReadTx, StoreError, schema},
};

/// `[[oidc]]`: one provider.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamSettings {
    /// What addresses and the database call it; never changed: accounts are tied to it.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Its issuer, whose `/.well-known/openid-configuration` says the rest.
    pub issuer: String,
    /// What it calls us.
    pub client_id: String,
    /// What we prove it with, if it has given us something.
    #[serde(default, deserialize_with = "secret")]
    pub client_secret: Option<Secret>,
    /// What we ask to know.
    #[serde(default = "scopes")]
    pub scopes: Vec<String>,
    /// The claim that new accounts are named after; whoever's is taken chooses another.
    #[serde(default = "preferred_username")]
    pub name_claim: String,
    /// Whether whoever is known there but not here gets an account.
    #[serde(default = "yes")]
    pub sign_up: bool,
}

fn secret<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Secret>, D::Error> {
    String::deserialize(deserializer).map(|text| Some(Secret::new(text)))
}

fn scopes() -> Vec<String> {
    ["openid", "profile", "email"].map(str::to_owned).to_vec()
}

fn preferred_username() -> String {
    "preferred_username".to_owned()
}

fn yes() -> bool {
    true
}

/// Where a log-in goes on when the provider has said who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Then {
    /// A client waits at this address for a log-in token.
    Client(String),
    /// One of our own pages.
    Page(String),
}

/// Why a log-in through a provider did not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamError {
    /// No provider has this id.
    #[error("no such provider")]
    Unknown,
    /// Nothing like it was begun in this browser, or it is over.
    #[error("this log-in was not begun in this browser, or is too old; begin anew")]
    NotBegun,
    /// The provider could not be asked, or said nonsense; the operator finds why in the log.
    #[error("the provider did not answer as it should; try again later")]
    Provider(String),
    /// It refused.
    #[error("the provider refused: {0}")]
    Refused(String),
    /// It knows somebody whom we do not, and newcomers are not let in.
    #[error("you have no account here yet; ask whoever runs this server")]
    NoAccount,
    /// A verb on users.
    #[error(transparent)]
    User(#[from] UserError),
}

/// A provider as it describes itself.
#[derive(Clone, Debug, Deserialize)]
struct Metadata {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    userinfo_endpoint: Option<String>,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Vec<String>,
}

/// A log-in under way, found by the state that the browser brings back.
struct Pending {
    provider: usize,
    /// SHA-256 of the cookie of the browser that began.
    browser: [u8; 32],
    verifier: String,
    nonce: String,
    callback: String,
    then: Then,
    /// Who it is, once the provider has said so and a name is still to be chosen.
    known: Option<Known>,
    until_ms: u64,
}

/// Whom a provider knows.
#[derive(Clone, Debug)]
struct Known {
    /// The provider's name for the person; never changes.
    subject: String,
    /// What the account could be called.
    localpart: Option<String>,
    /// What the person is called.
    displayname: Option<String>,
}

/// How far a log-in came.
pub enum Step {
    /// The provider knows this user of ours.
    Done(OwnedUserId, Then),
    /// A newcomer has to choose a name: the log-in's state, and what could be taken.
    ChooseName(String, Option<String>),
}

/// The providers, and log-ins under way.
pub struct Upstreams {
    providers: Vec<UpstreamSettings>,
    web: Web,
    clock: Clock,
    metadata: tokio::sync::Mutex<HashMap<usize, (u64, Arc<Metadata>)>>,
    pending: Mutex<HashMap<String, Pending>>,
}

impl Upstreams {
    /// The providers that the operator has configured.
    pub fn new(providers: Vec<UpstreamSettings>, web: Web, clock: Clock) -> Self {
        Self { providers, web, clock, metadata: Default::default(), pending: Mutex::default() }
    }

    /// All of them.
    pub fn providers(&self) -> &[UpstreamSettings] {
        &self.providers
    }

    /// Begins a log-in: where to send the browser, and its cookie. `id`: which provider; `None`: the first.
    pub async fn begin(
        &self,
        id: Option<&str>,
        callback: String,
        then: Then,
    ) -> Result<(String, String), UpstreamError> {
        let at = self.providers.iter().position(|known| id.is_none_or(|id| known.id == id));
        let at = at.ok_or(UpstreamError::Unknown)?;
        let (metadata, provider) = (self.metadata(at).await?, &self.providers[at]);
        let (state, cookie, nonce) = (token::random(), token::random(), token::random());
        // 64 characters: RFC 7636 wants 43 to 128.
        let verifier = format!("{}{}", token::random(), token::random());
        let challenge = data_encoding::BASE64URL_NOPAD.encode(&Sha256::digest(verifier.as_bytes()));
        let query = encode_form(&[
            ("response_type", "code"),
            ("client_id", &provider.client_id),
            ("redirect_uri", &callback),
            ("scope", &provider.scopes.join(" ")),
            ("state", &state),
            ("nonce", &nonce),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ]);
        let now = self.clock.now_ms();
        let mut pending = self.pending();
        pending.retain(|_, one| one.until_ms > now);
        if pending.len() >= PENDING_MAX {
            // Only a flood comes here; those who meant it begin anew.
            pending.clear();
        }
        let browser = token::hash(&cookie);
        let until_ms = now + PENDING_MS;
        pending.insert(
            state,
            Pending { provider: at, browser, verifier, nonce, callback, then, known: None, until_ms },
        );
        let joint = if metadata.authorization_endpoint.contains('?') { '&' } else { '?' };
        Ok((format!("{}{joint}{query}", metadata.authorization_endpoint), cookie))
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<String, Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a log-in up again, in the browser that began it. It is used up.
    fn take(&self, state: &str, cookie: &str) -> Result<Pending, UpstreamError> {
        let now = self.clock.now_ms();
        let mut pending = self.pending();
        let fits =
            pending.get(state).is_some_and(|one| one.until_ms > now && one.browser == token::hash(cookie));
        // With another browser's cookie it stays: a stranger must not be able to end it.
        if fits { pending.remove(state).ok_or(UpstreamError::NotBegun) } else { Err(UpstreamError::NotBegun) }
    }

    /// The browser is back with the provider's answer.
    pub async fn finish(
        &self,
        users: &Users,
        state: &str,
        cookie: &str,
        answer: Result<&str, &str>,
    ) -> Result<Step, UpstreamError> {
        let mut one = self.take(state, cookie)?;
        let code = answer.map_err(|error| UpstreamError::Refused(error.chars().take(100).collect()))?;
        let known = self.exchange(&one, code).await?;
        let provider = &self.providers[one.provider];
        if let Some(user) = users.by_upstream(&provider.id, &known.subject).await? {
            return Ok(Step::Done(user, one.then));
        }
        if !provider.sign_up {
            return Err(UpstreamError::NoAccount);
        }
        let proposed = known.localpart.clone();
        if let Some(name) = &proposed
            && let Ok(user) = users.register_upstream(&provider.id, &known, name).await
        {
            return Ok(Step::Done(user, one.then));
        }
        one.known = Some(known);
        one.until_ms = self.clock.now_ms() + PENDING_MS;
        let state = token::random();
        self.pending().insert(state.clone(), one);
        Ok(Step::ChooseName(state, proposed))
    }

    /// A newcomer has chosen a name. If it cannot be had, the log-in goes on under a new state.
    pub async fn choose(
        &self,
        users: &Users,
        state: &str,
        cookie: &str,
        name: &str,
    ) -> Result<Result<(OwnedUserId, Then), (String, UserError)>, UpstreamError> {
        let one = self.take(state, cookie)?;
        let known = one.known.clone().ok_or(UpstreamError::NotBegun)?;
        match users.register_upstream(&self.providers[one.provider].id, &known, name).await {
            Ok(user) => Ok(Ok((user, one.then))),
            Err(UserError::Store(error)) => Err(UserError::Store(error).into()),
            Err(error) => {
                let state = token::random();
                self.pending().insert(state.clone(), one);
                Ok(Err((state, error)))
            }
        }
    }

    async fn metadata(&self, at: usize) -> Result<Arc<Metadata>, UpstreamError> {
        let now = self.clock.now_ms();
        let mut known = self.metadata.lock().await;
        if let Some((until, metadata)) = known.get(&at)
            && *until > now
        {
            return Ok(Arc::clone(metadata));
        }
        let issuer = &self.providers[at].issuer;
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let json = self.web.get(&url, None).await.map_err(failed)?;
        let metadata: Metadata = object(&json)?;
        if metadata.issuer.trim_end_matches('/') != issuer.trim_end_matches('/') {
            return Err(failed(format!("{url}: it says that it is {}", metadata.issuer)));
        }
        let metadata = Arc::new(metadata);
        known.insert(at, (now + METADATA_MS, Arc::clone(&metadata)));
        Ok(metadata)
    }

    /// Turns the code into what the provider says of the person.
    async fn exchange(&self, one: &Pending, code: &str) -> Result<Known, UpstreamError> {
        #[derive(Deserialize)]
        struct Tokens {
            id_token: String,
            access_token: Option<String>,
        }
        let (metadata, provider) = (self.metadata(one.provider).await?, &self.providers[one.provider]);
        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", &one.callback),
            ("code_verifier", &one.verifier),
        ];
        let methods = &metadata.token_endpoint_auth_methods_supported;
        let basic = methods.is_empty() || methods.iter().any(|method| method == "client_secret_basic");
        let secret = match &provider.client_secret {
            Some(secret) => Some(std::str::from_utf8(secret.expose()).map_err(|_| failed("the secret"))?),
            None => None,
        };
        let json = match secret {
            Some(secret) if basic => {
                let proof = (provider.client_id.as_str(), secret);
                self.web.post_form_as(&metadata.token_endpoint, &form, Some(proof)).await
            }
            _ => {
                form.push(("client_id", &provider.client_id));
                form.extend(secret.map(|secret| ("client_secret", secret)));
                self.web.post_form_as(&metadata.token_endpoint, &form, None).await
            }
        };
        let tokens: Tokens = object(&json.map_err(failed)?)?;
        let keys = self.web.get(&metadata.jwks_uri, None).await.map_err(failed)?;
        let keys: Map<String, Value> = object(&keys)?;
        let mut claims = verify(&tokens.id_token, &keys, &metadata.issuer, &provider.client_id, &one.nonce)?;
        let subject = text(&claims, "sub").ok_or_else(|| failed("an id token without a subject"))?;
        if text(&claims, &provider.name_claim).is_none()
            && let (Some(url), Some(access)) = (&metadata.userinfo_endpoint, &tokens.access_token)
        {
            let more: Map<String, Value> = object(&self.web.get(url, Some(access)).await.map_err(failed)?)?;
            // Only what is about the same person counts.
            if text(&more, "sub").as_deref() == Some(&*subject) {
                for (name, value) in more {
                    claims.entry(name).or_insert(value);
                }
            }
        }
        let localpart = text(&claims, &provider.name_claim).map(|name| localpart(&name));
        Ok(Known {
            subject,
            localpart: localpart.filter(|name| !name.is_empty()),
            displayname: text(&claims, "name").map(|name| name.chars().take(NAME_CHARS_MAX).collect()),
        })
    }
}

/// Checks a signed token against the provider's keys; gives its claims.
fn verify(
    id_token: &str,
    keys: &Map<String, Value>,
    issuer: &str,
    client_id: &str,
    nonce: &str,
) -> Result<Map<String, Value>, UpstreamError> {
    let header = jsonwebtoken::decode_header(id_token).map_err(failed)?;
    // By public keys alone: with a shared secret the algorithm would be the token's to choose.
    if !ALGORITHMS.contains(&header.alg) {
        return Err(failed(format!("an id token signed with {:?}", header.alg)));
    }
    let mut validation = Validation::new(header.alg);
    validation.set_audience(&[client_id]);
    validation.set_issuer(&[issuer]);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    let keys = keys.get("keys").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut wrong = failed("no key of the provider's fits its id token");
    for key in keys.iter().take(KEYS_MAX) {
        // Keys of kinds that we do not know are passed over.
        let Ok(key) = serde_json::from_value::<Jwk>(key.clone()) else { continue };
        if header.kid.is_some() && key.common.key_id.is_some() && key.common.key_id != header.kid {
            continue;
        }
        let Ok(decoding) = DecodingKey::from_jwk(&key) else { continue };
        match jsonwebtoken::decode::<Map<String, Value>>(id_token, &decoding, &validation) {
            Ok(token) if text(&token.claims, "nonce").as_deref() == Some(nonce) => return Ok(token.claims),
            Ok(_) => wrong = failed("an id token for another log-in"),
            Err(error) => wrong = failed(error),
        }
    }
    Err(wrong)
}

fn text(claims: &Map<String, Value>, name: &str) -> Option<String> {
    let text = claims.get(name)?.as_str()?;
    (text.len() <= CLAIM_BYTES_MAX).then(|| text.to_owned())
}

/// A name as user ids may have it: small letters, and `_` for what they must not have; of an address, what is before the @.
fn localpart(name: &str) -> String {
    let name = name.split('@').next().unwrap_or_default().trim().to_lowercase();
    let name: String = name
        .chars()
        .map(|char| match char {
            'a'..='z' | '0'..='9' | '.' | '_' | '=' | '-' => char,
            _ => '_',
        })
        .take(NAME_CHARS_MAX)
        .collect();
    // Names that begin so are bridges'.
    name.trim_start_matches('_').to_owned()
}

fn failed(error: impl ToString) -> UpstreamError {
    UpstreamError::Provider(error.to_string())
}

/// An object of a known shape (a struct may also be written as a list; nobody means that).
fn object<T: serde::de::DeserializeOwned>(json: &[u8]) -> Result<T, UpstreamError> {
    let map: Map<String, Value> = serde_json::from_slice(json).map_err(failed)?;
    serde_json::from_value(map.into()).map_err(failed)
}

impl Users {
    /// The user whom a provider knows by this subject, if the account is not deactivated.
    async fn by_upstream(&self, provider: &str, subject: &str) -> Result<Option<OwnedUserId>, UserError> {
        let (provider, subject) = (provider.to_owned(), subject.to_owned());
        self.store
            .read(move |tx: &ReadTx<'_>| {
                let Some(nid) = schema::oauth::upstream(tx, &provider, &subject)? else { return Ok(None) };
                let user = UserId::parse(&*tx.text(nid)?)
                    .map_err(|_| StoreError::Corrupt("an outside account of no user"))?;
                active(tx, &user)?;
                if schema::accounts::standing(tx, nid)?.locked {
                    return Err(UserError::Locked);
                }
                Ok(Some(user))
            })
            .await
    }

    /// Makes an account for somebody whom a provider knows, and ties it to them.
    async fn register_upstream(
        &self,
        provider: &str,
        known: &Known,
        name: &str,
    ) -> Result<OwnedUserId, UserError> {
        let account = NewAccount {
            localpart: Some(name.trim().to_lowercase()),
            displayname: known.displayname.clone(),
            upstream: Some((provider.to_owned(), known.subject.clone())),
            ..NewAccount::new(Proof::Operator)
        };
        Ok(self.register(account, None).await?.0)
    }
}

/// What an id token may be signed with.
const ALGORITHMS: [Algorithm; 6] = [
    Algorithm::RS256,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];
/// Log-ins under way, some 500 bytes each.
const PENDING_MAX: usize = 10_000;
/// How long one may take: people look for their second factor.
const PENDING_MS: u64 = 600_000;
/// How long what a provider says of itself is believed.
const METADATA_MS: u64 = 3_600_000;
/// Keys of a provider that are tried.
const KEYS_MAX: usize = 32;
const CLAIM_BYTES_MAX: usize = 255;
const NAME_CHARS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_local_parts() {
        for (name, expected) in [
            ("Alice", "alice"),
            ("alice@example.org", "alice"),
            ("Bob Smith", "bob_smith"),
            ("_irc_x", "irc_x"),
            ("Zoë/..", "zo__.."),
            ("@", ""),
        ] {
            assert_eq!(localpart(name), expected);
        }
    }
}
