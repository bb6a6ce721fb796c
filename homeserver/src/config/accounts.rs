//! The sections about accounts: `[accounts]`, `[terms]`, `[captcha]`, `[email]`, `[[oidc]]`. They stand in the file alone.

use serde::Deserialize;

use super::ConfigError;
use crate::user::{AccountSettings, Captcha, EmailSettings, General, Mailer, Terms};

/// The sections as the file has them.
#[derive(Debug, Default, Deserialize)]
pub(super) struct AccountsFile {
    #[serde(default)]
    pub(super) accounts: General,
    pub(super) terms: Option<Terms>,
    pub(super) captcha: Option<Captcha>,
    pub(super) email: Option<EmailSettings>,
}

/// The sections, checked.
pub(super) fn load(file: AccountsFile) -> Result<AccountSettings, ConfigError> {
    let AccountsFile { accounts, terms, captcha, email } = file;
    if let Some(email) = &email {
        Mailer::new(email).map_err(ConfigError)?;
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
    Ok(AccountSettings { general: accounts, terms, captcha, email })
}
