//! Certificates made for each test, and TLS for the kit's phones.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use sip_tests::phone::{Handshake, Secure, Stream};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig, crypto};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Certificate and key, as PEM files.
pub type Pair = (PathBuf, PathBuf);

/// Somebody who signs certificates. Dropping it removes its folder.
pub struct Authority {
    folder: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Authority {
    /// One that nobody else knows.
    pub fn new() -> Self {
        let name = format!("maskline-ca-{:016x}", rand::random::<u64>());
        let folder = std::env::temp_dir().join(&name);
        std::fs::create_dir(&folder).unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(folder.join("ca.pem"), issuer.pem()).unwrap();
        Self { folder, issuer }
    }

    /// Its own certificate.
    pub fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// A certificate for a name or an address.
    pub fn sign(&self, name: &str) -> Pair {
        self.sign_as(&format!("{:016x}", rand::random::<u64>()), &[name], false)
    }

    /// The same, but it has been invalid for years.
    pub fn sign_expired(&self, name: &str) -> Pair {
        self.sign_as(&format!("{:016x}", rand::random::<u64>()), &[name], true)
    }

    /// A certificate in `FILE.pem` and `FILE.key`, over what was there.
    pub fn sign_as(&self, file: &str, names: &[&str], expired: bool) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params =
            CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        if expired {
            (params.not_before, params.not_after) = (date_time_ymd(2019, 1, 1), date_time_ymd(2020, 1, 1));
        }
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let [chain, secret] =
            [format!("{file}.pem"), format!("{file}.key")].map(|name| self.folder.join(name));
        std::fs::write(&chain, certificate.pem()).unwrap();
        std::fs::write(&secret, key.serialize_pem()).unwrap();
        (chain, secret)
    }

    /// Lines of `[sip.tls]` for a service that shows `own` and believes this authority.
    pub fn lines(&self, own: &Pair) -> String {
        let (certificate, key) = (own.0.display(), own.1.display());
        format!("certificate = \"{certificate}\"\nkey = \"{key}\"\nca = \"{}\"\n", self.ca().display())
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.ca()).unwrap()).unwrap();
        roots
    }
}

/// TLS of a phone: what it shows, whom it believes.
#[derive(Clone)]
pub struct Secret {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
    expects: ServerName<'static>,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret").field("expects", &self.expects).finish_non_exhaustive()
    }
}

impl Secret {
    /// A phone that shows `own`, believes `authority`, and calls a service that must prove to be `expects`.
    /// `asks`: whoever connects to the phone must show a certificate of that authority too.
    pub fn new(authority: &Authority, own: &Pair, expects: &str, asks: bool) -> Arc<Self> {
        let provider = Arc::new(crypto::ring::default_provider());
        let chain = || vec![CertificateDer::from_pem_file(&own.0).unwrap()];
        let key = || PrivateKeyDer::from_pem_file(&own.1).unwrap();
        let client =
            ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let client = client.unwrap().with_root_certificates(authority.roots());
        let client = client.with_client_auth_cert(chain(), key()).unwrap();
        let server =
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let server = if asks {
            let roots = Arc::new(authority.roots());
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build().unwrap();
            server.unwrap().with_client_cert_verifier(verifier)
        } else {
            server.unwrap().with_no_client_auth()
        };
        let server = server.with_single_cert(chain(), key()).unwrap();
        Arc::new(Self {
            connector: TlsConnector::from(Arc::new(client)),
            acceptor: TlsAcceptor::from(Arc::new(server)),
            expects: ServerName::try_from(expects.to_owned()).unwrap(),
        })
    }

    /// True when the far side of a new connection proves to be who it should be.
    pub async fn believes(&self, address: std::net::SocketAddr) -> bool {
        let stream = TcpStream::connect(address).await.unwrap();
        self.connector.connect(self.expects.clone(), stream).await.is_ok()
    }
}

impl Secure for Secret {
    fn connect(&self, stream: TcpStream) -> Handshake {
        let this = self.clone();
        Box::pin(async move {
            let stream = this.connector.connect(this.expects, stream).await?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }

    fn accept(&self, stream: TcpStream) -> Handshake {
        let this = self.clone();
        Box::pin(async move { Ok(Box::new(this.acceptor.accept(stream).await?) as Box<dyn Stream>) })
    }
}
