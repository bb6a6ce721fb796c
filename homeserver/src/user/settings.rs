//! What the operator chose about accounts: the file's sections `[accounts]`, `[terms]`, `[captcha]`, `[email]` and
//! `[[oidc]]`.

use serde::Deserialize;

/// Everything about accounts that is not a flag.
#[derive(Clone, Debug, Default)]
pub struct AccountSettings {
    /// `[accounts]`.
    pub general: General,
    /// `[terms]`: what a newcomer has to agree to.
    pub terms: Option<Terms>,
    /// `[captcha]`: a proof that a human registers.
    pub captcha: Option<Captcha>,
    /// `[email]`: how mails leave this server.
    pub email: Option<super::EmailSettings>,
    /// `[[oidc]]`: outside providers that vouch for users.
    pub oidc: Vec<super::UpstreamSettings>,
}

/// `[accounts]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct General {
    /// Whether clients may make guest accounts.
    pub guests: bool,
    /// Whether whoever registers has to prove an e-mail address (needs `[email]`).
    pub require_email: bool,
    /// The shortest password that is taken, in characters; 8 if not said.
    pub password_chars_min: Option<usize>,
    /// Where people find help: a page.
    pub support_page: Option<String>,
    /// Whom people write to for help: an e-mail address.
    pub support_email: Option<String>,
    /// Whom people write to for help: a Matrix user.
    pub support_user: Option<ruma::OwnedUserId>,
    /// The local part of the user who speaks for the server; `server` if not said.
    pub notices_localpart: Option<String>,
}

/// `[terms]`: one document.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// Which version is in force; whoever agreed to another is asked again.
    pub version: String,
    /// What it is called.
    pub name: String,
    /// Where it can be read.
    pub url: String,
    /// Whether those who have not agreed to this version may only read until they do.
    #[serde(default)]
    pub enforce: bool,
}

/// `[captcha]`: a service that speaks reCAPTCHA's protocol (hCaptcha and Turnstile do).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Captcha {
    /// The site's key, shown to clients.
    pub public_key: String,
    /// The site's secret.
    pub secret_key: String,
    /// Where an answer is checked.
    #[serde(default = "recaptcha")]
    pub verify_url: String,
}

fn recaptcha() -> String {
    "https://www.recaptcha.net/recaptcha/api/siteverify".into()
}
