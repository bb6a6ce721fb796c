//! Aliases and the room directory.

use ruma::{
    OwnedRoomAliasId, OwnedRoomId, OwnedServerName, RoomAliasId, RoomId, ServerName, UserId,
    api::federation::query::get_room_information,
};
use serde_json::{
    Map, Value, json,
    value::{RawValue, to_raw_value},
};

use super::{Draft, RoomError, Rooms, core::auth::Action, ingest::load, read::access::access};
use crate::store::{
    Kind, Nid, ReadTx, StoreError,
    schema::{
        accounts,
        membership::{self, Membership},
        rooms::{self, Network, RoomRow},
    },
};

/// Longest alias, as other ids.
const ALIAS_BYTES_MAX: usize = 255;
/// The longest name of a network's list, and how many rooms it lists: what a bridge of a large network has.
const NETWORK_BYTES_MAX: usize = 255;
const NETWORK_ROOMS_MAX: i64 = 100_000;
/// Rooms in one page of the directory.
const PAGE_MAX: u32 = 500;
/// Listed rooms that a search looks through.
const SEARCH_MAX: u32 = 10_000;
/// Servers told with an alias: enough to find one that is there.
const SERVERS_MAX: usize = 20;

/// A page of the room directory: `PublicRoomsChunk` objects as JSON.
#[derive(Debug, Default)]
pub struct DirectoryPage {
    /// The rooms.
    pub chunk: Vec<Box<RawValue>>,
    /// Where the next page starts.
    pub next_batch: Option<String>,
    /// Where the page before starts.
    pub prev_batch: Option<String>,
    /// All rooms that match.
    pub total: u64,
}

impl Rooms {
    /// Makes an alias of ours for a room that the user is in.
    pub async fn create_alias(
        &self,
        user: &UserId,
        alias: &RoomAliasId,
        room: &RoomId,
    ) -> Result<(), RoomError> {
        if alias.server_name() != self.server_name() {
            return Err(RoomError::Invalid(format!("aliases made here end in :{}", self.server_name())));
        }
        if alias.as_str().len() > ALIAS_BYTES_MAX {
            return Err(RoomError::Invalid("the alias is longer than 255 bytes".into()));
        }
        let (user, alias, room) = (user.to_owned(), alias.to_owned(), room.to_owned());
        self.inner
            .store
            .write(move |tx| -> Result<(), RoomError> {
                if !access(tx, &user, &room)?.joined {
                    return Err(RoomError::Forbidden("you are not in this room".into()));
                }
                let room = tx.intern(Kind::Room, room.as_str())?;
                let user = tx.intern(Kind::User, user.as_str())?;
                if rooms::put_alias(tx, alias.as_str(), room, user)? {
                    Ok(())
                } else {
                    Err(RoomError::AliasInUse(alias.to_string()))
                }
            })
            .await
    }

    /// Removes an alias of ours: by who made it, or who may change the room's canonical alias.
    pub async fn delete_alias(&self, user: &UserId, alias: &RoomAliasId) -> Result<(), RoomError> {
        let (user_id, removed) = (user.to_owned(), alias.to_owned());
        let (user, alias) = (user.to_owned(), alias.to_owned());
        let room = self
            .inner
            .store
            .write(move |tx| -> Result<OwnedRoomId, RoomError> {
                let (room, creator) = rooms::alias(tx, alias.as_str())?
                    .ok_or_else(|| RoomError::NotFound(format!("there is no alias {alias}")))?;
                let own = tx.lookup(Kind::User, user.as_str())? == Some(creator);
                if !own && !may(tx, room, &user, "m.room.canonical_alias")? {
                    return Err(RoomError::Forbidden("this alias is not yours to remove".into()));
                }
                rooms::remove_alias(tx, alias.as_str())?;
                Ok(load::room_id(tx, room)?)
            })
            .await?;
        // The alias is gone in any case; the room's own word for itself follows where this user may change it.
        if let Err(error) = self.uncanonical(&user_id, &room, &removed).await {
            tracing::debug!(%room, alias = %removed, %error, "the canonical alias still names a removed one");
        }
        Ok(())
    }

