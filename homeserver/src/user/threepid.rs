//! E-mail addresses: proving one by a link in a mail, adding it to an account, finding an account by it.
// spec: https://spec.matrix.org/v1.19/client-server-api/#adding-account-administrative-contact-information

use ruma::{OwnedUserId, UserId};

use super::{UserError, Users, active, mail::Mailer, token};
use crate::store::{
    Nid, ReadTx, StoreError, WriteTx,
    schema::{self, threepids::ProofRow},
};

pub use crate::store::schema::threepids::ThreepidRow as Threepid;

/// What an address is proven for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To be added to an account.
    Add = 0,
    /// To register with.
    Register = 1,
    /// To set a new password.
    Password = 2,
}

/// A client's wish for a mail.
#[derive(Clone, Debug)]
pub struct AskMail {
    /// What for.
    pub purpose: Purpose,
    /// The address as typed.
    pub address: String,
    /// The client's secret.
    pub secret: String,
    /// Counts the client's wishes: the same number again sends no second mail.
    pub attempt: u64,
    /// Where the browser goes on afterwards.
    pub next_link: Option<String>,
    /// Where this server's pages are, without a slash at the end.
    pub base_url: String,
}

/// An address that somebody has just proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address, in lower case.
    pub address: String,
    /// When it was proven.
    pub validated_ms: u64,
    /// The session it was proven in: ends when it is used.
    sid: String,
}

impl Address {
    /// Gives the address to an account, in the caller's write.
    pub(super) fn give_to(&self, tx: &mut WriteTx<'_>, user: Nid, now_ms: u64) -> Result<(), UserError> {
        match schema::threepids::owner(tx, "email", &self.address)? {
            Some(owner) if owner != user => return Err(UserError::AddressInUse),
            _ => {}
        }
        if schema::threepids::of_user(tx, user)?.len() >= ADDRESSES_MAX {
            return Err(UserError::TooLarge("an account has at most 20 addresses".into()));
        }
        let row = Threepid {
            medium: "email".into(),
            address: self.address.clone(),
            validated_ms: self.validated_ms,
            added_ms: now_ms,
        };
        schema::threepids::put(tx, user, &row)?;
        Ok(schema::threepids::end_proof(tx, &self.sid)?)
    }
}

/// Path of the page behind a mail's link.
pub const SUBMIT_PATH: &str = "/_mangrove/email";

impl Users {
    /// Whether this server can send mails at all.
    pub fn sends_mail(&self) -> bool {
        self.mailer().is_some()
    }

