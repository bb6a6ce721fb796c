//! Profiles of our own users: a JSON object of named fields.

use ruma::{OwnedMxcUri, OwnedUserId, UserId};
use serde_json::{Map, Value};

use super::{UserError, Users, active};
use crate::store::{ReadTx, WriteTx, schema};

/// A user as others find it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Person {
    /// The user.
    pub user_id: OwnedUserId,
    /// What it is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Its picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<OwnedMxcUri>,
}

impl Person {
    /// Whether any of what is shown of it contains `needle`, which is in lower case.
    pub fn matches(&self, needle: &str) -> bool {
        let named = self.display_name.as_ref().is_some_and(|name| name.to_lowercase().contains(needle));
        named || self.user_id.as_str().to_lowercase().contains(needle)
    }
}

impl Users {
    /// The whole profile of one of our users.
    pub async fn profile(&self, user: &UserId) -> Result<Map<String, Value>, UserError> {
        let user = user.to_owned();
        self.store
            .read(move |tx: &ReadTx<'_>| {
                let nid = active(tx, &user)?;
                read(tx, nid)
            })
            .await
    }

    /// Sets a field of a profile, or (`None`) removes it. Telling the rooms is for whoever knows rooms; the answer is
    /// the profile as it is then.
    pub async fn set_profile_field(
        &self,
        user: &UserId,
        field: &str,
        value: Option<Value>,
    ) -> Result<Map<String, Value>, UserError> {
        if field.is_empty() || field.len() > FIELD_NAME_BYTES_MAX {
            return Err(UserError::TooLarge("a profile field's name has 1 to 255 bytes".into()));
        }
        check(field, value.as_ref())?;
        let (user, field) = (user.to_owned(), field.to_owned());
        self.store
            .write(move |tx: &mut WriteTx<'_>| {
                let nid = active(tx, &user)?;
                let text = value.as_ref().map(Value::to_string);
                schema::users::set_profile(tx, nid, &field, text.as_deref())?;
                schema::profiles::changed_now(tx, nid, &field)?;
                let profile = read(tx, nid)?;
                let size: usize =
                    profile.iter().map(|(field, value)| field.len() + value.to_string().len() + 4).sum();
                if size > PROFILE_BYTES_MAX {
                    return Err(UserError::TooLarge("a profile has at most 64 KiB".into()));
                }
                Ok(profile)
            })
            .await
    }

    /// Name and picture, as membership events carry them.
    pub async fn shown(&self, user: &UserId) -> Result<(Option<String>, Option<String>), UserError> {
        let mut fields = self.profile(user).await?;
        let mut text = |field: &str| match fields.remove(field) {
            Some(Value::String(text)) if !text.is_empty() => Some(text),
            _ => None,
        };
        Ok((text("displayname"), text("avatar_url")))
    }

    /// Users of ours whom others may find, at most `limit`.
    pub async fn people(&self, limit: usize) -> Result<Vec<Person>, UserError> {
        self.store
            .read(move |tx: &ReadTx<'_>| {
                let mut people = Vec::new();
                for row in schema::users::all(tx)? {
                    if row.deactivated {
                        continue;
                    }
                    let Ok(user_id) = UserId::parse(&*tx.text(row.user)?) else {
                        continue;
                    };
                    let profile = read(tx, row.user)?;
                    let text = |field: &str| profile.get(field).and_then(Value::as_str).map(str::to_owned);
                    people.push(Person {
                        user_id,
                        display_name: text("displayname"),
                        avatar_url: text("avatar_url").map(OwnedMxcUri::from),
                    });
                    if people.len() >= limit {
                        break;
                    }
                }
                Ok::<_, UserError>(people)
            })
            .await
    }
}

fn read(tx: &ReadTx<'_>, user: crate::store::Nid) -> Result<Map<String, Value>, UserError> {
    let fields = schema::users::profile(tx, user)?;
    Ok(fields
        .into_iter()
        .filter_map(|(field, value)| Some((field, serde_json::from_str(&value).ok()?)))
        .collect())
}

/// The two fields that have a meaning here have to be of its shape.
fn check(field: &str, value: Option<&Value>) -> Result<(), UserError> {
    let Some(value) = value else {
        return Ok(());
    };
    match field {
        "displayname" => match value.as_str() {
            Some(name) if name.chars().count() <= NAME_CHARS_MAX => Ok(()),
            Some(_) => Err(UserError::TooLarge("a display name has at most 256 characters".into())),
            None => Err(UserError::Invalid("a display name is a string".into())),
        },
        "avatar_url" => match value.as_str() {
            // What is no mxc:// address shows no picture; clients are the ones to know.
            Some(url) if url.len() <= URL_BYTES_MAX => Ok(()),
            Some(_) => Err(UserError::TooLarge("an avatar's address has at most 1000 bytes".into())),
            None => Err(UserError::Invalid("an avatar is an mxc:// address".into())),
        },
        _ => Ok(()),
    }
}

/// The specification's bound on a whole profile.
// spec: https://spec.matrix.org/v1.19/client-server-api/#profiles
pub const PROFILE_BYTES_MAX: usize = 65_536;
const FIELD_NAME_BYTES_MAX: usize = 255;
/// Names travel in member events, which everybody stores.
const NAME_CHARS_MAX: usize = 256;
const URL_BYTES_MAX: usize = 1_000;
