//! Owns who may see an event, by the state at it.
//!
//! spec: <https://spec.matrix.org/v1.19/client-server-api/#room-history-visibility>

/// `history_visibility` at an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// All may see it.
    WorldReadable,
    /// Members, also from before they joined.
    Shared,
    /// Members from when they were invited.
    Invited,
    /// Members from when they joined.
    Joined,
}

impl Visibility {
    /// From the event's text; what is unknown or absent counts as `shared`.
    pub fn parse(text: Option<&str>) -> Self {
        match text {
            Some("world_readable") => Self::WorldReadable,
            Some("invited") => Self::Invited,
            Some("joined") => Self::Joined,
            _ => Self::Shared,
        }
    }
}

/// A user's membership, as far as this matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Joined.
    Join,
    /// Invited.
    Invite,
    /// Anything else.
    Out,
}

impl At {
    /// From the spec's word.
    pub fn parse(membership: Option<&str>) -> Self {
        match membership {
            Some("join") => Self::Join,
            Some("invite") => Self::Invite,
            _ => Self::Out,
        }
    }
}

/// Whether a user sees an event. `then`: the visibility and membership at it (of the two that a membership or visibility
/// event changes, the more generous). `since`: whether the user was joined at some later time (or is).
pub fn may_see(then: Visibility, at: At, since: bool) -> bool {
    match (then, at) {
        (Visibility::WorldReadable, _) | (_, At::Join) => true,
        (Visibility::Invited, At::Invite) => since,
        (Visibility::Shared, _) => since,
        (Visibility::Invited | Visibility::Joined, _) => false,
    }
}

/// Whether a server sees an event: some user of it has to. `joined`, `invited`: it has one joined or invited at the event.
pub fn server_may_see(then: Visibility, joined: bool, invited: bool) -> bool {
    match then {
        Visibility::WorldReadable | Visibility::Shared => true,
        Visibility::Invited => joined || invited,
        Visibility::Joined => joined,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrix() {
        use At::{Invite, Join, Out};
        use Visibility::{Invited, Joined, Shared, WorldReadable};
        // (visibility, membership at the event, joined later) -> sees it
        let table = [
            (WorldReadable, Join, true, true),
            (WorldReadable, Out, false, true),
            (WorldReadable, Invite, false, true),
            (Shared, Join, false, true),
            (Shared, Out, true, true),
            (Shared, Out, false, false),
            (Shared, Invite, true, true),
            (Shared, Invite, false, false),
            (Invited, Join, false, true),
            (Invited, Invite, true, true),
            (Invited, Invite, false, false),
            (Invited, Out, true, false),
            (Joined, Join, false, true),
            (Joined, Invite, true, false),
            (Joined, Out, true, false),
            (Joined, Out, false, false),
        ];
        for (visibility, at, since, sees) in table {
            assert_eq!(may_see(visibility, at, since), sees, "{visibility:?} {at:?} {since}");
        }
        assert_eq!(Visibility::parse(Some("nonsense")), Shared);
        assert_eq!(At::parse(Some("ban")), Out);
        assert!(server_may_see(Shared, false, false) && !server_may_see(Joined, false, true));
    }
}
