//! Names to addresses: SRV, A and AAAA records over the machine's name servers, with a cache; private addresses are
//! left out unless they are allowed.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{LookupIpStrategy, ResolveHosts},
    proto::rr::{RData, RecordType},
};

use super::{
    address::is_public,
    route::{DEFAULT_PORT, Step},
};

/// Looks names up. Cloning shares the cache.
#[derive(Clone)]
pub(super) struct Dns {
    /// None where the machine has no name servers configured: literals still work.
    resolver: Option<Arc<TokioResolver>>,
    allow_private: bool,
    /// Hosts whose addresses, ports included, a test decides.
    #[cfg(test)]
    fixed: Arc<std::collections::HashMap<String, SocketAddr>>,
}

/// One target of an SRV record.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    priority: u16,
    weight: u16,
    host: String,
    port: u16,
}

impl Dns {
    /// As `/etc/resolv.conf` and `/etc/hosts` say.
    pub(super) fn system(allow_private: bool) -> Self {
        let resolver = TokioResolver::builder_tokio().and_then(|mut builder| {
            let options = builder.options_mut();
            options.timeout = ASK_WITHIN;
            options.attempts = 2;
            options.cache_size = CACHE_NAMES;
            options.use_hosts_file = ResolveHosts::Always;
            options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
            options.positive_max_ttl = Some(Duration::from_secs(24 * 3600));
            options.negative_max_ttl = Some(Duration::from_secs(60));
            builder.build()
        });
        let resolver = match resolver {
            Ok(resolver) => Some(Arc::new(resolver)),
            Err(error) => {
                tracing::warn!(%error, "no name server can be used: ordinary servers are reached by address only");
                None
            }
        };
        Self {
            resolver,
            allow_private,
            #[cfg(test)]
            fixed: Arc::default(),
        }
    }

    /// Hosts at fixed addresses, whatever port is asked for.
    #[cfg(test)]
    pub(super) fn fixed(allow_private: bool, hosts: &[(&str, SocketAddr)]) -> Self {
        let fixed = hosts.iter().map(|(host, address)| ((*host).to_owned(), *address)).collect();
        Self { resolver: None, allow_private, fixed: Arc::new(fixed) }
    }

    /// The addresses behind a step, best first; at most [`ADDRESSES_MAX`].
    pub(super) async fn addresses(&self, step: &Step) -> Result<Vec<SocketAddr>, DnsError> {
        let found = match step {
            Step::Literal(address, port) => vec![SocketAddr::new(*address, *port)],
            Step::HostPort(host, port) => self.host(host, *port).await?,
            Step::Host(host) => match self.services(host).await {
                Some(targets) => self.targets(&targets).await?,
                None => self.host(host, DEFAULT_PORT).await?,
            },
        };
        self.allowed(found)
    }

    /// The addresses of a web server: no SRV records, no port of Matrix.
    pub(super) async fn web(&self, step: &Step) -> Result<Vec<SocketAddr>, DnsError> {
        let found = match step {
            Step::Literal(address, _) => vec![SocketAddr::new(*address, WEB_PORT)],
            Step::HostPort(host, port) => self.host(host, *port).await?,
            Step::Host(host) => self.host(host, WEB_PORT).await?,
        };
        self.allowed(found)
    }

