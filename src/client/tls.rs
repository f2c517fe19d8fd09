//! TLS, and whom to trust: whoever had this certificate the first time
//! (`known_hosts.rs`), whoever an authority vouches for, or one certificate and no
//! other.

use std::io;
use std::sync::{Arc, OnceLock};

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
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme,
};

use super::address::Endpoint;
use super::known_hosts::{self, KnownHosts};
use super::print_error;
use crate::protocol::Fingerprint;
use crate::protocol::units::parse_switch;

/// What can be told about encryption.
#[derive(Debug, clap::Args)]
pub(super) struct TlsArgs {
    /// Encrypt, and trust the server as ssh does: when it is first met. A server
    /// that has another certificate than then is refused
    #[arg(long, env = "CHATTY_TLS", value_parser = parse_switch)]
    tls: bool,

    /// Encrypt, and trust the server if this machine's certificate authorities do
    #[arg(long, env = "CHATTY_TLS_VERIFY", value_parser = parse_switch)]
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
enum TrustPolicy {
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
    trust: Arc<TrustPolicy>,
}

/// Why a connection could not be encrypted.
#[derive(Debug)]
pub(super) enum TlsError {
    /// The server is not to be trusted: trying again is of no use.
    Distrusted(String),
    /// It did not come to that.
    Failed(String),
}

impl TlsArgs {
    /// `None`: no encryption.
    pub(super) fn open(&self) -> Result<Option<Tls>, String> {
        let trust = match self.tls_fingerprint {
            Some(fingerprint) => TrustPolicy::Only(fingerprint),
            None if self.tls_verify => TrustPolicy::Authorities,
            None if self.tls => {
                TrustPolicy::FirstMet { known: KnownHosts::open_default()?, met: OnceLock::new() }
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
    ) -> Result<TlsStream<TcpStream>, TlsError> {
        let host = endpoint.host_without_zone();
        let name = ServerName::try_from(host.to_owned()).or_else(|problem| {
            // Only authorities vouch for names.
            if matches!(*self.trust, TrustPolicy::Authorities) { Err(problem) } else { fallback() }
        });
        let name =
            name.map_err(|_| TlsError::Distrusted(format!("no authority vouches for \"{host}\"")))?;
        let connector = TlsConnector::from(self.config.clone());
        let stream = connector.connect(name, stream).await;
        let stream = stream.map_err(|error| self.failure(&error, host))?;
        let presented = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let presented = presented.ok_or_else(|| TlsError::Failed(NOT_TLS.to_owned()))?;
        self.check(endpoint, Fingerprint::of(presented)).map_err(TlsError::Distrusted)?;
        Ok(stream)
    }

    fn check(&self, endpoint: &Endpoint, presented: Fingerprint) -> Result<(), String> {
        match &*self.trust {
            TrustPolicy::Authorities => Ok(()), // they have judged already
            TrustPolicy::Only(fingerprint) if *fingerprint == presented => Ok(()),
            TrustPolicy::Only(fingerprint) => Err(format!(
                "ANOTHER SERVER THAN EXPECTED: its certificate's SHA-256 is {presented} and \
                 not {fingerprint}. Somebody may be in between, or --tls-fingerprint is out of date"
            )),
            TrustPolicy::FirstMet { known, met } => {
                let before = match met.get() {
                    Some(met) => Some(*met),
                    None => known.find(endpoint).map_err(|problem| {
                        format!(
                            "cannot tell whether the server is known: {problem} \
                             (--tls-fingerprint and --tls-verify need no such file)"
                        )
                    })?,
                };
                match before {
                    None => trust_on_first_use(known, endpoint, presented),
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
fn trust_on_first_use(known: &KnownHosts, endpoint: &Endpoint, presented: Fingerprint) {
    print_error(&format!("{endpoint} is new here; its certificate's SHA-256 is {presented}"));
    if let Err(problem) = known.add(endpoint, presented) {
        print_error(&format!("cannot remember it: {problem}"));
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

impl Tls {
    /// Why a handshake has failed, in words of ours: those of the library are names of
    /// its types.
    fn failure(&self, error: &io::Error, host: &str) -> TlsError {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(Error::InvalidCertificate(problem)) => {
                let why = certificate_problem(problem, host);
                TlsError::Distrusted(match *self.trust {
                    TrustPolicy::Authorities => format!(
                        "no authority vouches for its certificate: {why}; --tls trusts whom you \
                         meet first"
                    ),
                    _ => format!("its certificate cannot be used: {why}"),
                })
            }
            Some(problem) => TlsError::Failed(handshake_problem(problem)),
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                TlsError::Failed("it closed before anything was encrypted".to_owned())
            }
            None => TlsError::Failed(format!("no encryption: {error}")),
        }
    }
}

fn handshake_problem(problem: &Error) -> String {
    let why = match problem {
        Error::InvalidMessage(_) | Error::PeerSentOversizedRecord => return NOT_TLS.to_owned(),
        Error::AlertReceived(alert) => alert_problem(*alert),
        Error::PeerIncompatible(_) => {
            "it speaks no version of TLS, or no cipher, that chatty speaks (TLS 1.2 and 1.3)"
        }
        Error::PeerMisbehaved(_)
        | Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. } => "it does not keep to the rules of TLS",
        Error::NoCertificatesPresented => "it has no certificate",
        Error::DecryptError => "what it sent cannot be decrypted; it was damaged on its way",
        Error::FailedToGetRandomBytes => "this machine gives no random numbers",
        Error::FailedToGetCurrentTime => "this machine does not know the time",
        _ => "the handshake of TLS failed",
    };
    format!("no encryption: {why}")
}

/// Why the server has ended the handshake, as far as it tells.
fn alert_problem(alert: AlertDescription) -> &'static str {
    use AlertDescription as A;
    match alert {
        A::HandshakeFailure | A::ProtocolVersion | A::InsufficientSecurity => {
            "the server takes no version of TLS, or no cipher, that chatty speaks"
        }
        A::CertificateRequired | A::NoCertificate | A::AccessDenied => {
            "the server wants a certificate of its clients, which chatty join has not"
        }
        A::UnrecognisedName => "the server has no certificate for that name",
        A::InternalError => "the server met a problem of its own",
        A::CloseNotify | A::UserCanceled => "the server ended the handshake",
        _ => "the server refused the handshake",
    }
}

/// What is wrong with a certificate.
fn certificate_problem(problem: &CertificateError, host: &str) -> String {
    use CertificateError as C;
    let day = |time: &UnixTime| {
        let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX).strftime("%Y-%m-%d")
    };
    let why = match problem {
        C::ExpiredContext { not_after, .. } => {
            return format!("it expired on {}; the server needs a new one", day(not_after));
        }
        C::NotValidYetContext { not_before, .. } => {
            let from = day(not_before);
            return format!("it is valid from {from} on (is the clock of this machine right?)");
        }
        C::NotValidForNameContext { presented, .. } if !presented.is_empty() => {
            let names: Vec<&str> = presented.iter().take(3).map(|name| bare_name(name)).collect();
            let others = if presented.len() > names.len() { " and others" } else { "" };
            return format!("it is for {}{others} and not for {host}", names.join(", "));
        }
        C::NotValidForName | C::NotValidForNameContext { .. } => {
            return format!("it is not for {host}");
        }
        C::Expired => "it has expired; the server needs a new one",
        C::NotValidYet => "it is not valid yet (is the clock of this machine right?)",
        C::UnknownIssuer => "it was signed by nobody whom this machine trusts",
        C::Revoked => "it was revoked",
        C::BadSignature => "its signature is wrong",
        C::BadEncoding => "it cannot be read",
        C::InvalidPurpose | C::InvalidPurposeContext { .. } => "it was not made for servers",
        C::UnsupportedSignatureAlgorithmContext { .. }
        | C::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "it is signed in a way that chatty does not know"
        }
        C::UnhandledCriticalExtension => "it holds a condition that chatty does not know",
        C::UnknownRevocationStatus | C::ExpiredRevocationList => {
            "nobody tells whether it was revoked"
        }
        C::Other(other) => other_problem(&other.to_string()),
        _ => NO_RULES,
    };
    why.to_owned()
}

const NO_RULES: &str = "it does not keep to the rules for certificates";

/// Of these problems the library tells the name only.
fn other_problem(name: &str) -> &'static str {
    if name.contains("CaUsedAsEndEntity") {
        "it is that of an authority and not of a server, as openssl req -x509 makes them by default"
    } else if name.contains("EndEntityUsedAsCa") || name.contains("PathLenConstraintViolated") {
        "it was signed by somebody who may not sign certificates"
    } else if name.contains("NameConstraint") {
        "whoever signed it may not do so for that name"
    } else if name.contains("UnsupportedCertVersion") {
        "it is of an old kind (X.509 version 1), which chatty does not take"
    } else {
        NO_RULES
    }
}

/// `DnsName("localhost")`, as the library tells it, without its wrapping.
fn bare_name(name: &str) -> &str {
    let inner = name.split_once('(').map_or(name, |(_, rest)| rest.trim_end_matches(')'));
    inner.trim_matches('"')
}

/// For a host whose name is none for TLS, as one with an underscore.
fn fallback() -> Result<ServerName<'static>, tokio_rustls::rustls::pki_types::InvalidDnsNameError> {
    ServerName::try_from("localhost")
}

fn configure(trust: &TrustPolicy) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| "cannot encrypt: no version of TLS is available")?;
    let builder = if matches!(trust, TrustPolicy::Authorities) {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err("--tls-verify: this machine knows no certificate authorities; \
                        ca-certificates has them, or SSL_CERT_FILE names them"
                .to_owned());
        }
        builder.with_root_certificates(roots)
    } else {
        let verifier = Arc::new(PinnedVerifier { algorithms });
        builder.dangerous().with_custom_certificate_verifier(verifier)
    };
    Ok(builder.with_no_client_auth())
}

