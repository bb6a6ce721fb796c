//! The sections about accounts: `[accounts]`, `[terms]`, `[captcha]`, `[email]`, `[[oidc]]`. They stand in the file alone.

use serde::Deserialize;

use super::ConfigError;
use crate::user::{AccountSettings, Captcha, EmailSettings, General, Mailer, Terms, UpstreamSettings};

/// The sections as the file has them.
#[derive(Debug, Default, Deserialize)]
pub(super) struct AccountsFile {
    #[serde(default)]
    pub(super) accounts: General,
    pub(super) terms: Option<Terms>,
    pub(super) captcha: Option<Captcha>,
    pub(super) email: Option<EmailSettings>,
    #[serde(default)]
    pub(super) oidc: Vec<UpstreamSettings>,
}

/// The sections, checked.
pub(super) fn load(file: AccountsFile) -> Result<AccountSettings, ConfigError> {
    let AccountsFile { accounts, terms, captcha, email, oidc } = file;
    if let Some(email) = &email {
        Mailer::new(email).map_err(ConfigError)?;
    }
    if let Some(name) = &accounts.notices_localpart
        && (name.is_empty()
            || !name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._=-/+".contains(&byte)))
    {
        return Err(ConfigError(format!(
            "accounts.notices_localpart {name:?}: a local part has a-z, 0-9 and . _ = - / +, e.g. \"server\""
        )));
    }
    if accounts.require_email && email.is_none() {
        return Err(ConfigError(
            "accounts.require_email: mails have to be sent for it; add a section [email]".into(),
        ));
    }
    for (name, url) in [
        ("terms.url", terms.as_ref().map(|terms| &terms.url)),
        ("captcha.verify_url", captcha.as_ref().map(|captcha| &captcha.verify_url)),
    ] {
        if let Some(url) = url
            && !(url.starts_with("https://") || url.starts_with("http://"))
        {
            return Err(ConfigError(format!("{name} {url:?}: not a URL; e.g. https://example.org/terms")));
        }
    }
    for (at, provider) in oidc.iter().enumerate() {
        let id_fits = (1..=64).contains(&provider.id.len())
            && provider
                .id
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte));
        if !id_fits || oidc[..at].iter().any(|other| other.id == provider.id) {
            return Err(ConfigError(format!(
                "oidc.id {:?}: 1 to 64 of a-z 0-9 _ -, another for each provider; e.g. id = \"company\"",
                provider.id
            )));
        }
        if !(provider.issuer.starts_with("https://") || provider.issuer.starts_with("http://")) {
            return Err(ConfigError(format!(
                "oidc.issuer {:?}: not a URL; e.g. issuer = \"https://login.example.org\"",
                provider.issuer
            )));
        }
        if !provider.scopes.iter().any(|scope| scope == "openid") {
            return Err(ConfigError("oidc.scopes: \"openid\" has to be among them".into()));
        }
    }
    Ok(AccountSettings { general: accounts, terms, captcha, email, oidc })
}