    fn allowed(&self, mut found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, DnsError> {
        let any = !found.is_empty();
        if !self.allow_private {
            found.retain(|address| is_public(address.ip()));
        }
        match found.is_empty() {
            false => {
                found.truncate(ADDRESSES_MAX);
                Ok(found)
            }
            true if any => Err(DnsError::Private),
            true => Err(DnsError::NoAddress),
        }
    }

    /// Step 3.3, 4: `_matrix-fed._tcp`, then the deprecated `_matrix._tcp`.
    async fn services(&self, host: &str) -> Option<Vec<Target>> {
        let resolver = self.resolver.as_ref()?;
        for service in ["_matrix-fed._tcp", "_matrix._tcp"] {
            // The dot at the end keeps the search list out.
            let Ok(answer) = resolver.lookup(format!("{service}.{host}."), RecordType::SRV).await else {
                continue;
            };
            let targets: Vec<Target> = answer
                .answers()
                .iter()
                .filter_map(|record| match &record.data {
                    RData::SRV(srv) => Some(Target {
                        priority: srv.priority,
                        weight: srv.weight,
                        host: srv.target.to_ascii().trim_end_matches('.').to_owned(),
                        port: srv.port,
                    }),
                    _ => None,
                })
                // RFC 2782: a target of "." says that the service is not there.
                .filter(|target| !target.host.is_empty() && target.port != 0)
                .take(TARGETS_MAX)
                .collect();
            if !targets.is_empty() {
                return Some(in_order(targets, rand::random::<f64>));
            }
        }
        None
    }

    async fn targets(&self, targets: &[Target]) -> Result<Vec<SocketAddr>, DnsError> {
        let mut all = Vec::new();
        let mut last = DnsError::NoAddress;
        for target in targets {
            match self.host(&target.host, target.port).await {
                Ok(found) => all.extend(found),
                Err(error) => last = error,
            }
            if all.len() >= ADDRESSES_MAX {
                break;
            }
        }
        if all.is_empty() { Err(last) } else { Ok(all) }
    }

    async fn host(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, DnsError> {
        #[cfg(test)]
        if let Some(address) = self.fixed.get(host) {
            return Ok(vec![*address]);
        }
        let resolver = self.resolver.as_ref().ok_or(DnsError::NoServers)?;
        // A name with a dot is whole; one without may be in the hosts file or the search list.
        let name = if host.contains('.') { format!("{host}.") } else { host.to_owned() };
        let found = match resolver.lookup_ip(name).await {
            Ok(found) => found,
            // The hosts file has names without the closing dot.
            Err(error) => match resolver.lookup_ip(host).await {
                Ok(found) => found,
                Err(_) => return Err(DnsError::Lookup(error.to_string())),
            },
        };
        let (v6, v4): (Vec<IpAddr>, Vec<IpAddr>) = found.iter().partition(IpAddr::is_ipv6);
        Ok(interleaved(v6, v4).map(|ip| SocketAddr::new(ip, port)).collect())
    }
}

/// RFC 8305, section 4: families take turns, so that a broken one costs one attempt.
fn interleaved(v6: Vec<IpAddr>, v4: Vec<IpAddr>) -> impl Iterator<Item = IpAddr> {
    let longest = v6.len().max(v4.len());
    (0..longest).flat_map(move |at| [v6.get(at).copied(), v4.get(at).copied()].into_iter().flatten())
}

/// RFC 2782: by priority, within one at random by weight. `random` gives numbers from 0 to below 1.
fn in_order(mut targets: Vec<Target>, mut random: impl FnMut() -> f64) -> Vec<Target> {
    targets.sort_by_key(|target| (target.priority, target.weight));
    let mut ordered = Vec::with_capacity(targets.len());
    while let Some(first) = targets.first() {
        let same = targets.iter().take_while(|target| target.priority == first.priority).count();
        let sum: u32 = targets[..same].iter().map(|target| u32::from(target.weight)).sum();
        let draw = random() * f64::from(sum + 1);
        let mut running = 0.0;
        let chosen = targets[..same].iter().position(|target| {
            running += f64::from(target.weight);
            running >= draw
        });
        ordered.push(targets.remove(chosen.unwrap_or(same - 1)));
    }
    ordered
}

/// Why a name has no address that we go to.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum DnsError {
    /// The name servers said no, or nothing.
    #[error("name lookup: {0}")]
    Lookup(String),
    /// No record.
    #[error("the name has no address")]
    NoAddress,
    /// It leads into a private network.
    #[error(
        "the name leads to a private address only; `allow_private_addresses = true` under [federation] permits it"
    )]
    Private,
    /// No name servers.
    #[error("this machine has no name server")]
    NoServers,
}

const WEB_PORT: u16 = 443;
/// Addresses that are tried for one connection.
const ADDRESSES_MAX: usize = 8;
/// SRV targets that are looked at.
const TARGETS_MAX: usize = 16;
/// Names that the resolver remembers.
const CACHE_NAMES: u64 = 4_096;
const ASK_WITHIN: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    fn target(priority: u16, weight: u16, host: &str) -> Target {
        Target { priority, weight, host: host.into(), port: 1 }
    }

    #[test]
    fn services_go_by_priority_then_weight() {
        let all = vec![
            target(20, 1, "late"),
            target(10, 0, "never first"),
            target(10, 60, "often"),
            target(10, 30, "seldom"),
        ];
        let names = |draw: f64| {
            in_order(all.clone(), || draw).into_iter().map(|target| target.host).collect::<Vec<_>>()
        };
        assert_eq!(names(0.0)[3], "late");
        assert_eq!(names(0.99)[0], "often");
        assert_eq!(names(0.2)[0], "seldom");
        assert_eq!(names(0.5).len(), 4);
    }

    #[test]
    fn families_take_turns() {
        let v6 = vec!["2001::1".parse().unwrap(), "2001::2".parse().unwrap()];
        let v4 = vec!["1.1.1.1".parse().unwrap()];
        let order: Vec<String> = interleaved(v6, v4).map(|ip| ip.to_string()).collect();
        assert_eq!(order, ["2001::1", "1.1.1.1", "2001::2"]);
    }

    #[tokio::test]
    async fn private_literals_are_refused_unless_allowed() {
        let step = Step::Literal([127, 0, 0, 1].into(), 1);
        let strict = Dns::fixed(false, &[]);
        assert!(matches!(strict.addresses(&step).await, Err(DnsError::Private)));
        let open = Dns::fixed(true, &[]);
        assert_eq!(open.addresses(&step).await.unwrap().len(), 1);
        assert!(matches!(open.addresses(&Step::Host("a".into())).await, Err(DnsError::NoServers)));
    }
}
