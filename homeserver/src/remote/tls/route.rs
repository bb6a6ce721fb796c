//! The specification's steps as far as they need no network: what a name or a delegation's answer asks for next. Pure.

use std::net::IpAddr;

use ruma::ServerName;

/// Port of servers that name none.
pub(super) const DEFAULT_PORT: u16 = 8448;

/// Where a host (a server name, or what it delegates to) leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Steps 1, 3.1: a literal; the certificate is for the address.
    Literal(IpAddr, u16),
    /// Steps 2, 3.2: a host with a port; the certificate is for the host.
    HostPort(String, u16),
    /// Steps 3.3 to 3.5 and 4 to 6: a host alone: SRV records are looked up, then port 8448.
    Host(String),
}

impl Step {
    /// Reads `host`, `host:port`, `1.2.3.4`, `[::1]:port`.
    pub(super) fn of(authority: &str) -> Option<Self> {
        let name = ServerName::parse(authority).ok()?;
        let host = name.host();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Some(Self::Literal(address, name.port().unwrap_or(DEFAULT_PORT)));
        }
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        Some(match name.port() {
            Some(port) => Self::HostPort(host, port),
            None => Self::Host(host),
        })
    }

    /// Whether `/.well-known/matrix/server` is asked for first: only for a host without a port.
    pub(super) fn may_delegate(&self) -> bool {
        matches!(self, Self::Host(_))
    }

    /// The name that the certificate must be good for.
    pub(super) fn certificate_name(&self) -> Option<rustls_pki_types::ServerName<'static>> {
        match self {
            Self::Literal(address, _) => Some((*address).into()),
            Self::HostPort(host, _) | Self::Host(host) => host.clone().try_into().ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_where_the_specification_says() {
        let host = |text: &str| Step::Host(text.into());
        for (text, step) in [
            ("example.org", host("example.org")),
            ("EXAMPLE.org", host("example.org")),
            ("example.org:443", Step::HostPort("example.org".into(), 443)),
            ("1.2.3.4", Step::Literal([1, 2, 3, 4].into(), 8448)),
            ("1.2.3.4:80", Step::Literal([1, 2, 3, 4].into(), 80)),
            ("[::1]", Step::Literal("::1".parse().unwrap(), 8448)),
            ("[::1]:81", Step::Literal("::1".parse().unwrap(), 81)),
        ] {
            assert_eq!(Step::of(text), Some(step), "{text}");
        }
        for text in ["", "a b", "example.org/path", "user@example.org", "[::1", "example.org:99999"] {
            assert_eq!(Step::of(text), None, "{text}");
        }
        assert!(host("a").may_delegate() && !Step::HostPort("a".into(), 1).may_delegate());
    }
}
