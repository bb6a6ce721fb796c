//! Server names: which are derived from an account, which are ordinary, and who may meet whom in a room.

use std::{fmt, str::FromStr, sync::LazyLock};

use data_encoding::{Encoding, Specification};
use ruma::{OwnedServerName, ServerName};

/// The zone a node takes when its owner names none: on the overlay only, for ever (RFC 9476).
pub const DEFAULT_ZONE: &str = "mesh.alt";

/// Longest zone we make a name in: `k`, 52 characters, a dot and the zone leave 70 bytes of a
/// user id for the localpart, and the inception entry stays below the 1 KiB of a record's proof.
pub const ZONE_LEN_MAX: usize = 100;

/// Length of an account id written in base32: 256 bits in 5-bit characters.
const ACCT_CHARS: usize = 52;

/// Lower-case base32 without padding. Strict: of the four bits that 52 characters have too many
/// none may be set, so the last character is `a` or `q` and an account has exactly one spelling.
static BASE32: LazyLock<Encoding> = LazyLock::new(|| {
    let mut spec = Specification::new();
    spec.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    spec.encoding().expect("32 distinct symbols are a base32 alphabet")
});

/// An account: the hash of its inception entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Acct(pub [u8; 32]);

impl Acct {
    /// The name that this account has in `zone`.
    pub fn name_in(&self, zone: &str) -> Result<OwnedServerName, NameError> {
        check_zone(zone)?;
        ServerName::parse(format!("k{self}.{zone}"))
            .map_err(|_| NameError::Zone(zone.to_owned(), "it does not make a server name"))
    }
}

impl fmt::Display for Acct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE32.encode(&self.0))
    }
}

impl fmt::Debug for Acct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Acct({self})")
    }
}

impl FromStr for Acct {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() != ACCT_CHARS {
            return Err(NameError::Acct);
        }
        let bytes = BASE32.decode(text.as_bytes()).map_err(|_| NameError::Acct)?;
        Ok(Self(bytes.try_into().map_err(|_| NameError::Acct)?))
    }
}

/// What a server name tells about its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameKind {
    /// `k<52>.<…>.alt`: lives on the overlay and nowhere else.
    Overlay(Acct),
    /// `k<52>.<zone>`, the zone being an ordinary domain: the overlay finds it by its account,
    /// ordinary servers through the zone's gateway.
    Gateway(Acct),
    /// Any other name: found by DNS.
    Ordinary,
    /// A name under `.alt` that is no account's: nobody can have it.
    Nobody,
}

impl NameKind {
    /// Reads the kind off a name.
    pub fn of(name: &ServerName) -> Self {
        let text = name.as_str();
        let acct = || {
            let (label, zone) = text.split_once('.')?;
            let acct = label.strip_prefix('k')?.parse::<Acct>().ok()?;
            check_zone(zone).ok()?;
            Some(acct)
        };
        match (is_overlay_name(name), acct()) {
            (true, Some(acct)) => Self::Overlay(acct),
            (true, None) => Self::Nobody,
            (false, Some(acct)) => Self::Gateway(acct),
            (false, None) => Self::Ordinary,
        }
    }

    /// The account that the name spells, if it spells one.
    pub fn acct(self) -> Option<Acct> {
        match self {
            Self::Overlay(acct) | Self::Gateway(acct) => Some(acct),
            Self::Ordinary | Self::Nobody => None,
        }
    }
}

/// True for names below `.alt`: their servers are reached over the overlay only.
pub fn is_overlay_name(name: &ServerName) -> bool {
    let host = name.host();
    let host = host.strip_suffix('.').unwrap_or(host);
    host.len() >= 4 && host.as_bytes()[host.len() - 4..].eq_ignore_ascii_case(b".alt")
}

/// Whether servers of these two names can follow one room together. An ordinary server cannot
/// fetch the keys of a name below `.alt` and drops its events, so the room would split for ever.
pub fn may_share_room(a: &ServerName, b: &ServerName) -> bool {
    use NameKind::{Ordinary, Overlay};
    !matches!((NameKind::of(a), NameKind::of(b)), (Overlay(_), Ordinary) | (Ordinary, Overlay(_)))
}