    /// Takes a removed alias out of the room's canonical alias event.
    async fn uncanonical(&self, user: &UserId, room: &RoomId, alias: &RoomAliasId) -> Result<(), RoomError> {
        let content = match self.state_content(user, room, "m.room.canonical_alias", "").await {
            Ok(content) => content,
            Err(RoomError::NotFound(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut content: Map<String, Value> = serde_json::from_str(content.get()).unwrap_or_default();
        let before = content.clone();
        let is = |value: &Value| value.as_str() == Some(alias.as_str());
        if content.get("alias").is_some_and(is) {
            content.remove("alias");
        }
        if let Some(Value::Array(others)) = content.get_mut("alt_aliases") {
            others.retain(|other| !is(other));
            if others.is_empty() {
                content.remove("alt_aliases");
            }
        }
        if content == before {
            return Ok(());
        }
        let content = to_raw_value(&content).map_err(|error| RoomError::BadJson(error.to_string()))?;
        self.send(user, room, Draft::state("m.room.canonical_alias", "", content), None).await.map(drop)
    }

    /// The room behind an alias OF OURS, with servers to join through.
    pub async fn resolve_local_alias(
        &self,
        alias: &RoomAliasId,
    ) -> Result<(OwnedRoomId, Vec<OwnedServerName>), RoomError> {
        let (alias, own) = (alias.to_owned(), self.server_name().to_owned());
        self.inner
            .store
            .read(move |tx| {
                let (room, _) = rooms::alias(tx, alias.as_str())?
                    .ok_or_else(|| RoomError::NotFound(format!("there is no room {alias}")))?;
                let mut servers = vec![own.clone()];
                for server in membership::servers(tx, room)?.into_iter().take(SERVERS_MAX) {
                    if let Ok(name) = ServerName::parse(&*tx.text(server)?)
                        && name != own
                    {
                        servers.push(name);
                    }
                }
                Ok((load::room_id(tx, room)?, servers))
            })
            .await
    }

    /// The room behind any alias; another server's is asked.
    pub async fn resolve_alias(
        &self,
        alias: &RoomAliasId,
    ) -> Result<(OwnedRoomId, Vec<OwnedServerName>), RoomError> {
        if alias.server_name() == self.server_name() {
            return self.resolve_local_alias(alias).await;
        }
        let request = get_room_information::v1::Request::new(alias.to_owned());
        let answer = self
            .inner
            .remote
            .request(alias.server_name(), request)
            .await
            .map_err(super::handshake::remote_error)?;
        let mut servers = answer.servers;
        servers.truncate(SERVERS_MAX);
        let host = alias.server_name().to_owned();
        if !servers.contains(&host) {
            servers.push(host);
        }
        Ok((answer.room_id, servers))
    }

    /// Our aliases of a room, for a user who may see its state.
    pub async fn aliases(&self, user: &UserId, room: &RoomId) -> Result<Vec<OwnedRoomAliasId>, RoomError> {
        let (user, room) = (user.to_owned(), room.to_owned());
        self.inner
            .store
            .read(move |tx| {
                let access = access(tx, &user, &room)?;
                let list = rooms::aliases(tx, access.row.room)?;
                Ok(list.into_iter().filter_map(|alias| RoomAliasId::parse(alias).ok()).collect())
            })
            .await
    }

    /// Whether our directory lists a room.
    pub async fn is_listed(&self, room: &RoomId) -> Result<bool, RoomError> {
        let room = room.to_owned();
        self.inner
            .store
            .read(move |tx| {
                let row = match tx.lookup(Kind::Room, room.as_str())? {
                    Some(room) => rooms::room(tx, room)?,
                    None => None,
                };
                row.map(|row| row.public)
                    .ok_or_else(|| RoomError::NotFound("this room is not known here".into()))
            })
            .await
    }

    /// Lists a room in our directory, or no longer: by a joined user who may change the canonical alias,
    /// or who administers this server.
    pub async fn set_listed(&self, user: &UserId, room: &RoomId, listed: bool) -> Result<(), RoomError> {
        let (user, room) = (user.to_owned(), room.to_owned());
        self.inner
            .store
            .write(move |tx| -> Result<(), RoomError> {
                let access = access(tx, &user, &room)?;
                let room = access.row.room;
                let admin = match tx.lookup(Kind::User, user.as_str())? {
                    Some(user) => accounts::standing(tx, user)?.admin,
                    None => false,
                };
                if !access.joined || !(admin || may(tx, room, &user, "m.room.canonical_alias")?) {
                    return Err(RoomError::Forbidden("you may not change how this room is listed".into()));
                }
                rooms::set_public(tx, room, listed)?;
                Ok(())
            })
            .await
    }

    /// Lists a room in the directory of one network of an application service (`service|network`), or no longer.
    pub async fn set_listed_in_network(
        &self,
        network: String,
        room: &RoomId,
        listed: bool,
    ) -> Result<(), RoomError> {
        if network.len() > NETWORK_BYTES_MAX {
            return Err(RoomError::Invalid("the network's name is longer than 255 bytes".into()));
        }
        let room = room.to_owned();
        self.inner
            .store
            .write(move |tx| -> Result<(), RoomError> {
                let unknown = || RoomError::NotFound("this room is not known here".into());
                let nid = tx.lookup(Kind::Room, room.as_str())?.ok_or_else(unknown)?;
                rooms::room(tx, nid)?.ok_or_else(unknown)?;
                if !rooms::set_network(tx, nid, &network, listed, NETWORK_ROOMS_MAX)? {
                    return Err(RoomError::Invalid("this network lists 100,000 rooms already".into()));
                }
                Ok(())
            })
            .await
    }

    /// Listed rooms, the largest first; `search` looks into name, topic and alias.
    pub async fn directory(
        &self,
        network: Network,
        search: Option<String>,
        limit: u32,
        since: Option<String>,
    ) -> Result<DirectoryPage, RoomError> {
        let limit = limit.clamp(1, PAGE_MAX);
        let offset: u32 = match since {
            Some(since) => since
                .strip_prefix('d')
                .and_then(|number| number.parse().ok())
                .ok_or_else(|| RoomError::Invalid("`since` is no token of this list".into()))?,
            None => 0,
        };
        self.inner.store.read(move |tx| Ok(directory(tx, &network, search.as_deref(), limit, offset)?)).await
    }

    /// An alias of ours by its local part.
    pub(in crate::room) fn local_alias(&self, name: &str) -> Result<OwnedRoomAliasId, RoomError> {
        let alias = RoomAliasId::parse(format!("#{name}:{}", self.server_name()))
            .map_err(|error| RoomError::Invalid(format!("`room_alias_name` makes no alias: {error}")))?;
        if alias.as_str().len() > ALIAS_BYTES_MAX {
            return Err(RoomError::Invalid("the alias is longer than 255 bytes".into()));
        }
        Ok(alias)
    }
}

fn directory(
    tx: &ReadTx<'_>,
    network: &Network,
    search: Option<&str>,
    limit: u32,
    offset: u32,
) -> Result<DirectoryPage, StoreError> {
    let (rows, total) = match search.map(str::to_lowercase).filter(|term| !term.is_empty()) {
        Some(term) => {
            let hit =
                |text: &Option<String>| text.as_ref().is_some_and(|text| text.to_lowercase().contains(&term));
            let mut rows = rooms::public_rooms(tx, network, SEARCH_MAX, 0)?;
            rows.retain(|row| hit(&row.name) || hit(&row.topic) || hit(&row.alias));
            let total = rows.len() as u64;
            let page = rows.into_iter().skip(offset as usize).take(limit as usize).collect::<Vec<_>>();
            (page, total)
        }
        None => (
            rooms::public_rooms(tx, network, limit, offset)?,
            rooms::public_count(tx, network)?.unsigned_abs(),
        ),
    };
    let shown = offset.saturating_add(rows.len() as u32);
    let mut page = DirectoryPage { total, ..DirectoryPage::default() };
    for row in rows {
        page.chunk.push(chunk(tx, &row)?);
    }
    page.next_batch = (u64::from(shown) < total).then(|| format!("d{shown}"));
    page.prev_batch = (offset > 0).then(|| format!("d{}", offset.saturating_sub(limit)));
    Ok(page)
}

/// A room as the directory shows it.
fn chunk(tx: &ReadTx<'_>, row: &RoomRow) -> Result<Box<RawValue>, StoreError> {
    to_raw_value(&summary(tx, row)?).map_err(|_| StoreError::Corrupt("a room cannot be shown"))
}

/// What directory, summaries and spaces have in common.
pub(in crate::room) fn summary(tx: &ReadTx<'_>, row: &RoomRow) -> Result<Value, StoreError> {
    let mut chunk = json!({
        "room_id": &*tx.text(row.room)?,
        "num_joined_members": row.joined,
        "world_readable": row.history.as_deref() == Some("world_readable"),
        "guest_can_join": row.guest.as_deref() == Some("can_join"),
        "join_rule": row.join_rule.as_deref().unwrap_or("invite"),
    });
    let fields = [
        ("name", &row.name),
        ("topic", &row.topic),
        ("avatar_url", &row.avatar),
        ("canonical_alias", &row.alias),
        ("room_type", &row.room_type),
        ("encryption", &row.encryption),
    ];
    for (key, value) in fields {
        if let Some(value) = value {
            chunk[key] = value.as_str().into();
        }
    }
    Ok(chunk)
}

/// Whether a joined user's power is enough for a state event of this type.
fn may(tx: &ReadTx<'_>, room: Nid, user: &UserId, kind: &'static str) -> Result<bool, StoreError> {
    let Some(row) = rooms::room(tx, room)? else { return Ok(false) };
    let joined = match tx.lookup(Kind::User, user.as_str())? {
        Some(user) => membership::member(tx, room, user)?.is_some_and(|(is, _)| is == Membership::Join),
        None => false,
    };
    Ok(joined && super::send::may(tx, &row, user, Action::State(kind))?)
}
