//! TLS, and whom to trust: whoever had this certificate the first time
//! (`known_hosts.rs`), whoever an authority vouches for, or one certificate and no
//! other.

use std::io;
use std::sync::{Arc, OnceLock};

use clap::builder::FalseyValueParser;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{
    WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use super::address::Endpoint;
use super::complain;
use super::known_hosts::{self, KnownHosts};
use crate::protocol::Fingerprint;

/// What can be told about encryption.
#[derive(Debug, clap::Args)]
pub(super) struct TlsArgs {
    /// Encrypt, and trust the server as ssh does: when it is first met. A server
    /// that has another certificate than then is refused
    #[arg(long, env = "CHATTY_TLS", value_parser = FalseyValueParser::new())]
    tls: bool,

    /// Encrypt, and trust the server if this machine's certificate authorities do
    #[arg(long, env = "CHATTY_TLS_VERIFY", value_parser = FalseyValueParser::new())]
    #[arg(conflicts_with = "tls_fingerprint")]
    tls_verify: bool,

    /// Encrypt, and trust the server whose certificate has this SHA-256, as chatty
    /// serve says it at its start
    #[arg(long, value_name = "SHA256", env = "CHATTY_TLS_FINGERPRINT")]
    #[arg(conflicts_with = "tls_verify")]
    tls_fingerprint: Option<Fingerprint>,
}

/// Whom to trust.
#[derive(Debug)]
enum Trust {
    FirstMet {
        known: KnownHosts,
        /// Who was met, once somebody was: the file may not be writable.
        met: OnceLock<Fingerprint>,
    },
    Authorities,
    Only(Fingerprint),
}

/// How to encrypt.
#[derive(Debug, Clone)]
pub(super) struct Tls {
    config: Arc<ClientConfig>,
    trust: Arc<Trust>,
}

/// Why a connection could not be encrypted.
#[derive(Debug)]
pub(super) enum Insecure {
    /// The server is not to be trusted: trying again is of no use.
    Distrusted(String),
    /// It did not come to that.
    Failed(String),
}

impl TlsArgs {
    /// `None`: no encryption.
    pub(super) fn open(&self) -> Result<Option<Tls>, String> {
        let trust = match self.tls_fingerprint {
            Some(fingerprint) => Trust::Only(fingerprint),
            None if self.tls_verify => Trust::Authorities,
            None if self.tls => {
                Trust::FirstMet { known: KnownHosts::usual()?, met: OnceLock::new() }
            }
            None => return Ok(None),
        };
        let config = configure(&trust)?;
        Ok(Some(Tls { config: Arc::new(config), trust: Arc::new(trust) }))
    }
}

impl Tls {
    /// Shakes hands, and makes sure of who the server is before anything is said.
    pub(super) async fn encrypt(
        &self,
        stream: TcpStream,
        endpoint: &Endpoint,
    ) -> Result<TlsStream<TcpStream>, Insecure> {
        let name = ServerName::try_from(endpoint.host.clone()).or_else(|problem| {
            // Only authorities vouch for names.
            if matches!(*self.trust, Trust::Authorities) { Err(problem) } else { fallback() }
        });
        let name = name.map_err(|_| {
            Insecure::Distrusted(format!("no authority vouches for \"{}\"", endpoint.host))
        })?;
        let connector = TlsConnector::from(self.config.clone());
        let stream = connector.connect(name, stream).await.map_err(|error| failure(&error))?;
        let presented = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let presented = presented.ok_or_else(|| Insecure::Failed(NOT_TLS.to_owned()))?;
        self.check(endpoint, Fingerprint::of(presented)).map_err(Insecure::Distrusted)?;
        Ok(stream)
    }

    fn check(&self, endpoint: &Endpoint, presented: Fingerprint) -> Result<(), String> {
        match &*self.trust {
            Trust::Authorities => Ok(()), // they have judged already
            Trust::Only(fingerprint) if *fingerprint == presented => Ok(()),
            Trust::Only(fingerprint) => Err(format!(
                "ANOTHER SERVER THAN EXPECTED: its certificate's SHA-256 is {presented} and \
                 not {fingerprint}. Somebody may be in between, or --tls-fingerprint is out of date"
            )),
            Trust::FirstMet { known, met } => {
                let before = match met.get() {
                    Some(met) => Some(*met),
                    None => known.find(endpoint).map_err(|problem| {
                        format!("cannot tell whether the server is known: {problem}")
                    })?,
                };
                match before {
                    None => meet(known, endpoint, presented),
                    Some(before) if before == presented => {}
                    Some(before) => return Err(changed(known, endpoint, before, presented)),
                }
                let _ = met.set(presented); // or it is so already
                Ok(())
            }
        }
    }
}

/// The first time. Who can be asked looks at stderr, and who cannot be as well.
fn meet(known: &KnownHosts, endpoint: &Endpoint, presented: Fingerprint) {
    complain(&format!("{endpoint} is new here; its certificate's SHA-256 is {presented}"));
    if let Err(problem) = known.add(endpoint, presented) {
        complain(&format!("cannot remember it: {problem}"));
    }
}

fn changed(
    known: &KnownHosts,
    endpoint: &Endpoint,
    before: Fingerprint,
    presented: Fingerprint,
) -> String {
    format!(
        "THE SERVER'S CERTIFICATE HAS CHANGED: its SHA-256 was {before} and is {presented}. \
         Somebody may be in between. If whoever runs the server says that it is a new one, take \
         the line of {} out of {} and join again",
        known_hosts::host(endpoint),
        known.path.display()
    )
}

const NOT_TLS: &str = "what answers there speaks no TLS (is it \"chatty serve --tls\"?), or has no \
    place for you now";

fn failure(error: &io::Error) -> Insecure {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidMessage(_)) => Insecure::Failed(NOT_TLS.to_owned()),
        Some(Error::InvalidCertificate(problem)) => Insecure::Distrusted(format!(
            "no authority vouches for its certificate: {problem}; --tls trusts whom you meet first"
        )),
        Some(problem) => Insecure::Failed(format!("no encryption: {problem}")),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            Insecure::Failed("it closed before anything was encrypted".to_owned())
        }
        None => Insecure::Failed(format!("no encryption: {error}")),
    }
}

/// For a host whose name is none for TLS, as one with an underscore.
fn fallback() -> Result<ServerName<'static>, tokio_rustls::rustls::pki_types::InvalidDnsNameError> {
    ServerName::try_from("localhost")
}

fn configure(trust: &Trust) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|problem| format!("cannot encrypt: {problem}"))?;
    let builder = if matches!(trust, Trust::Authorities) {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err("--tls-verify: this machine knows no certificate authorities; \
                        ca-certificates has them, or SSL_CERT_FILE names them"
                .to_owned());
        }
        builder.with_root_certificates(roots)
    } else {
        let verifier = Arc::new(Holder { algorithms });
        builder.dangerous().with_custom_certificate_verifier(verifier)
    };
    Ok(builder.with_no_client_auth())
}

/// Makes sure that the server holds the key of its certificate, whichever that is;
/// which it may be is told by its fingerprint ([`Tls::check`]).
#[derive(Debug)]
struct Holder {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Holder {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