/// The first two names of a room that cannot be in it together.
pub fn find_mixture<'a>(
    ours: &'a ServerName,
    others: impl IntoIterator<Item = &'a ServerName>,
) -> Option<(&'a ServerName, &'a ServerName)> {
    let mut overlay = None;
    let mut ordinary = None;
    for name in std::iter::once(ours).chain(others) {
        match NameKind::of(name) {
            NameKind::Overlay(_) => overlay = overlay.or(Some(name)),
            NameKind::Ordinary => ordinary = ordinary.or(Some(name)),
            NameKind::Gateway(_) | NameKind::Nobody => {}
        }
        if let (Some(overlay), Some(ordinary)) = (overlay, ordinary) {
            return Some((overlay, ordinary));
        }
    }
    None
}

/// The text a user gets when a room would mix the two.
pub fn mixture_text(overlay: &ServerName, ordinary: &ServerName) -> String {
    format!(
        "{overlay} lives on the overlay only and {ordinary} is an ordinary server that cannot reach it, \
         so they cannot be in one room; an account in a gateway zone or with a domain of its own can \
         talk to both"
    )
}

/// Checks a zone: lower-case DNS labels, so that the names in it have one spelling each.
pub fn check_zone(zone: &str) -> Result<(), NameError> {
    let wrong = |why| Err(NameError::Zone(zone.to_owned(), why));
    if zone.is_empty() || zone.len() > ZONE_LEN_MAX {
        return wrong("a zone has 1 to 100 characters");
    }
    for label in zone.split('.') {
        if label.is_empty() || label.len() > 63 {
            return wrong("each part between dots has 1 to 63 characters");
        }
        if label.starts_with('-') || label.ends_with('-') {
            return wrong("no part begins or ends with a hyphen");
        }
        if !label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
            return wrong("only a-z, 0-9, hyphens and dots are allowed");
        }
    }
    Ok(())
}

/// What is wrong with a name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum NameError {
    /// Not the one spelling of an account.
    #[error("not an account id: 52 characters a-z and 2-7, the last one `a` or `q`")]
    Acct,
    /// A zone that cannot be used.
    #[error("`{0}` cannot be a zone: {1}")]
    Zone(String, &'static str),
    /// A domain that cannot be used.
    #[error("`{0}` cannot be a server name of your own: {1}")]
    Domain(String, &'static str),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ruma::server_name;

    use super::*;

    #[test]
    fn last_character_is_strict() {
        let name = Acct([7; 32]).to_string();
        assert_eq!(name.len(), 52);
        assert!(name.ends_with(['a', 'q']));
        assert_eq!(name.parse::<Acct>(), Ok(Acct([7; 32])));
        for last in "bcdefghijklmnoprstuvwxyz234567".chars() {
            let other = format!("{}{last}", &name[..51]);
            assert_eq!(other.parse::<Acct>(), Err(NameError::Acct), "{other}");
        }
        assert!(name.to_uppercase().parse::<Acct>().is_err());
        assert!(format!("{name}a").parse::<Acct>().is_err());
    }

    #[test]
    fn kinds() {
        let acct = Acct([9; 32]);
        let overlay = acct.name_in("mesh.alt").unwrap();
        assert_eq!(NameKind::of(&overlay), NameKind::Overlay(acct));
        let gateway = acct.name_in("mx.example.org").unwrap();
        assert_eq!(NameKind::of(&gateway), NameKind::Gateway(acct));
        assert_eq!(NameKind::of(server_name!("example.org")), NameKind::Ordinary);
        assert_eq!(NameKind::of(server_name!("foo.alt")), NameKind::Nobody);
        let port = ServerName::parse(format!("{overlay}:8448")).unwrap();
        assert_eq!(NameKind::of(&port), NameKind::Nobody);
        let upper = ServerName::parse(format!("k{}.mesh.ALT", acct)).unwrap();
        assert_eq!(NameKind::of(&upper), NameKind::Nobody);
        assert!(!may_share_room(&overlay, server_name!("example.org")));
        assert!(may_share_room(&overlay, &gateway));
        assert!(may_share_room(&gateway, server_name!("example.org")));
        let names = [&*gateway, server_name!("example.org")];
        assert_eq!(find_mixture(&overlay, names), Some((&*overlay, server_name!("example.org"))));
    }

    proptest! {
        #[test]
        fn any_name_has_a_kind(text in "\\PC{0,80}") {
            if let Ok(name) = ServerName::parse(&text) {
                let kind = NameKind::of(&name);
                prop_assert_eq!(is_overlay_name(&name), matches!(kind, NameKind::Overlay(_) | NameKind::Nobody));
            }
        }

        #[test]
        fn an_account_has_one_spelling(text in "[a-z2-7]{52}") {
            if let Ok(acct) = text.parse::<Acct>() {
                prop_assert_eq!(acct.to_string(), text);
            }
        }
    }
}
