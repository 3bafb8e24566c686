//! Looks at a gateway's TLS: as a call would, and when that fails once more to see what the peer showed.
//!
//! The second look believes anything, so nothing is ever sent over it.

use super::certificate;
use super::report::{self, Line, Report};
use crate::clock;
use crate::sip::transport::{TlsFiles, tls_client, tls_name};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const PATIENCE: Duration = Duration::from_secs(5);
/// How long a peer may take to say that it does not believe us.
const SECOND_THOUGHTS: Duration = Duration::from_millis(700);

/// Whether a call could go there.
pub(super) async fn check<W: Write>(
    files: &TlsFiles,
    target: SocketAddr,
    name: Option<&str>,
    report: &mut Report<W>,
) -> bool {
    let Some(expected) = tls_name(name, target.ip()) else {
        report.add(&Line::fault("the gateway's name is none that a certificate can have"));
        return false;
    };
    let config = match tls_client(files) {
        Ok(config) => config,
        Err(error) => {
            report.add(&Line::fault(error.to_string()));
            return false;
        }
    };
    match timeout(PATIENCE, TcpStream::connect(target)).await {
        Ok(Ok(stream)) => {
            let shaken =
                timeout(PATIENCE, TlsConnector::from(config).connect(expected.clone(), stream)).await;
            match shaken {
                Ok(Ok(mut stream)) => {
                    show(&stream, report);
                    match refusal(&mut stream).await {
                        Some(error) => {
                            report.add(&of_failure(&error, name.unwrap_or("the gateway's address")));
                            false
                        }
                        None => true,
                    }
                }
                Ok(Err(error)) => {
                    report.add(&of_failure(&error, name.unwrap_or("the gateway's address")));
                    look_again(target, expected, report).await;
                    false
                }
                Err(_) => {
                    report.add(
                        &Line::fault("the connection is open, and nobody speaks TLS there")
                            .advise("check the port: 5061 as a rule; 5060 is for UDP and TCP"),
                    );
                    false
                }
            }
        }
        failed => {
            let reason = failed.map_or_else(
                |_| "no answer".to_owned(),
                |failed| failed.map_or_else(|error| error.to_string(), |_| String::new()),
            );
            report.add(&Line::fault(format!("no TCP connection to {target}: {reason}")).advise(
                "check address and port with the carrier, whether our address is allowed, and this machine's firewall",
            ));
            false
        }
    }
}

/// In TLS 1.3 (RFC 8446 §2) our side of the handshake is over before the peer has looked at our certificate: that it does
/// not believe it comes afterwards.
async fn refusal(stream: &mut TlsStream<TcpStream>) -> Option<io::Error> {
    match timeout(SECOND_THOUGHTS, stream.read(&mut [0])).await {
        Ok(Err(error)) => Some(error),
        Ok(Ok(_)) | Err(_) => None,
    }
}

fn show<W: Write>(stream: &TlsStream<TcpStream>, report: &mut Report<W>) {
    let (_, session) = stream.get_ref();
    let version = session.protocol_version().map(|version| format!("{version:?}").replace("v1_", " 1."));
    report.add(&Line::ok(format!("{}: names and signatures are right", version.as_deref().unwrap_or("TLS"))));
    show_certificate(session.peer_certificates(), report);
}

fn show_certificate<W: Write>(chain: Option<&[CertificateDer<'_>]>, report: &mut Report<W>) {
    if let Some(leaf) = chain.and_then(<[_]>::first) {
        report.add(&report::of_certificate(&certificate::read(leaf), clock::wall_now()));
    }
}

/// What the library says, in words.
fn of_failure(error: &io::Error, name: &str) -> Line {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let line = Line::fault(format!("TLS failed: {error}"));
    match inner {
        Some(rustls::Error::InvalidCertificate(wrong)) => match wrong {
            CertificateError::UnknownIssuer => line.advise(
                "nobody whom this machine trusts has signed it: set sip.tls.ca to the carrier's own CA, or ask the carrier for its whole chain",
            ),
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                line.advise(format!(
                    "the certificate is not for {name}: write the gateway by one of the names below, as the carrier's documents give it"
                ))
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                line.advise("the carrier must renew its certificate; is this machine's clock right?")
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                line.advise("the certificate begins later: is this machine's clock right?")
            }
            other if format!("{other:?}").contains("CaUsedAsEndEntity") => line.advise(
                "it is an authority's own certificate, or one that signed itself: ask the carrier for one that an authority has signed",
            ),
            _ => line.advise("send this line to the carrier"),
        },
        Some(rustls::Error::AlertReceived(_)) => line.advise(
            "the carrier ended it: it may want a certificate of ours (sip.tls.certificate, sip.tls.key), or another version of TLS",
        ),
        _ => line.advise("check the port, and ask the carrier whether TLS is served there"),
    }
}

async fn look_again<W: Write>(target: SocketAddr, expected: ServerName<'static>, report: &mut Report<W>) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let looker = Arc::new(Looker(Arc::clone(&provider)));
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let Ok(config) = config else { return };
    let config = config.dangerous().with_custom_certificate_verifier(looker).with_no_client_auth();
    let Ok(Ok(stream)) = timeout(PATIENCE, TcpStream::connect(target)).await else { return };
    let shaken = timeout(PATIENCE, TlsConnector::from(Arc::new(config)).connect(expected, stream)).await;
    if let Ok(Ok(stream)) = shaken {
        show_certificate(stream.get_ref().1.peer_certificates(), report);
    }
}

/// Believes anything.
#[derive(Debug)]
struct Looker(Arc<CryptoProvider>);

impl ServerCertVerifier for Looker {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
