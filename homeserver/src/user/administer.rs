//! What administrators do to accounts: lists, details, registration tokens, reports.

use ruma::{OwnedMxcUri, UserId};
use serde_json::{Value, json};

use super::{UserError, Users, active};
use crate::store::{Nid, ReadTx, StoreError, WriteTx, schema, schema::moderation};

pub use crate::store::schema::moderation::{Page, Report};

/// A registration token with all that is known of it.
#[derive(Clone, Debug)]
pub struct TokenInfo {
    /// The token.
    pub token: String,
    /// How many accounts it makes in all; `None`: any number.
    pub uses_allowed: Option<u32>,
    /// How many it has made.
    pub completed: u32,
    /// When it ends by itself.
    pub expires_ms: Option<u64>,
}

/// Stored in place of "any number".
const ANY_NUMBER: u32 = u32::MAX;

impl Users {
    /// A page of accounts in Synapse's words, and how many there are.
    pub async fn admin_list(&self, page: Page) -> Result<(Vec<Value>, u64), UserError> {
        self.store
            .read(move |tx: &ReadTx<'_>| {
                let (nids, total) = moderation::users(tx, &page)?;
                let users = nids.into_iter().map(|nid| described(tx, nid)).collect::<Result<_, _>>()?;
                Ok((users, total))
            })
            .await
    }

    /// The pictures of our users.
    pub async fn pictures(&self) -> Result<Vec<OwnedMxcUri>, UserError> {
        self.store
            .read(move |tx: &ReadTx<'_>| {
                let pictures = schema::users::pictures(tx)?;
                Ok(pictures.iter().filter_map(|json| serde_json::from_str(json).ok()).collect())
            })
            .await
    }

    /// One account in Synapse's words.
    pub async fn admin_detail(&self, user: &UserId) -> Result<Value, UserError> {
        let user = user.to_owned();
        self.store
            .read(move |tx: &ReadTx<'_>| {
                let row = schema::users::find(tx, user.as_str())?.ok_or(UserError::NoUser)?;
                let mut shown = described(tx, row.user)?;
                let threepids = schema::threepids::of_user(tx, row.user)?;
                shown["threepids"] = threepids
                    .into_iter()
                    .map(|known| {
                        json!({ "medium": known.medium, "address": known.address,
                            "validated_at": known.validated_ms, "added_at": known.added_ms })
                    })
                    .collect();
                let outside = schema::oauth::upstreams(tx, row.user)?;
                shown["external_ids"] = outside
                    .into_iter()
                    .map(|(provider, id)| json!({ "auth_provider": provider, "external_id": id }))
                    .collect();
                Ok(shown)
            })
            .await
    }

    /// Sets an account's kind: `bot`, `support`, or none.
    pub async fn set_kind(&self, user: &UserId, kind: Option<String>) -> Result<(), UserError> {
        if !kind.as_deref().is_none_or(|kind| matches!(kind, "bot" | "support")) {
            return Err(UserError::Invalid("user_type is bot, support or null".into()));
        }
        let user = user.to_owned();
        self.store
            .write(move |tx: &mut WriteTx<'_>| {
                let nid = active(tx, &user)?;
                Ok(schema::accounts::set_kind(tx, nid, kind.as_deref())?)
            })
            .await
    }

    /// Takes a deactivated account up again, without password.
    pub async fn reactivate(&self, user: &UserId) -> Result<(), UserError> {
        let user = user.to_owned();
        self.store
            .write(move |tx: &mut WriteTx<'_>| {
                let row = schema::users::find(tx, user.as_str())?.ok_or(UserError::NoUser)?;
                schema::users::reactivate(tx, row.user)?;
                Ok(schema::accounts::set_flag(tx, row.user, super::Flag::Erased, false)?)
            })
            .await
    }

    /// All registration tokens.
    pub async fn all_tokens(&self) -> Result<Vec<TokenInfo>, UserError> {
        self.store
            .read(move |tx: &ReadTx<'_>| {
                let rows = moderation::tokens(tx)?;
                Ok(rows
                    .into_iter()
                    .map(|(token, left, completed, _, expires_ms)| TokenInfo {
                        token,
                        uses_allowed: (left < ANY_NUMBER / 2).then(|| left.saturating_add(completed)),
                        completed,
                        expires_ms,
                    })
                    .collect())
            })
            .await
    }

    /// Changes a token: how many accounts it makes in all, and until when.
    pub async fn change_token(
        &self,
        token: &str,
        uses_allowed: Option<u32>,
        expires_ms: Option<u64>,
    ) -> Result<(), UserError> {
        let token = token.to_owned();
        self.store
            .write(move |tx: &mut WriteTx<'_>| {
                let known = moderation::tokens(tx)?.into_iter().find(|row| row.0 == token);
                let (_, _, done, ..) = known.ok_or(UserError::BadRegistrationToken)?;
                let left = uses_allowed.map_or(ANY_NUMBER, |allowed| allowed.saturating_sub(done));
                moderation::set_token(tx, &token, left, expires_ms)?;
                Ok(())
            })
            .await
    }

    /// How [`Users::make_token`] is told "any number".
    pub fn token_uses(uses_allowed: Option<u32>) -> u32 {
        uses_allowed.unwrap_or(ANY_NUMBER)
    }

    /// Throws a token away; false if there was none.
    pub async fn remove_token(&self, token: &str) -> Result<bool, UserError> {
        let token = token.to_owned();
        self.store.write(move |tx: &mut WriteTx<'_>| Ok(moderation::remove_token(tx, &token)?)).await
    }

    /// Keeps a report for the administrators.
    pub async fn report(&self, reporter: &UserId, mut report: Report) -> Result<(), UserError> {
        if report.reason.as_ref().is_some_and(|reason| reason.len() > REASON_BYTES_MAX) {
            return Err(UserError::TooLarge("a reason has at most 10 000 bytes".into()));
        }
        report.at_ms = self.clock.now_ms();
        let reporter = reporter.to_owned();
        self.store
            .write(move |tx: &mut WriteTx<'_>| {
                let nid = active(tx, &reporter)?;
                Ok(moderation::put_report(tx, &report, nid, REPORTS_MAX)?)
            })
            .await
    }

    /// Reports, newest first: those about events, or the others.
    pub async fn reports(
        &self,
        events: bool,
        from: u64,
        limit: u64,
    ) -> Result<(Vec<Report>, u64), UserError> {
        self.store.read(move |tx: &ReadTx<'_>| Ok(moderation::reports(tx, events, from, limit)?)).await
    }

    /// One report.
    pub async fn report_by_id(&self, id: i64) -> Result<Option<Report>, UserError> {
        self.store.read(move |tx: &ReadTx<'_>| Ok(moderation::report_by_id(tx, id)?)).await
    }

    /// Throws a report away; false if there was none.
    pub async fn remove_report(&self, id: i64) -> Result<bool, UserError> {
        self.store.write(move |tx: &mut WriteTx<'_>| Ok(moderation::remove_report(tx, id)?)).await
    }

    /// Whose media take how much room: (user, files, bytes).
    pub async fn media_by_user(&self, limit: u64) -> Result<Vec<(String, u64, u64)>, UserError> {
        self.store
            .read(move |tx: &ReadTx<'_>| {
                let rows = moderation::media_by_user(tx, limit)?;
                rows.into_iter()
                    .map(|(user, files, bytes)| Ok((tx.text(user)?.to_string(), files, bytes)))
                    .collect()
            })
            .await
    }

    /// Servers that are behind in what we have for them.
    pub async fn servers_behind(&self) -> Result<Vec<String>, UserError> {
        self.store.read(move |tx: &ReadTx<'_>| Ok(moderation::behind(tx)?)).await
    }
}

fn described(tx: &ReadTx<'_>, user: Nid) -> Result<Value, StoreError> {
    let name = tx.text(user)?;
    let row = schema::users::find(tx, &name)?.ok_or(StoreError::Corrupt("an account without a row"))?;
    let standing = schema::accounts::standing(tx, user)?;
    let profile = schema::users::profile(tx, user)?;
    let field = |field: &str| -> Value {
        let found = profile.iter().find(|(name, _)| name == field);
        found.and_then(|(_, json)| serde_json::from_str(json).ok()).unwrap_or_default()
    };
    let devices = schema::users::devices(tx, user)?;
    Ok(json!({
        "name": &*name,
        "is_guest": standing.guest,
        "admin": standing.admin,
        "user_type": schema::accounts::kind(tx, user)?,
        "deactivated": row.deactivated,
        "erased": standing.erased,
        "locked": standing.locked,
        "suspended": standing.suspended,
        "shadow_banned": standing.shadow_banned,
        "displayname": field("displayname"),
        "avatar_url": field("avatar_url"),
        "creation_ts": moderation::made_ms(tx, user)?,
        "last_seen_ts": devices.iter().filter_map(|device| device.seen_ms).max(),
        "consent_version": schema::accounts::consent(tx, user)?,
        "appservice_id": null,
        "approved": true,
        "external_ids": [],
        "threepids": [],
    }))
}

/// Reports kept; beyond, the oldest go.
const REPORTS_MAX: u64 = 10_000;
const REASON_BYTES_MAX: usize = 10_000;
