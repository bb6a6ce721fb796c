//! A v2 response (`/_matrix/client/v3/sync`): what changed is found first, then each part written.

pub(super) mod devices;
pub(super) mod ephemeral;
mod invited;
mod joined;
mod left;
mod presence;
mod state;

use std::{
    cell::Cell,
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

pub(super) use self::devices::key_changes;
use super::{
    Context, Inner, filter::Members, json::Writer, lazy::Member, parts, timeline::View, token::Token,
};
use crate::{
    e2ee,
    store::{
        Nid, ReadTx, Seq, StoreError,
        schema::{
            account_data::{self, Entry},
            e2ee as keys,
            events::{self, stream_kind},
            membership::{self, Membership, UserRoom},
            partial, sync as query,
        },
    },
};

/// Messages to the device in one response; the next response has more.
const TO_DEVICE_MAX: u32 = 100;
/// One snapshot is read no longer than this; what is left is written from the next.
const SNAPSHOT_TIME_MAX: Duration = Duration::from_millis(250);

/// A response.
pub(super) struct Built {
    /// Its JSON.
    pub(super) body: Vec<u8>,
    /// Whether it says anything.
    pub(super) news: bool,
    /// Rooms that the user is in.
    pub(super) rooms: Vec<Nid>,
    /// Members that lazy loading shows with it.
    pub(super) members: Vec<Member>,
    /// The position of its token.
    pub(super) position: Seq,
}

/// Builds the response as of now.
pub(super) async fn build(inner: &Arc<Inner>, context: &Arc<Context>) -> Result<Built, StoreError> {
    let (shared, asked) = (inner.clone(), context.clone());
    let mut progress = inner
        .store
        .read(move |tx| {
            let plan = Plan::new(tx, &shared, &asked)?;
            let mut progress = Progress::new(plan);
            progress.write_rooms(tx, &shared, &asked)?;
            Ok::<_, StoreError>(progress)
        })
        .await?;
    // Large accounts take more than one snapshot.
    while !progress.plan.rooms.is_empty() {
        let (shared, asked) = (inner.clone(), context.clone());
        progress = inner
            .store
            .read(move |tx| {
                progress.write_rooms(tx, &shared, &asked)?;
                Ok::<_, StoreError>(progress)
            })
            .await?;
    }
    Ok(progress.finish(inner, context))
}

/// What has to be written.
struct Plan {
    /// Everything up to here.
    until: Seq,
    /// Rooms to write, the last one first.
    rooms: Vec<UserRoom>,
    /// Rooms that the user is in.
    joined: Vec<Nid>,
    /// Account data of rooms.
    room_data: HashMap<Nid, Vec<Entry>>,
    /// Rooms in which a receipt that only the user sees changed.
    private: HashSet<Nid>,
    /// Parts beside the rooms, as members of the response.
    globals: Vec<u8>,
    /// Whether the globals say anything.
    news: bool,
    /// Messages to the device are shown up to here.
    to_device: Seq,
    /// Senders whose events the user does not want to see.
    ignored: HashSet<Nid>,
    /// Members that the device was shown already.
    known: HashMap<(Nid, Nid), Nid>,
    /// Up to where receipts are told, if some room has more than fit.
    receipts_cut: Cell<Option<Seq>>,
}

impl Plan {
    /// Notes that a room's receipts are told up to here alone.
    fn cut_receipts(&self, at: Option<Seq>) {
        let least = [self.receipts_cut.get(), at].into_iter().flatten().min();
        self.receipts_cut.set(least);
    }

    /// How timelines are read.
    fn view<'a>(&'a self, context: &'a Context) -> View<'a> {
        View {
            user: context.user,
            filter: &context.filter.timeline,
            limit: context.filter.timeline_limit(),
            ignored: &self.ignored,
        }
    }

    fn new(tx: &ReadTx<'_>, inner: &Inner, context: &Context) -> Result<Self, StoreError> {
        let until = query::end(tx)?;
        let since = context.since();
        let initial = context.since.is_none();
        let mut room_data: HashMap<Nid, Vec<Entry>> = HashMap::new();
        let mut global_data = Vec::new();
        for entry in account_data::changed(tx, context.user, since, until)? {
            if initial && entry.is_removed() {
                continue;
            }
            if entry.room == account_data::GLOBAL {
                global_data.push(entry);
            } else {
                room_data.entry(entry.room).or_default().push(entry);
            }
        }
        let mut private = HashSet::new();
        let mut signed = Vec::new();
        if !initial {
            let from = context.receipts_since();
            if from < since {
                let behind = query::user_rows(tx, context.user, from, since)?;
                private.extend(
                    behind.into_iter().filter(|row| row.0 == stream_kind::RECEIPT).filter_map(|row| row.1),
                );
            }
            for (kind, reference) in query::user_rows(tx, context.user, since, until)? {
                match kind {
                    stream_kind::RECEIPT => private.extend(reference),
                    stream_kind::DEVICE_LIST => signed.extend(reference),
                    _ => {}
                }
            }
        }
        let rows = membership::user_rooms(tx, context.user)?;
        let joined =
            rows.iter().filter(|row| row.membership == Membership::Join).map(|row| row.room).collect();
        let mut plan = Self {
            until,
            rooms: Vec::new(),
            joined,
            room_data,
            private,
            globals: Vec::new(),
            news: false,
            to_device: until,
            ignored: parts::ignored(tx, context.user)?,
            known: match context.filter.members {
                Members::Lazy => {
                    inner.shown.known(context.user, context.device.as_str(), context.since.map(|_| since))
                }
                _ => HashMap::new(),
            },
            receipts_cut: Cell::new(None),
        };
        plan.write_globals(tx, context, &global_data)?;
        let lists = devices::changes(tx, context.user, since, until, &rows, &signed, initial)?;
        let presence = presence::events(tx, inner, context, until, &lists.met)?;
        plan.news |= !presence.is_empty() && !initial;
        plan.news |= !lists.is_empty();
        let mut writer = Writer::default();
        lists.write(tx, &mut writer)?;
        writer.key("presence").events(presence);
        plan.globals.extend(writer.into_members());
        plan.rooms = plan.choose(tx, inner, context, rows)?;
        Ok(plan)
    }

    /// Rooms that have something to say.
    fn choose(
        &self,
        tx: &ReadTx<'_>,
        inner: &Inner,
        context: &Context,
        rows: Vec<UserRoom>,
    ) -> Result<Vec<UserRoom>, StoreError> {
        let (since, until) = (context.since(), self.until);
        let initial = context.since.is_none();
        let all = initial || context.full_state;
        // Few things happened: they are looked at. Few rooms: those are.
        let touched = if all {
            None
        } else if until.0 - since.0 <= 4 * self.joined.len() as i64 {
            Some(query::rooms_touched(tx, since, until)?.into_iter().collect::<HashSet<_>>())
        } else {
            None
        };
        // Who typed before a restart does not any more.
        let forgotten = context.since.is_some_and(|token| token.typing == 1) && since <= inner.typing.floor();
        // Who wants all members at once gets a room when they are here.
        let partial: HashSet<Nid> = match context.filter.members {
            Members::All => partial::rooms(tx)?.into_iter().collect(),
            _ => HashSet::new(),
        };
        // Rooms that may have receipts which did not fit into the response before.
        let behind = match context.receipts_since() {
            from if from < since => query::rooms_touched(tx, from, since)?.into_iter().collect(),
            _ => HashSet::new(),
        };
        let mut chosen = Vec::new();
        for row in rows {
            if row.membership == Membership::Join && partial.contains(&row.room) {
                continue;
            }
            let changed = row.seq > since && row.seq <= until;
            let chooses = match row.membership {
                _ if row.seq > until => false,
                Membership::Join => {
                    let happened = || match &touched {
                        Some(touched) => Ok(touched.contains(&row.room)),
                        None => query::room_touched(tx, row.room, since, until),
                    };
                    let typing =
                        || inner.typing.in_room(row.room).is_some_and(|(seq, _)| seq > since && seq <= until);
                    all || changed
                        || forgotten
                        || self.room_data.contains_key(&row.room)
                        || self.private.contains(&row.room)
                        || behind.contains(&row.room)
                        || typing()
                        || happened()?
                }
                Membership::Invite | Membership::Knock => initial || changed,
                // The user's other devices learn that the room was left, although it is forgotten by now.
                Membership::Leave | Membership::Ban if row.forgotten => !initial && changed,
                Membership::Leave | Membership::Ban => {
                    // Who was thrown out is told so in any case, not only who looks at the right moment.
                    if initial {
                        context.filter.include_leave || thrown_out(tx, context.user, &row)?
                    } else {
                        changed
                    }
                }
            };
            if chooses && context.filter.rooms.passes(&tx.text(row.room)?) {
                chosen.push(row);
            }
        }
        Ok(chosen)
    }

    /// What belongs to no room.
    fn write_globals(
        &mut self,
        tx: &ReadTx<'_>,
        context: &Context,
        data: &[Entry],
    ) -> Result<(), StoreError> {
        let (user, device, since) = (context.user, &context.device, context.since());
        let initial = context.since.is_none();
        let mut writer = Writer::default();
        let mut events = Vec::new();
        for entry in data.iter().filter(|entry| context.filter.account_data.passes_type(&entry.kind)) {
            events.push(parts::account_data_event(&entry.kind, &entry.content));
        }
        if context.filter.account_data.passes_type(parts::PUSH_RULES) {
            events.extend(parts::push_rules(tx, context.user, context.since.map(|_| since), self.until)?);
        }
        self.news |= !events.is_empty();
        writer.key("account_data").events(events);
        let from = context.since.map_or(Seq(0), |token| Seq(token.to_device));
        let messages = e2ee::waiting(tx, user, device, from, self.until, TO_DEVICE_MAX)?;
        if messages.len() == TO_DEVICE_MAX as usize {
            self.to_device = messages.last().map_or(self.until, |(seq, _)| *seq);
        }
        self.news |= !messages.is_empty();
        writer.key("to_device").events(messages.into_iter().map(|(_, json)| json));

        let counts = e2ee::counts(tx, user, device)?;
        writer.key("device_one_time_keys_count").object(|object| {
            for (algorithm, count) in &counts {
                object.key(algorithm).number(*count);
            }
        });
        let unused = keys::unused_fallback_keys(tx, user, device.as_str())?;
        // Both names: clients from before the feature was in the specification look for the second.
        for name in
            ["device_unused_fallback_key_types", "org.matrix.msc2732.device_unused_fallback_key_types"]
        {
            writer.key(name).array(|array| unused.iter().for_each(|algorithm| array.string(algorithm)));
        }
        let counted = keys::counts_position(tx, user, device.as_str())?;
        self.news |= !initial && counted.is_some_and(|seq| seq > since && seq <= self.until);
        self.globals.extend(writer.into_members());
        Ok(())
    }
}

/// A response half written.
struct Progress {
    plan: Plan,
    join: Vec<u8>,
    invite: Vec<u8>,
    knock: Vec<u8>,
    leave: Vec<u8>,
    members: Vec<Member>,
    /// Somebody is shown as typing somewhere.
    typing: bool,
}

impl Progress {
    fn new(plan: Plan) -> Self {
        Self {
            plan,
            join: Vec::new(),
            invite: Vec::new(),
            knock: Vec::new(),
            leave: Vec::new(),
            members: Vec::new(),
            typing: false,
        }
    }

    /// Writes rooms until there are none left or the snapshot is old.
    fn write_rooms(&mut self, tx: &ReadTx<'_>, inner: &Inner, context: &Context) -> Result<(), StoreError> {
        let begun = Instant::now();
        while let Some(row) = self.plan.rooms.pop() {
            let mut writer = Writer::default();
            let room = tx.text(row.room)?;
            match row.membership {
                Membership::Join => {
                    let part = joined::Room { tx, inner, context, plan: &self.plan, row: &row, id: &room };
                    let shown = part.write(&mut writer)?;
                    self.members.extend(shown.members);
                    self.join.extend(writer.into_members());
                }
                Membership::Invite | Membership::Knock => {
                    if invited::write(tx, context, &self.plan, &row, &room, &mut writer)? {
                        match row.membership {
                            Membership::Invite => self.invite.extend(writer.into_members()),
                            _ => self.knock.extend(writer.into_members()),
                        }
                    }
                }
                Membership::Leave | Membership::Ban => {
                    left::write(tx, context, &self.plan, &row, &room, &mut writer)?;
                    self.leave.extend(writer.into_members());
                }
            }
            if begun.elapsed() > SNAPSHOT_TIME_MAX {
                break;
            }
        }
        Ok(())
    }

    fn finish(mut self, inner: &Inner, context: &Context) -> Built {
        self.typing = self.plan.joined.iter().any(|room| {
            inner
                .typing
                .in_room(*room)
                .is_some_and(|(seq, users)| seq <= self.plan.until && !users.is_empty())
        });
        let parts =
            [("join", &self.join), ("invite", &self.invite), ("knock", &self.knock), ("leave", &self.leave)];
        let rooms = parts.iter().any(|(_, part)| !part.is_empty());
        let token = Token {
            incarnation: inner.store.incarnation(),
            node: inner.node,
            seq: self.plan.until.0,
            to_device: self.plan.to_device.0.max(context.since.map_or(0, |token| token.to_device)),
            typing: u64::from(self.typing),
            receipts: self.plan.receipts_cut.get().unwrap_or(self.plan.until).0,
        };
        let mut writer = Writer::default();
        writer.object(|object| {
            object.key("next_batch").string(&token.to_string());
            object.members(&self.plan.globals);
            object.key("rooms").object(|object| {
                for (name, part) in parts.iter().filter(|(_, part)| !part.is_empty()) {
                    object.key(name).object(|object| object.members(part));
                }
            });
        });
        writer.finish();
        Built {
            body: writer.into_bytes(),
            news: self.plan.news || rooms,
            rooms: self.plan.joined,
            members: self.members,
            position: self.plan.until,
        }
    }
}

/// Whether somebody else ended the user's membership.
fn thrown_out(tx: &ReadTx<'_>, user: Nid, row: &UserRoom) -> Result<bool, StoreError> {
    Ok(events::event(tx, row.nid)?.is_some_and(|event| event.sender != user))
}
