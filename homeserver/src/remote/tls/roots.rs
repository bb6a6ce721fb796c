//! Whose certificates are believed: the machine's authorities and those that the operator adds.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

/// The TLS settings of our connections to others.
pub(in crate::remote) fn client_config(extra_ca: &[PathBuf]) -> Result<Arc<ClientConfig>, RootsError> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::debug!(%error, "a certificate authority of this machine cannot be read");
    }
    let (added, _) = roots.add_parsable_certificates(native.certs);
    for path in extra_ca {
        add_file(&mut roots, path)?;
    }
    if added == 0 && extra_ca.is_empty() {
        tracing::warn!(
            "this machine has no certificate authorities: install ca-certificates to reach ordinary servers"
        );
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has the ciphers of TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn add_file(roots: &mut RootCertStore, path: &Path) -> Result<(), RootsError> {
    let wrong = |reason: String| RootsError { path: path.to_owned(), reason };
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?;
    let mut count = 0;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
        count += 1;
    }
    if count == 0 {
        return Err(wrong("it holds no certificate in PEM form".into()));
    }
    Ok(())
}

/// A file of certificate authorities that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("extra_ca {}: {reason}; name a PEM file with certificates", path.display())]
pub struct RootsError {
    path: PathBuf,
    reason: String,
}
