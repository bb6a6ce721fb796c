//! Owns the walk through a space: its rooms and spaces, depth first, each once.

use std::collections::HashSet;

use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName, UserId};
use serde_json::Value;

use super::summary::{Asker, Local, Told, told};
use crate::room::{RoomError, Rooms};

/// Rooms of one walk: a page far down is refused rather than walked to.
const ROOMS_MAX: usize = 1_000;
/// Rooms of one walk that other servers are asked for.
const ASKED_MAX: usize = 50;
/// Rooms on one page.
const PAGE_MAX: usize = 50;

/// A page of a walk.
#[derive(Debug, Default)]
pub struct Hierarchy {
    /// Rooms in order, each with `children_state`.
    pub rooms: Vec<Value>,
    /// Where the next page starts.
    pub next: Option<String>,
}

/// How to walk.
#[derive(Clone, Debug)]
pub struct Walk {
    /// Only children that are marked as suggested.
    pub suggested_only: bool,
    /// Steps from the root; none: all.
    pub max_depth: Option<u64>,
    /// Rooms on the page.
    pub limit: usize,
    /// Where the page starts.
    pub from: Option<String>,
}

impl Rooms {
    /// The rooms of a space that the user may know of, from here and from other servers.
    pub async fn hierarchy(&self, user: &UserId, root: &RoomId, walk: Walk) -> Result<Hierarchy, RoomError> {
        let asked = walk.max_depth.map_or_else(String::new, |depth| depth.to_string());
        let form = format!("{}_{asked}", u8::from(walk.suggested_only));
        let from: usize = match &walk.from {
            // A token goes with the question that it was the answer to.
            Some(token) => token
                .strip_prefix(&format!("w{form}_"))
                .and_then(|at| at.parse().ok())
                .ok_or_else(|| RoomError::Invalid("`from` is no token of this walk".into()))?,
            None => 0,
        };
        let limit = walk.limit.clamp(1, PAGE_MAX);
        let mut rooms = Vec::new();
        let mut seen = HashSet::new();
        let mut stack: Vec<(OwnedRoomId, Vec<OwnedServerName>, u64)> = vec![(root.to_owned(), Vec::new(), 0)];
        let mut elsewhere = 0;
        while let Some((room, via, depth)) = stack.pop() {
            if !seen.insert(room.clone()) {
                continue;
            }
            let here = self.told_here(user, &room).await?;
            let told = match here {
                Local::Told(told) => Some(told),
                Local::Hidden => None,
                Local::Elsewhere if elsewhere < ASKED_MAX => {
                    elsewhere += 1;
                    let via = if depth == 0 { root_servers(root) } else { via };
                    self.told_elsewhere(Some(user), &room, &via).await
                }
                Local::Elsewhere => None,
            };
            let Some(Told { mut summary, mut children }) = told else {
                if depth == 0 {
                    return Err(RoomError::Forbidden("you are not in this room, and may not see it".into()));
                }
                continue;
            };
            if walk.suggested_only {
                children.retain(|child| child["content"]["suggested"] == true);
            }
            if walk.max_depth.is_none_or(|max| depth < max) {
                for child in children.iter().rev() {
                    if let Some(id) = child["state_key"].as_str().and_then(|key| RoomId::parse(key).ok()) {
                        stack.push((id, servers(&child["content"]["via"]), depth + 1));
                    }
                }
            }
            summary["children_state"] = Value::Array(children);
            rooms.push(summary);
            if rooms.len() > from + limit || rooms.len() >= ROOMS_MAX {
                break;
            }
        }
        let more = rooms.len() > from + limit;
        let rooms: Vec<Value> = rooms.into_iter().skip(from).take(limit).collect();
        Ok(Hierarchy { next: more.then(|| format!("w{form}_{}", from + limit)), rooms })
    }

    async fn told_here(&self, user: &UserId, room: &RoomId) -> Result<Local, RoomError> {
        let (user, room) = (user.to_owned(), room.to_owned());
        self.inner.store.read(move |tx| told(tx, &Asker::User(Some(&user)), &room)).await
    }

    /// For another server: a space that is here, its children that are here and may be told, and those that may not.
    pub async fn hierarchy_for_server(
        &self,
        server: &ServerName,
        root: &RoomId,
        suggested_only: bool,
    ) -> Result<(Value, Vec<Value>, Vec<OwnedRoomId>), RoomError> {
        let Told { mut summary, mut children } = self.summary_for_server(server, root).await?;
        if suggested_only {
            children.retain(|child| child["content"]["suggested"] == true);
        }
        let (mut shown, mut hidden) = (Vec::new(), Vec::new());
        for child in &children {
            let Some(id) = child["state_key"].as_str().and_then(|key| RoomId::parse(key).ok()) else {
                continue;
            };
            let (server, asked) = (server.to_owned(), id.clone());
            match self.inner.store.read(move |tx| told(tx, &Asker::Server(&server), &asked)).await? {
                Local::Told(told) => shown.push(told.summary),
                Local::Hidden => hidden.push(id),
                Local::Elsewhere => {}
            }
        }
        summary["children_state"] = Value::Array(children);
        Ok((summary, shown, hidden))
    }
}

/// Where to ask for a space that the client names without a way there: the server in its id, if there is one.
fn root_servers(root: &RoomId) -> Vec<OwnedServerName> {
    root.server_name().map(ToOwned::to_owned).into_iter().collect()
}

fn servers(via: &Value) -> Vec<OwnedServerName> {
    let names = via.as_array().into_iter().flatten().filter_map(Value::as_str);
    names.filter_map(|name| ServerName::parse(name).ok()).collect()
}
