//! TLS in front of a listener: certificates from files, read again when they change, or fetched by ACME.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use rustls::{
    ServerConfig,
    crypto::ring,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_acme::{AcmeConfig, caches::DirCache, is_tls_alpn_challenge};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;

/// Where a listener's certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Certificates {
    /// PEM files of the chain and the key.
    Files {
        /// The chain, the server's own certificate first.
        cert: PathBuf,
        /// Its private key.
        key: PathBuf,
    },
    /// An authority that proves the name by TLS-ALPN-01 (RFC 8737), Let's Encrypt for one.
    Acme {
        /// What the certificate is for.
        domain: String,
        /// Whom the authority may write to.
        contact: Option<String>,
        /// The authority's directory.
        directory: String,
        /// Where account and certificates are kept.
        cache: PathBuf,
    },
}

/// Answers TLS handshakes. Cloning shares the certificates.
#[derive(Clone)]
pub struct Acceptor {
    normal: Arc<ServerConfig>,
    /// For the authority that checks whether the name is ours.
    challenge: Option<Arc<ServerConfig>>,
    task: Arc<Mutex<Option<Task>>>,
    files: Option<Arc<Files>>,
}

type Task = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

impl Acceptor {
    /// Reads the certificates, or gets ready to fetch them. Fails if files cannot be used.
    pub fn new(certificates: &Certificates) -> Result<Self, TlsError> {
        let builder = || {
            ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("ring has the ciphers of TLS 1.2 and 1.3")
                .with_no_client_auth()
        };
        match certificates {
            Certificates::Files { cert, key } => {
                let files = Arc::new(Files::read(cert, key)?);
                let mut normal =
                    builder().with_cert_resolver(Arc::clone(&files) as Arc<dyn ResolvesServerCert>);
                normal.alpn_protocols = protocols();
                let watched = Arc::clone(&files);
                Ok(Self { files: Some(files), ..Self::of(normal, None, Box::pin(watched.watch())) })
            }
            Certificates::Acme { domain, contact, directory, cache } => {
                let mut roots = rustls::RootCertStore::empty();
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                let client = rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                    .with_safe_default_protocol_versions()
                    .expect("ring has the ciphers of TLS 1.2 and 1.3")
                    .with_root_certificates(roots)
                    .with_no_client_auth();
                let mut state = AcmeConfig::new_with_client_config([domain], Arc::new(client))
                    .contact(contact.iter().map(|contact| format!("mailto:{contact}")))
                    .directory(directory)
                    .cache(DirCache::new(cache.clone()))
                    .state();
                let resolver = state.resolver();
                let challenge =
                    state.challenge_rustls_config_with_provider(Arc::new(ring::default_provider()));
                let mut normal = builder().with_cert_resolver(resolver);
                normal.alpn_protocols = protocols();
                let work = async move {
                    while let Some(event) = state.next().await {
                        match event {
                            Ok(event) => tracing::info!(?event, "certificate"),
                            Err(error) => {
                                tracing::warn!(%error, "the certificate could not be renewed; it is tried again")
                            }
                        }
                    }
                };
                Ok(Self::of(normal, Some(challenge), Box::pin(work)))
            }
        }
    }

    fn of(normal: ServerConfig, challenge: Option<Arc<ServerConfig>>, task: Task) -> Self {
        Self { normal: Arc::new(normal), challenge, task: Arc::new(Mutex::new(Some(task))), files: None }
    }

    /// Reads certificates from files again if they have changed, and says whether they had. Those that cannot be used
    /// change nothing.
    pub fn reload(&self) -> Result<bool, TlsError> {
        self.files.as_ref().map_or(Ok(false), |files| files.reload())
    }

