//! Owns how an event id is stored: the 32 bytes of its hash, or (room versions 1 to 3) its text.

use ruma::{EventId, OwnedEventId};
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};

use crate::store::StoreError;

/// Column `hash` of the tables of events. 32 bytes are the hash that an id is in URL-safe base64 (versions 4 and later,
/// and those of version 3 that read the same). Anything else is the id's text; one of just 32 bytes has a NUL behind it,
/// which no id has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// A hash.
    Hash([u8; 32]),
    /// Another id as it is.
    Text(Box<str>),
}

impl Key {
    /// The key of an id.
    pub fn of(id: &EventId) -> Self {
        let text = id.as_str();
        let hash = text.strip_prefix('$').and_then(|hash| {
            let bytes = data_encoding::BASE64URL_NOPAD.decode(hash.as_bytes()).ok()?;
            <[u8; 32]>::try_from(bytes).ok()
        });
        hash.map_or_else(|| Self::Text(text.into()), Self::Hash)
    }

    /// The id of a key.
    pub fn id(&self) -> Result<OwnedEventId, StoreError> {
        let id = match self {
            Self::Hash(hash) => {
                OwnedEventId::try_from(format!("${}", data_encoding::BASE64URL_NOPAD.encode(hash)))
            }
            Self::Text(text) => OwnedEventId::try_from(&**text),
        };
        id.map_err(|_| StoreError::Corrupt("event id"))
    }
}

impl ToSql for Key {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Hash(hash) => ToSqlOutput::from(hash.as_slice()),
            Self::Text(text) if text.len() == 32 => {
                let mut bytes = text.as_bytes().to_vec();
                bytes.push(0);
                ToSqlOutput::from(bytes)
            }
            Self::Text(text) => ToSqlOutput::from(text.as_bytes()),
        })
    }
}

impl FromSql for Key {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let bytes = value.as_blob()?;
        if let Ok(hash) = <[u8; 32]>::try_from(bytes) {
            return Ok(Self::Hash(hash));
        }
        let text = std::str::from_utf8(bytes).map_err(|error| FromSqlError::Other(Box::new(error)))?;
        Ok(Self::Text(text.strip_suffix('\0').unwrap_or(text).into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_every_version_come_back() {
        for id in [
            "$jV2ADeXbYnFUAzhZxcNXH2BRDTc6x8wtqTXPAjfI6BE",
            "$acR1l0raoZnm60CBwAVgqbZqoO/mYU81xysh1u7XcJk",
            "$143273582443PhrSn:example.org",
            "$0123456789012345678901234:a.test",
        ] {
            let id = EventId::parse(id).unwrap();
            let key = Key::of(&id);
            assert_eq!(key.id().unwrap(), id);
            let ToSqlOutput::Owned(rusqlite::types::Value::Blob(bytes)) = key.to_sql().unwrap() else {
                let ToSqlOutput::Borrowed(value) = key.to_sql().unwrap() else { panic!() };
                assert_eq!(Key::column_result(value).unwrap(), key);
                continue;
            };
            assert_eq!(Key::column_result(ValueRef::Blob(&bytes)).unwrap(), key);
        }
    }
}
