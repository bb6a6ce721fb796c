//! `mangrove admin`: what administrators do over the API, on the command line, asked of the running node.

use clap::{Args, Subcommand};
use ruma::{RoomId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::control::{Asked, Request, ask};
use super::{CmdError, Data, runtime, table};
use crate::server::Server;
use crate::user::{Flag, Page};

#[derive(Args, Debug)]
pub(super) struct AdminArgs {
    #[command(flatten)]
    data: Data,
    /// Print the answer as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    what: Admin,
}

/// An administrator's order; also what goes over the control socket.
#[derive(Subcommand, Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Admin {
    /// List accounts whose name has this in it
    Users { term: Option<String> },
    /// Show one account
    User { name: String },
    /// Make a user an administrator, or with --off an ordinary user
    Promote {
        name: String,
        #[arg(long)]
        off: bool,
    },
    /// Lock an account (it can only log out), or with --off unlock it
    Lock {
        name: String,
        #[arg(long)]
        off: bool,
    },
    /// Suspend an account (it reads, but takes no part), or with --off lift it
    Suspend {
        name: String,
        #[arg(long)]
        off: bool,
    },
    /// Take what an account sends and throw it away, or with --off no more
    ShadowBan {
        name: String,
        #[arg(long)]
        off: bool,
    },
    /// End an account for ever; with --erase its words are hidden from newcomers
    Deactivate {
        name: String,
        #[arg(long)]
        erase: bool,
    },
    /// List rooms whose name, alias or id has this in it
    Rooms { term: Option<String> },
    /// Show one room
    Room { id: String },
    /// Let nobody here join a room, or with --off let them again
    Block {
        id: String,
        #[arg(long)]
        off: bool,
    },
    /// All users of this server leave a room
    Evict { id: String },
    /// Make a user an administrator of a room, by the word of a local one
    #[command(name = "room-admin")]
    Empower { id: String, user: String },
    /// List what users have reported
    Reports,
    /// Say something to a user in the server's own room
    Notice { name: String, text: String },
}

pub(super) fn admin(args: &AdminArgs) -> Result<(), CmdError> {
    let dir = args.data.resolve()?;
    let request = Request::Admin { order: args.what.clone() };
    let value = match runtime()?.block_on(ask(&dir, &request)) {
        Ok(Asked::Answered(answer)) => answer.map_err(CmdError::Failed)?,
        Ok(Asked::NotRunning) => {
            return Err(CmdError::Failed(format!(
                "no node runs in {}; start it with `mangrove run`, or name its directory with --data",
                dir.display()
            )));
        }
        Err(error) => return Err(CmdError::Failed(format!("the node in {}: {error}", dir.display()))),
    };
    if args.json {
        println!("{value:#}");
    } else {
        print!("{}", table::render(&value));
    }
    Ok(())
}

/// Does what is ordered.
pub(super) async fn handle(server: &Server, order: Admin) -> Result<Value, String> {
    let flag = async |name: &str, flag: Flag, on: bool| -> Result<Value, String> {
        let user = server.users.named(name).map_err(text)?;
        server.users.set_flag(&user, flag, on).await.map_err(text)?;
        Ok(json!(format!("{user}: {flag:?} is {}", if on { "on" } else { "off" })))
    };
    let page = |term: Option<String>| Page {
        term: term.unwrap_or_default(),
        limit: LISTED_MAX,
        deactivated: true,
        guests: true,
        ..Page::default()
    };
    match order {
        Admin::Users { term } => Ok(server
            .users
            .admin_list(page(term))
            .await
            .map_err(text)?
            .0
            .into_iter()
            .map(short_user)
            .collect()),
        Admin::User { name } => {
            let user = server.users.named(&name).map_err(text)?;
            server.users.admin_detail(&user).await.map_err(text)
        }
        Admin::Promote { name, off } => flag(&name, Flag::Admin, !off).await,
        Admin::Lock { name, off } => flag(&name, Flag::Locked, !off).await,
        Admin::Suspend { name, off } => flag(&name, Flag::Suspended, !off).await,
        Admin::ShadowBan { name, off } => flag(&name, Flag::ShadowBanned, !off).await,
        Admin::Deactivate { name, erase } => {
            let user = server.users.named(&name).map_err(text)?;
            server.deactivate(&user, erase).await.map_err(text)?;
            Ok(json!(format!("{user} has ended")))
        }
        Admin::Rooms { term } => Ok(server
            .rooms
            .admin_list(page(term))
            .await
            .map_err(text)?
            .0
            .into_iter()
            .map(short_room)
            .collect()),
        Admin::Room { id } => server.rooms.admin_detail(&room(&id)?).await.map_err(text),
        Admin::Block { id, off } => {
            let by = server.users.named("operator").map_err(text)?;
            server.rooms.set_blocked(&room(&id)?, &by, !off).await.map_err(text)?;
            Ok(json!(format!("{id} is {}", if off { "open" } else { "blocked" })))
        }
        Admin::Evict { id } => {
            let (left, stayed) = server.rooms.evict_ours(&room(&id)?).await.map_err(text)?;
            Ok(json!({ "left": left.len(), "could_not_leave": stayed }))
        }
        Admin::Empower { id, user } => {
            let user = match UserId::parse(&user) {
                Ok(user) => user,
                Err(_) => server.users.named(&user).map_err(text)?,
            };
            server.rooms.make_room_admin(&room(&id)?, &user).await.map_err(text)?;
            Ok(json!(format!("{user} is an administrator of {id}")))
        }
        Admin::Reports => {
            let mut all = server.users.reports(true, 0, LISTED_MAX).await.map_err(text)?.0;
            all.extend(server.users.reports(false, 0, LISTED_MAX).await.map_err(text)?.0);
            Ok(all
                .into_iter()
                .map(|report| {
                    json!({ "id": report.id, "by": report.reporter, "room": report.room, "event": report.event,
                        "user": report.target, "reason": report.reason })
                })
                .collect())
        }
        Admin::Notice { name, text: said } => {
            let user = server.users.named(&name).map_err(text)?;
            let content = json!({ "msgtype": "m.text", "body": said });
            server.send_notice(&user, content, None).await.map(|event| json!(event)).map_err(text)
        }
    }
}

fn room(id: &str) -> Result<ruma::OwnedRoomId, String> {
    RoomId::parse(id).map_err(|error| format!("{id:?} is no room id: {error}"))
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn short_user(user: Value) -> Value {
    let on: Vec<&str> = ["admin", "is_guest", "locked", "suspended", "shadow_banned", "deactivated"]
        .into_iter()
        .filter(|flag| user[*flag] == true)
        .collect();
    json!({ "name": user["name"], "displayname": user["displayname"], "standing": on.join(" ") })
}

fn short_room(room: Value) -> Value {
    json!({ "room_id": room["room_id"], "name": room["name"], "alias": room["canonical_alias"],
        "joined": room["joined_members"], "local": room["joined_local_members"], "version": room["version"] })
}

/// Rows that the command line shows.
const LISTED_MAX: u64 = 1_000;
