//! Registration files: what an application service may do and where it is reached. YAML, as Synapse and the bridges'
//! generators write them. Pure, but for [`Registration::read`].

use std::path::Path;

use regex::Regex;
use ruma::{RoomAliasId, RoomId, ServerName, UserId};
use serde::Deserialize;

/// A file is a page; who hands in more made a mistake.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// What the compiled patterns of one namespace may take.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// A file that cannot be used, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RegistrationError(String);

/// Two files with one id or one token.
pub(super) fn twice() -> RegistrationError {
    RegistrationError(
        "appservices: two files have the same id or the same as_token; each needs its own".into(),
    )
}

/// What a file says.
#[derive(Debug)]
pub struct Registration {
    /// Its name.
    pub id: String,
    /// Where it is reached; `None`: it is told nothing.
    pub url: Option<String>,
    /// What it shows to us.
    pub as_token: String,
    /// What we show to it.
    pub hs_token: String,
    /// The local part of its own user.
    pub sender_localpart: String,
    users: Vec<Space>,
    aliases: Vec<Space>,
    rooms: Vec<Space>,
    /// Whether its users are held to rates; unlike others', they are not unless it says so.
    pub rate_limited: bool,
    /// Third-party networks that it knows.
    pub protocols: Vec<String>,
    /// It wants to know who types and who has read what (MSC2409).
    pub ephemeral: bool,
    /// It wants messages to its devices, device lists and key counts (MSC3202, MSC4203).
    pub encryption: bool,
}

/// A pattern of names.
#[derive(Debug)]
struct Space {
    regex: Regex,
    exclusive: bool,
}

#[derive(Deserialize)]
struct File {
    id: String,
    #[serde(default)]
    url: Option<String>,
    as_token: String,
    hs_token: String,
    sender_localpart: String,
    #[serde(default)]
    namespaces: Namespaces,
    #[serde(default)]
    rate_limited: Option<bool>,
    #[serde(default)]
    protocols: Option<Vec<String>>,
    // Bridges write more than one of these, for servers old and new.
    #[serde(default)]
    receive_ephemeral: bool,
    #[serde(default, rename = "de.sorunome.msc2409.push_ephemeral")]
    msc2409: bool,
    #[serde(default)]
    push_ephemeral: bool,
    #[serde(default, rename = "org.matrix.msc3202")]
    msc3202: bool,
}

#[derive(Default, Deserialize)]
struct Namespaces {
    #[serde(default)]
    users: Vec<RawSpace>,
    #[serde(default)]
    aliases: Vec<RawSpace>,
    #[serde(default)]
    rooms: Vec<RawSpace>,
}

#[derive(Deserialize)]
struct RawSpace {
    regex: String,
    #[serde(default)]
    exclusive: bool,
}