/// Makes sure that the server holds the key of its certificate, whichever that is;
/// which it may be is told by its fingerprint ([`Tls::check`]).
#[derive(Debug)]
struct PinnedVerifier {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for PinnedVerifier {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio_rustls::rustls::{InvalidMessage, OtherError, PeerIncompatible, PeerMisbehaved};

    use super::*;

    /// Whether a text has a word such as `CaUsedAsEndEntity`: the name of a type.
    fn has_name_of_a_type(text: &str) -> bool {
        let is_inner_capital =
            |pair: &[char]| pair[0].is_ascii_lowercase() && pair[1].is_ascii_uppercase();
        text.chars().collect::<Vec<_>>().windows(2).any(is_inner_capital)
    }

    #[test]
    fn problems_of_certificates_are_told_in_words() {
        use CertificateError as C;
        let day = |day: u64| UnixTime::since_unix_epoch(Duration::from_secs(day * 24 * 3600));
        let other = |name: &'static str| C::Other(OtherError(Arc::new(io::Error::other(name))));
        let expected = ServerName::try_from("chat.example.org").unwrap();
        let presented =
            ["DnsName(\"localhost\")", "IpAddress(127.0.0.1)", "x", "y"].map(str::to_owned);
        for (problem, words) in [
            (C::Expired, "expired"),
            (C::ExpiredContext { time: day(9), not_after: day(1) }, "expired on 1970-01-02"),
            (C::NotValidYet, "clock"),
            (C::NotValidYetContext { time: day(1), not_before: day(9) }, "from 1970-01-10"),
            (C::NotValidForName, "not for host"),
            (
                C::NotValidForNameContext { expected, presented: presented.to_vec() },
                "it is for localhost, 127.0.0.1, x and others and not for host",
            ),
            (C::UnknownIssuer, "signed by nobody"),
            (C::Revoked, "revoked"),
            (C::BadSignature, "signature"),
            (C::BadEncoding, "cannot be read"),
            (C::InvalidPurpose, "not made for servers"),
            (C::UnhandledCriticalExtension, "condition"),
            (C::UnknownRevocationStatus, "revoked"),
            (C::InvalidOcspResponse, "rules"),
            (C::ApplicationVerificationFailure, "rules"),
            (other("CaUsedAsEndEntity"), "of an authority"),
            (other("EndEntityUsedAsCa"), "may not sign"),
            (other("NameConstraintViolation"), "for that name"),
            (other("UnsupportedCertVersion"), "version 1"),
            (other("MaximumPathBuildCallsExceeded"), "rules"),
        ] {
            let told = certificate_problem(&problem, "host");
            assert!(told.contains(words), "{problem:?}: {told}");
            assert!(!has_name_of_a_type(&told), "{problem:?}: {told}");
        }
    }

    #[test]
    fn problems_of_handshakes_are_told_in_words() {
        for problem in [
            Error::InvalidMessage(InvalidMessage::MessageTooShort),
            Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon),
            Error::PeerMisbehaved(PeerMisbehaved::IncorrectBinder),
            Error::NoCertificatesPresented,
            Error::DecryptError,
            Error::General("SomeThing".to_owned()),
            Error::HandshakeNotComplete,
        ] {
            let told = handshake_problem(&problem);
            assert!(!has_name_of_a_type(&told), "{problem:?}: {told}");
        }
        for alert in 0..=u8::MAX {
            let told = handshake_problem(&Error::AlertReceived(alert.into()));
            assert!(told.starts_with("no encryption: ") && !has_name_of_a_type(&told), "{told}");
        }
    }
}
