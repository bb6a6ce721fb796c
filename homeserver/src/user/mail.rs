//! Mails to users, by the operator's SMTP server.

use std::time::Duration;

use lettre::{
    AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor,
    message::{Mailbox, header::ContentType},
    transport::smtp::authentication::Credentials,
};
use serde::Deserialize;

/// `[email]`: how mails leave this server.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmailSettings {
    /// The SMTP server.
    pub host: String,
    /// Its port; default 465 with `tls`, 587 with `starttls`, 25 with `none`.
    pub port: Option<u16>,
    /// How the connection is secured.
    #[serde(default)]
    pub security: Security,
    /// Who logs in there.
    pub user: Option<String>,
    /// The password that goes with it.
    pub password: Option<String>,
    /// Whom mails are from, e.g. `Chat <chat@example.org>`.
    pub from: String,
}

/// How the connection to the SMTP server is secured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// TLS from the first byte.
    Tls,
    /// TLS after STARTTLS; without it nothing is sent.
    #[default]
    Starttls,
    /// None: a server on this machine.
    None,
}

/// Sends mails.
#[derive(Clone, Debug)]
pub struct Mailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

impl Mailer {
    /// A mailer; the error says which setting is wrong.
    pub fn new(settings: &EmailSettings) -> Result<Self, String> {
        type Smtp = AsyncSmtpTransport<Tokio1Executor>;
        let from =
            settings.from.parse().map_err(|error| format!("email.from {:?}: {error}", settings.from))?;
        let refused = |error| format!("email.host {:?}: {error}", settings.host);
        let mut builder = match settings.security {
            Security::Tls => Smtp::relay(&settings.host).map_err(refused)?,
            Security::Starttls => Smtp::starttls_relay(&settings.host).map_err(refused)?,
            Security::None => Smtp::builder_dangerous(&settings.host),
        };
        if let Some(port) = settings.port {
            builder = builder.port(port);
        }
        match (&settings.user, &settings.password) {
            (Some(user), Some(password)) => {
                builder = builder.credentials(Credentials::new(user.clone(), password.clone()));
            }
            (None, None) => {}
            _ => return Err("email.user and email.password go together".into()),
        }
        Ok(Self { transport: builder.timeout(Some(SEND_WITHIN)).build(), from })
    }

    /// Whether somebody can be written to at this address.
    pub(super) fn can_reach(address: &str) -> bool {
        address.len() <= ADDRESS_BYTES_MAX && address.parse::<lettre::Address>().is_ok()
    }

    /// Sends one mail of plain text.
    pub(super) async fn send(&self, to: &str, subject: &str, text: String) -> Result<(), String> {
        let address = to.parse::<lettre::Address>().map_err(|error| error.to_string())?;
        let mail = Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, address))
            .subject(subject)
            .header(ContentType::TEXT_PLAIN)
            .body(text)
            .map_err(|error| error.to_string())?;
        self.transport.send(mail).await.map(drop).map_err(|error| error.to_string())
    }
}

/// RFC 5321's longest path.
const ADDRESS_BYTES_MAX: usize = 254;
/// A mail server that takes longer has other troubles.
const SEND_WITHIN: Duration = Duration::from_secs(20);