    /// Sends a mail with a link that proves an address; gives the session's id.
    pub async fn ask_mail(&self, ask: AskMail) -> Result<String, UserError> {
        let mailer = self.mailer().ok_or(UserError::NoMail)?;
        let address = canonical(&ask.address)?;
        let secret_fits = (1..=255).contains(&ask.secret.len());
        let next_fits = ask.next_link.as_ref().is_none_or(|link| {
            link.len() <= LINK_BYTES_MAX && (link.starts_with("https://") || link.starts_with("http://"))
        });
        if !secret_fits || !next_fits {
            return Err(UserError::Invalid("client_secret or next_link is not as it should be".into()));
        }
        // The session's name follows from who asks for what: asking again is the same session.
        let name = format!("{} {} {address}", ask.purpose as u8, ask.secret);
        let sid = data_encoding::BASE64URL_NOPAD.encode(&token::hash(&name)[..18]);
        let link_token = token::random();
        let now = self.clock.now_ms();
        let row = ProofRow {
            secret: ask.secret.clone(),
            address: address.clone(),
            purpose: ask.purpose as u8,
            attempt: ask.attempt,
            token: token::hash(&link_token).to_vec(),
            next_link: ask.next_link.clone(),
            expires_ms: now + PROOF_MS,
            validated_ms: None,
        };
        let (id, purpose) = (sid.clone(), ask.purpose);
        let send = self
            .store
            .write(move |tx: &mut WriteTx<'_>| {
                let owned = schema::threepids::owner(tx, "email", &row.address)?.is_some();
                match purpose {
                    Purpose::Add | Purpose::Register if owned => return Err(UserError::AddressInUse),
                    Purpose::Password if !owned => return Err(UserError::UnknownAddress),
                    _ => {}
                }
                if schema::threepids::proof(tx, &id, now)?.is_some_and(|old| old.attempt >= row.attempt) {
                    return Ok(false);
                }
                if schema::threepids::proofs(tx)? >= PROOFS_MAX {
                    return Err(UserError::Busy);
                }
                schema::threepids::put_proof(tx, &id, &row, now)?;
                Ok(true)
            })
            .await?;
        if send {
            let link = format!("{}{SUBMIT_PATH}?sid={sid}&token={link_token}", ask.base_url);
            let (subject, text) = words(ask.purpose, &self.name, &link);
            mailer.send(&address, &subject, text).await.map_err(|error| {
                tracing::warn!(%error, "a mail could not be sent; see the section [email]");
                UserError::MailFailed
            })?;
        }
        Ok(sid)
    }

    /// Whether a mail's link is good: shown before its button is pressed.
    pub async fn mail_link(&self, sid: &str, link_token: &str) -> Result<(), UserError> {
        let (sid, hash, now) = (sid.to_owned(), token::hash(link_token), self.clock.now_ms());
        self.store
            .read(move |tx: &ReadTx<'_>| match schema::threepids::proof(tx, &sid, now)? {
                Some(row) if row.token == hash => Ok(()),
                _ => Err(UserError::NotProven),
            })
            .await
    }

    /// A mail's link was followed; gives where the browser goes on.
    pub async fn follow_mail_link(&self, sid: &str, link_token: &str) -> Result<Option<String>, UserError> {
        let (sid, hash, now) = (sid.to_owned(), token::hash(link_token), self.clock.now_ms());
        self.store
            .write(move |tx: &mut WriteTx<'_>| match schema::threepids::proof(tx, &sid, now)? {
                Some(mut row) if row.token == hash => {
                    row.validated_ms.get_or_insert(now);
                    schema::threepids::put_proof(tx, &sid, &row, now)?;
                    Ok(row.next_link)
                }
                _ => Err(UserError::NotProven),
            })
            .await
    }

    /// The address that was proven in a session of this secret.
    pub async fn proven_address(&self, sid: &str, secret: &str) -> Result<Address, UserError> {
        let (sid, secret, now) = (sid.to_owned(), secret.to_owned(), self.clock.now_ms());
        self.store
            .read(move |tx: &ReadTx<'_>| match schema::threepids::proof(tx, &sid, now)? {
                Some(ProofRow { secret: known, address, validated_ms: Some(validated_ms), .. })
                    if known == secret =>
                {
                    Ok(Address { address, validated_ms, sid })
                }
                _ => Err(UserError::NotProven),
            })
            .await
    }

    /// Ends a proof that has served its purpose.
    pub async fn spend_address(&self, proven: Address) -> Result<(), UserError> {
        self.store
            .write(move |tx: &mut WriteTx<'_>| {
                Ok::<_, UserError>(schema::threepids::end_proof(tx, &proven.sid)?)
            })
            .await
    }

    /// Adds a proven address to an account.
    pub async fn add_address(&self, user: &UserId, proven: Address) -> Result<(), UserError> {
        let (user, now) = (user.to_owned(), self.clock.now_ms());
        self.store
            .write(move |tx: &mut WriteTx<'_>| {
                let nid = active(tx, &user)?;
                proven.give_to(tx, nid, now)
            })
            .await
    }

    /// Sets an account's addresses, as an administrator does: without proof.
    pub async fn set_addresses(&self, user: &UserId, addresses: &[String]) -> Result<(), UserError> {
        let addresses = addresses.iter().map(|address| canonical(address)).collect::<Result<Vec<_>, _>>()?;
        if addresses.len() > ADDRESSES_MAX {
            return Err(UserError::TooLarge("an account has at most 20 addresses".into()));
        }
        let (user, now) = (user.to_owned(), self.clock.now_ms());
        self.store
            .write(move |tx: &mut WriteTx<'_>| {
                let nid = active(tx, &user)?;
                for row in schema::threepids::of_user(tx, nid)? {
                    schema::threepids::remove(tx, nid, &row.medium, &row.address)?;
                }
                for address in addresses {
                    let row = Threepid { medium: "email".into(), address, validated_ms: now, added_ms: now };
                    schema::threepids::put(tx, nid, &row)?;
                }
                Ok(())
            })
            .await
    }

    /// A user's addresses.
    pub async fn addresses(&self, user: &UserId) -> Result<Vec<Threepid>, UserError> {
        let user = user.to_owned();
        self.store
            .read(move |tx: &ReadTx<'_>| {
                let nid = active(tx, &user)?;
                Ok(schema::threepids::of_user(tx, nid)?)
            })
            .await
    }

    /// Takes an address off an account; that it is not there is no error.
    pub async fn remove_address(&self, user: &UserId, medium: &str, address: &str) -> Result<(), UserError> {
        let (user, medium, address) = (user.to_owned(), medium.to_owned(), address.to_lowercase());
        self.store
            .write(move |tx: &mut WriteTx<'_>| {
                let nid = active(tx, &user)?;
                schema::threepids::remove(tx, nid, &medium, &address)?;
                Ok(())
            })
            .await
    }

    /// Whose address this is.
    pub async fn by_email(&self, address: &str) -> Result<Option<OwnedUserId>, UserError> {
        let address = address.to_lowercase();
        self.store
            .read(move |tx: &ReadTx<'_>| {
                let Some(nid) = schema::threepids::owner(tx, "email", &address)? else { return Ok(None) };
                let user = UserId::parse(&*tx.text(nid)?)
                    .map_err(|_| StoreError::Corrupt("an address of no user"))?;
                Ok(Some(user))
            })
            .await
    }
}

/// Addresses are compared in lower case: nobody tells them apart by case.
fn canonical(address: &str) -> Result<String, UserError> {
    let address = address.trim().to_lowercase();
    if !Mailer::can_reach(&address) {
        return Err(UserError::Invalid("that is not an e-mail address".into()));
    }
    Ok(address)
}

fn words(purpose: Purpose, server: &ruma::ServerName, link: &str) -> (String, String) {
    let (subject, why) = match purpose {
        Purpose::Add => ("Confirm your e-mail address", "to add this address to your account"),
        Purpose::Register => ("Confirm your e-mail address", "to register an account"),
        Purpose::Password => ("Set a new password", "to set a new password"),
    };
    let text = format!(
        "Somebody asked the chat server {server} {why}.\n\nIf that was you, open this link and press the button \
         there:\n\n{link}\n\nIf it was not, do nothing; the link ends in a day.\n"
    );
    (format!("{subject} on {server}"), text)
}

/// How long a link is good.
const PROOF_MS: u64 = 86_400_000;
/// Proofs under way at once: some 400 bytes each; they end in a day.
const PROOFS_MAX: u64 = 20_000;
/// Addresses of one account: far more than anybody needs.
const ADDRESSES_MAX: usize = 20;
const LINK_BYTES_MAX: usize = 2_048;