    /// Keeps the certificates new until `shutdown`; run once.
    pub async fn maintain(self, shutdown: CancellationToken) {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = task => {}
            }
        }
    }

    /// The handshake of one connection; `None` if it was an authority's check.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<Option<TlsStream<TcpStream>>> {
        let handshake = async {
            let start = LazyConfigAcceptor::new(Default::default(), stream).await?;
            match &self.challenge {
                Some(challenge) if is_tls_alpn_challenge(&start.client_hello()) => {
                    let mut stream = start.into_stream(Arc::clone(challenge)).await?;
                    stream.shutdown().await?;
                    Ok(None)
                }
                _ => start.into_stream(Arc::clone(&self.normal)).await.map(Some),
            }
        };
        match tokio::time::timeout(HANDSHAKE_WITHIN, handshake).await {
            Ok(outcome) => outcome,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

fn protocols() -> Vec<Vec<u8>> {
    vec![b"h2".to_vec(), b"http/1.1".to_vec()]
}

/// A certificate in two files.
struct Files {
    cert: PathBuf,
    key: PathBuf,
    current: Mutex<(Arc<CertifiedKey>, Changed)>,
}

/// When the two files were last changed.
type Changed = (Option<SystemTime>, Option<SystemTime>);

impl Files {
    fn read(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let changed = changed(cert, key);
        let current = Mutex::new((Arc::new(load(cert, key)?), changed));
        Ok(Self { cert: cert.to_owned(), key: key.to_owned(), current })
    }

    async fn watch(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let files = Arc::clone(&self);
            // The outcome is in the log; a thread that panicked left the old certificate in place.
            let _ = tokio::task::spawn_blocking(move || files.look()).await;
        }
    }

    fn reload(&self) -> Result<bool, TlsError> {
        let now = changed(&self.cert, &self.key);
        if now == self.lock().1 {
            return Ok(false);
        }
        let fresh = load(&self.cert, &self.key)?;
        *self.lock() = (Arc::new(fresh), now);
        tracing::info!(cert = %self.cert.display(), "the certificate was read again");
        Ok(true)
    }

    fn look(&self) {
        match self.reload() {
            Ok(_) => {}
            // Half-written, perhaps: the old one serves on, and the next look sees the rest.
            Err(error) => tracing::warn!(%error, "the changed certificate cannot be used; the old one stays"),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Arc<CertifiedKey>, Changed)> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Files({})", self.cert.display())
    }
}

impl ResolvesServerCert for Files {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.lock().0))
    }
}

fn changed(cert: &Path, key: &Path) -> Changed {
    let when = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    (when(cert), when(key))
}

fn load(cert: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let wrong = |path: &Path, what: &dyn std::fmt::Display| TlsError {
        path: path.to_owned(),
        reason: what.to_string(),
    };
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| wrong(cert, &error))?;
    if chain.is_empty() {
        return Err(wrong(cert, &"it holds no certificate in PEM form"));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, &error))?;
    let private = ring::sign::any_supported_type(&private).map_err(|error| wrong(key, &error))?;
    let certified = CertifiedKey::new(chain, private);
    certified.keys_match().map_err(|_| wrong(key, &"it is not the key of the certificate"))?;
    Ok(certified)
}

/// A file of a certificate or its key that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}; tls_cert and tls_key name PEM files", path.display())]
pub struct TlsError {
    path: PathBuf,
    reason: String,
}

/// A connection that does not finish its handshake costs a place.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn make(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
        fs::write(&cert, made.cert.pem()).unwrap();
        fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        (cert, key)
    }

    #[test]
    fn a_changed_certificate_is_read_again_and_a_broken_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = make(dir.path(), "a.example.org");
        let files = Files::read(&cert, &key).unwrap();
        let first = Arc::clone(&files.lock().0);
        files.look();
        assert!(Arc::ptr_eq(&first, &files.lock().0), "nothing changed");
        fs::write(&key, "no key").unwrap();
        filetime(&key, 10);
        files.look();
        assert!(Arc::ptr_eq(&first, &files.lock().0), "a key that cannot be read changes nothing");
        make(dir.path(), "b.example.org");
        filetime(&key, 20);
        files.look();
        assert!(!Arc::ptr_eq(&first, &files.lock().0));
    }

    #[test]
    fn files_that_do_not_belong_together_are_refused() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (cert, _) = make(one.path(), "a");
        let (_, key) = make(two.path(), "a");
        let error = Files::read(&cert, &key).unwrap_err().to_string();
        assert!(error.contains("not the key"), "{error}");
        let error = Files::read(&key, &key).unwrap_err().to_string();
        assert!(error.contains("no certificate"), "{error}");
    }

    fn filetime(path: &Path, seconds: u64) {
        let when = SystemTime::now() + Duration::from_secs(seconds);
        fs::File::options().write(true).open(path).unwrap().set_modified(when).unwrap();
    }
}
