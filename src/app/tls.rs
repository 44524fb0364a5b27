//! TLS 1.2 and 1.3: a certificate and its key from PEM files, loaded again when they change.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::RwLock;
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::metrics::Connections as Measured;

/// Interval at which the files are checked for changes.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Application protocols (ALPN), the preferred one first.
const PROTOCOLS: [&str; 2] = ["h2", "http/1.1"];

/// Reasons for which a certificate and its key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// File.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A file has no PEM section of the kind that it must have, or a damaged one.
    #[error("{path} has no valid {expected} in PEM format: {source}")]
    Pem {
        /// File.
        path: PathBuf,
        /// The section that it must have.
        expected: &'static str,
        /// Cause.
        source: pem::Error,
    },
    /// The key has an algorithm that is not supported, or the certificate is for another key.
    #[error("the certificate {certificate} and the key {key} cannot be used together: {source}")]
    Pair {
        /// File of the certificate.
        certificate: PathBuf,
        /// File of the key.
        key: PathBuf,
        /// Cause.
        source: rustls::Error,
    },
    /// No common protocol version; impossible with the provider in use.
    #[error("TLS cannot be configured: {0}")]
    Configuration(#[source] rustls::Error),
}

/// TLS of a server.
pub(super) struct Tls {
    files: Files,
    current: Arc<Current>,
    acceptor: TlsAcceptor,
    /// State of the files when they were last loaded, or failed to load.
    seen: Stamps,
}

/// Paths of the PEM files.
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

/// The certificate for new connections.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

/// Time of modification, size, inode and device of each file; `None` for one that cannot be read.
type Stamps = [Option<(i64, i64, u64, u64, u64)>; 2];

impl Tls {
    /// Loads the files.
    pub(super) fn open(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let files = Files { certificate: certificate.to_owned(), key: key.to_owned() };
        let seen = files.stamps();
        let current = Arc::new(Current(RwLock::new(files.load()?)));
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Configuration)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&current) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = PROTOCOLS.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        files.warn_if_key_is_public();
        Ok(Self { files, current, acceptor: TlsAcceptor::from(Arc::new(config)), seen })
    }

    /// Accepts handshakes, with the current certificate.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.clone()
    }

    /// Loads the files whenever they have changed, until `ended` is cancelled. If they cannot be used, the certificate stays.
    pub(super) async fn reload_periodically(mut self, measured: Measured, ended: CancellationToken) {
        loop {
            tokio::select! {
                () = ended.cancelled() => return,
                () = tokio::time::sleep(CHECK_INTERVAL) => {}
            }
            let checked = tokio::task::spawn_blocking(move || {
                let result = self.reload_if_changed();
                (self, result)
            });
            let Ok((tls, result)) = checked.await else {
                tracing::error!("the check of the TLS certificate panicked: changes need a restart from now on");
                return;
            };
            self = tls;
            match result {
                None => {}
                Some(Ok(())) => {
                    measured.reloaded(true);
                    tracing::info!(certificate = %self.files.certificate.display(), "loaded the changed TLS certificate");
                }
                Some(Err(error)) => {
                    measured.reloaded(false);
                    tracing::warn!(%error, "the TLS files have changed and cannot be used: the old certificate stays in use");
                }
            }
        }
    }

    /// `None` if the files have not changed.
    fn reload_if_changed(&mut self) -> Option<Result<(), TlsError>> {
        let stamps = self.files.stamps();
        if stamps == self.seen {
            return None;
        }
        // Taken before the files are read: what changes meanwhile is a change for the next check.
        self.seen = stamps;
        Some(self.files.load().map(|loaded| *self.current.0.write() = loaded))
    }
}

impl Files {
    fn load(&self) -> Result<Arc<CertifiedKey>, TlsError> {
        let read = |path: &Path| fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source });
        let invalid = |path: &Path, expected| {
            let path = path.to_owned();
            move |source| TlsError::Pem { path, expected, source }
        };
        let chain = read(&self.certificate)?;
        let chain = CertificateDer::pem_slice_iter(&chain).collect::<Result<Vec<_>, _>>();
        let chain = chain.and_then(|chain| if chain.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(chain) });
        let chain = chain.map_err(invalid(&self.certificate, "certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?).map_err(invalid(&self.key, "private key"))?;
        let pair = CertifiedKey::from_der(chain, key, &ring::default_provider());
        pair.map(Arc::new).map_err(|source| TlsError::Pair {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            source,
        })
    }

    /// Follows links, as the mounted secrets of Kubernetes and the files of certbot are.
    fn stamps(&self) -> Stamps {
        [&self.certificate, &self.key].map(|path| {
            let found = fs::metadata(path).ok()?;
            Some((found.mtime(), found.mtime_nsec(), found.size(), found.ino(), found.dev()))
        })
    }

    fn warn_if_key_is_public(&self) {
        if fs::metadata(&self.key).is_ok_and(|found| found.mode() & 0o004 != 0) {
            tracing::warn!(key = %self.key.display(), "every user of this machine can read the TLS key: chmod o-r");
        }
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a new certificate and its key.
    fn write(folder: &Path) -> (PathBuf, PathBuf) {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let [certificate, key] =
            [("cert.pem", cert.pem()), ("key.pem", signing_key.serialize_pem())].map(|(name, pem)| {
                // A new file each time: two changes of one file may have the same time.
                let (new, path) = (folder.join("new"), folder.join(name));
                fs::write(&new, pem).unwrap();
                fs::rename(&new, &path).unwrap();
                path
            });
        (certificate, key)
    }

    fn error(certificate: &Path, key: &Path) -> String {
        Tls::open(certificate, key).err().unwrap().to_string()
    }

    #[test]
    fn files_that_cannot_be_used_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = write(folder.path());
        assert!(Tls::open(&certificate, &key).is_ok());
        let missing = folder.path().join("missing.pem");
        assert!(error(&missing, &key).contains("missing.pem"));
        assert!(error(&key, &key).contains("key.pem has no valid certificate"), "{}", error(&key, &key));
        assert!(error(&certificate, &certificate).contains("cert.pem has no valid private key"));
        let other = tempfile::tempdir().unwrap();
        let (_, other) = write(other.path());
        assert!(error(&certificate, &other).contains("cannot be used together"), "{}", error(&certificate, &other));
    }

    #[test]
    fn a_changed_pair_replaces_the_old_one_and_a_broken_pair_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = write(folder.path());
        let mut tls = Tls::open(&certificate, &key).unwrap();
        let served = |tls: &Tls| tls.current.0.read().cert[0].clone();
        let first = served(&tls);
        assert!(tls.reload_if_changed().is_none());
        write(folder.path());
        assert!(tls.reload_if_changed().unwrap().is_ok());
        let second = served(&tls);
        assert_ne!(second, first);
        fs::write(&key, "half a key").unwrap();
        assert!(tls.reload_if_changed().unwrap().is_err());
        assert!(tls.reload_if_changed().is_none(), "reported once");
        fs::remove_file(&certificate).unwrap();
        assert!(tls.reload_if_changed().unwrap().is_err());
        assert_eq!(served(&tls), second);
        write(folder.path());
        assert!(tls.reload_if_changed().unwrap().is_ok());
        assert_ne!(served(&tls), second);
    }
}