impl Registration {
    /// Whether two files say the same.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        // Patterns can be compared by their text alone, which is what `Debug` shows of them.
        format!("{self:?}") == format!("{other:?}")
    }

    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, RegistrationError> {
        let wrong = |error: String| RegistrationError(format!("appservice {}: {error}", path.display()));
        let length = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
        if length > FILE_BYTES_MAX {
            return Err(wrong("larger than 1 MiB; this is no registration file".into()));
        }
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        Self::parse(&text).map_err(|error| wrong(error.0))
    }

    /// Understands the text of a file.
    pub fn parse(text: &str) -> Result<Self, RegistrationError> {
        let file: File =
            serde_saphyr::from_str(text).map_err(|error| RegistrationError(error.to_string()))?;
        for (name, value) in [("id", &file.id), ("as_token", &file.as_token), ("hs_token", &file.hs_token)] {
            if value.is_empty() || value.len() > 255 {
                return Err(RegistrationError(format!("{name}: has 1 to 255 bytes")));
            }
        }
        let url = file.url.filter(|url| !url.is_empty());
        if let Some(url) = &url
            && !url.parse::<http::Uri>().is_ok_and(|uri| uri.host().is_some() && uri.scheme().is_some())
        {
            return Err(RegistrationError(format!(
                "url {url:?}: not an address, e.g. http://localhost:29318"
            )));
        }
        Ok(Self {
            id: file.id,
            url: url.map(|url| url.trim_end_matches('/').to_owned()),
            as_token: file.as_token,
            hs_token: file.hs_token,
            sender_localpart: file.sender_localpart,
            users: spaces(file.namespaces.users)?,
            aliases: spaces(file.namespaces.aliases)?,
            rooms: spaces(file.namespaces.rooms)?,
            rate_limited: file.rate_limited.unwrap_or(false),
            protocols: file.protocols.unwrap_or_default(),
            ephemeral: file.receive_ephemeral || file.msc2409 || file.push_ephemeral,
            encryption: file.msc3202,
        })
    }

    /// Whether a user is in its namespace, or its own.
    pub fn has_user(&self, user: &UserId, own: &ServerName) -> bool {
        user.server_name() == own
            && (user.localpart() == self.sender_localpart || fits(&self.users, user.as_str(), false))
    }

    /// Whether only it may have this user.
    pub fn owns_user(&self, user: &UserId) -> bool {
        user.localpart() == self.sender_localpart || fits(&self.users, user.as_str(), true)
    }

    /// Whether users of other servers, too, interest it.
    pub fn names_user(&self, user: &str) -> bool {
        fits(&self.users, user, false)
    }

    /// Whether an alias is in its namespace.
    pub fn has_alias(&self, alias: &RoomAliasId) -> bool {
        fits(&self.aliases, alias.as_str(), false)
    }

    /// Whether only it may have this alias.
    pub fn owns_alias(&self, alias: &RoomAliasId) -> bool {
        fits(&self.aliases, alias.as_str(), true)
    }

    /// Whether a room is in its namespace.
    pub fn has_room(&self, room: &RoomId) -> bool {
        fits(&self.rooms, room.as_str(), false)
    }
}

fn spaces(raw: Vec<RawSpace>) -> Result<Vec<Space>, RegistrationError> {
    let space = |raw: RawSpace| {
        // Patterns match whole names, whether or not they say so.
        let regex = regex::RegexBuilder::new(&format!("^(?:{})$", raw.regex))
            .size_limit(REGEX_BYTES_MAX)
            .build()
            .map_err(|error| RegistrationError(format!("regex {:?}: {error}", raw.regex)))?;
        Ok(Space { regex, exclusive: raw.exclusive })
    };
    raw.into_iter().map(space).collect()
}

fn fits(spaces: &[Space], name: &str, exclusive: bool) -> bool {
    spaces.iter().any(|space| (space.exclusive || !exclusive) && space.regex.is_match(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ruma::{room_alias_id, server_name, user_id};

    const FILE: &str = "id: bridge
url: http://localhost:29318/
as_token: abc
hs_token: def
sender_localpart: bridgebot
rate_limited: false
namespaces:
    users:
    - regex: '^@bridge_.*:a$'
      exclusive: true
    - regex: '@half_[a-z]+:a'
    aliases:
    - regex: '#bridge_.*:a'
      exclusive: true
de.sorunome.msc2409.push_ephemeral: true
receive_ephemeral: true
push_ephemeral_unknown: 3
org.matrix.msc3202: true
";

    #[test]
    fn a_file_as_bridges_write_it() {
        let read = Registration::parse(FILE).unwrap();
        assert_eq!(
            (read.url.as_deref(), read.ephemeral, read.encryption),
            (Some("http://localhost:29318"), true, true)
        );
        let own = server_name!("a");
        assert!(read.has_user(user_id!("@bridge_x:a"), own) && read.owns_user(user_id!("@bridge_x:a")));
        assert!(read.has_user(user_id!("@half_x:a"), own) && !read.owns_user(user_id!("@half_x:a")));
        assert!(read.has_user(user_id!("@bridgebot:a"), own) && !read.has_user(user_id!("@alice:a"), own));
        assert!(!read.has_user(user_id!("@half_x:a.evil"), own));
        assert!(read.owns_alias(room_alias_id!("#bridge_y:a")) && !read.has_alias(room_alias_id!("#y:a")));
    }

    #[test]
    fn a_wrong_file_says_what_is_wrong() {
        for (from, to, says) in [
            ("as_token: abc", "as_token: ''", "as_token"),
            ("hs_token: def\n", "", "hs_token"),
            ("http://localhost:29318/", "localhost", "url"),
            ("^@bridge_.*:a$", "(", "regex"),
        ] {
            let error = Registration::parse(&FILE.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
