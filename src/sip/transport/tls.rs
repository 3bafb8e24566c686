//! SIP over TLS (RFC 3261 §26.2.1, RFC 5922): certificates, and what a peer must show.
//!
//! A peer that we connect to must prove the name of its gateway, or the address when the gateway has no name. A
//! peer that connects to us is known by its address, like on the other transports, and must show a certificate of
//! its own only when `client_ca` asks for one. Certificates are read again when their files change; open
//! connections keep what they began with.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tracing::{error, info};

use crate::clock;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(10);

/// Where certificates lie (`[sip.tls]`), all PEM.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsFiles {
    /// Our chain, the leaf first, and its key: for listeners, and shown to carriers that ask for it.
    pub own: Option<(PathBuf, PathBuf)>,
    /// Who signs carriers' certificates; `None`: whoever the system trusts.
    pub ca: Option<PathBuf>,
    /// Who signs the certificates that peers must show when they connect to us; `None`: they need none.
    pub client_ca: Option<PathBuf>,
}

impl TlsFiles {
    fn paths(&self) -> impl Iterator<Item = &Path> {
        let own = self.own.iter().flat_map(|(certificate, key)| [certificate, key]);
        own.chain(&self.ca).chain(&self.client_ca).map(PathBuf::as_path)
    }

    /// When each file was changed last; `None` for one that cannot be seen.
    fn stamps(&self) -> Vec<Option<SystemTime>> {
        let stamp = |path: &Path| std::fs::metadata(path).and_then(|file| file.modified()).ok();
        self.paths().map(stamp).collect()
    }
}

/// Why TLS cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A `tls://` listener without `sip.tls.certificate` and `sip.tls.key`.
    #[error("sip.tls: a tls:// listener needs certificate and key")]
    NoCertificate,
    /// A file cannot be read, or holds something else.
    #[error("{key} = \"{}\": {reason}", path.display())]
    File {
        /// The configuration's name for it.
        key: &'static str,
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Certificate and key do not fit, or one of them is of a kind that is not supported.
    #[error("sip.tls: {0}")]
    Rustls(#[from] rustls::Error),
}

/// What connections begin with.
struct Current {
    server: Option<Arc<ServerConfig>>,
    client: Arc<ClientConfig>,
}

/// All certificates of the service.
pub(super) struct Tls {
    files: TlsFiles,
    current: RwLock<Arc<Current>>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`], which names the key and the file.
    pub(super) fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let current = RwLock::new(Arc::new(Current::load(&files)?));
        Ok(Self { files, current })
    }

    fn current(&self) -> Arc<Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// For a connection that came in; `None` without a certificate of ours.
    pub(super) fn acceptor(&self) -> Option<TlsAcceptor> {
        self.current().server.clone().map(TlsAcceptor::from)
    }

    /// For a connection of ours.
    pub(super) fn connector(&self) -> TlsConnector {
        TlsConnector::from(Arc::clone(&self.current().client))
    }

    /// Looks at the files again and again, and takes what has changed. What cannot be used changes nothing.
    pub(super) async fn keep_fresh(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut known = self.files.stamps();
        loop {
            tokio::select! {
                _ = stop.changed() => return,
                () = clock::sleep(LOOK) => {}
            }
            let stamps = self.files.stamps();
            if stamps != known {
                known = stamps;
                self.reload();
            }
        }
    }

    /// Takes the files as they are now.
    pub(super) fn reload(&self) {
        match Current::load(&self.files) {
            Ok(current) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(current);
                info!("the certificates of sip.tls were read again");
            }
            Err(error) => error!("{error}; the certificates that were read before stay in use"),
        }
    }
}

impl Current {
    fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let own = files.own.as_ref().map(|(certificate, key)| identity(certificate, key)).transpose()?;
        let roots = match &files.ca {
            Some(path) => roots_of("sip.tls.ca", path)?,
            None => system_roots(),
        };
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let client = match &own {
            Some((chain, key)) => client.with_client_auth_cert(chain.clone(), key.clone_key())?,
            None => client.with_no_client_auth(),
        };
        let server = match own {
            None => None,
            Some((chain, key)) => {
                let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
                    .with_safe_default_protocol_versions()?;
                let server = match &files.client_ca {
                    None => server.with_no_client_auth(),
                    Some(path) => {
                        let roots = Arc::new(roots_of("sip.tls.client_ca", path)?);
                        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
                        let verifier = verifier.map_err(|fault| file("sip.tls.client_ca", path, &fault))?;
                        server.with_client_cert_verifier(verifier)
                    }
                };
                Some(Arc::new(server.with_single_cert(chain, key)?))
            }
        };
        Ok(Self { server, client: Arc::new(client) })
    }
}

/// What connections of ours begin with.
///
/// # Errors
/// [`TlsError`], which names the key and the file.
pub fn client(files: &TlsFiles) -> Result<Arc<ClientConfig>, TlsError> {
    Ok(Current::load(files)?.client)
}

/// Whom we expect at the far end (RFC 5922 §4): the gateway's name, or its address when it has none. `None` for a name
/// that no certificate can have.
#[must_use]
pub fn expected(name: Option<&str>, address: IpAddr) -> Option<ServerName<'static>> {
    match name {
        Some(name) => ServerName::try_from(name.to_owned()).ok(),
        None => Some(ServerName::from(address)),
    }
}

fn file(key: &'static str, path: &Path, reason: &impl ToString) -> TlsError {
    TlsError::File { key, path: path.to_owned(), reason: reason.to_string() }
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(certificate: &Path, key: &Path) -> Result<Identity, TlsError> {
    let chain = certificates("sip.tls.certificate", certificate)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|fault| file("sip.tls.key", key, &fault))?;
    Ok((chain, key))
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(|fault| file(key, path, &fault))?.collect();
    let found = found.map_err(|fault| file(key, path, &fault))?;
    if found.is_empty() {
        return Err(file(key, path, &"there is no certificate in it"));
    }
    Ok(found)
}

fn roots_of(key: &'static str, path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(key, path)? {
        roots.add(certificate).map_err(|fault| file(key, path, &fault))?;
    }
    Ok(roots)
}

/// May be none at all, and then no carrier can be believed; whoever has no TLS trunk need not care.
fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    // A few odd ones in a system's list are no reason to do without the others.
    let (_, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}
