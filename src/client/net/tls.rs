//! TLS and the trust policies: trust on first use (`known_hosts.rs`), certificate authorities,
//! or a pinned certificate. It does not know what is sent over the connection.

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
use crate::client::text::sanitize::print_error;
use crate::config::parse_switch;
use crate::protocol::Fingerprint;

/// The flags for encryption.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Encryption")]
#[allow(clippy::struct_excessive_bools)] // each is a flag
pub(in crate::client) struct TlsArgs {
    /// Encrypt; trust the certificate of the first connection, as ssh does
    ///
    /// On a terminal chatty asks first; in a script it reports the fingerprint. If the server
    /// later presents another certificate, chatty refuses to connect.
    #[arg(long, env = "CHATTY_TLS", value_parser = parse_switch)]
    tls: bool,

    /// Encrypt; trust certificates signed by the certificate authorities of this machine
    #[arg(long, env = "CHATTY_TLS_VERIFY", value_parser = parse_switch)]
    #[arg(conflicts_with = "tls_fingerprint")]
    tls_verify: bool,

    /// Encrypt; trust only the certificate with this SHA-256 fingerprint
    ///
    /// chatty serve prints the fingerprint when it starts.
    #[arg(long, value_name = "SHA256", env = "CHATTY_TLS_FINGERPRINT")]
    #[arg(conflicts_with = "tls_verify")]
    tls_fingerprint: Option<Fingerprint>,

    /// Encrypt; trust an unknown server without asking on a terminal
    #[arg(long, env = "CHATTY_TLS_ACCEPT_NEW", value_parser = parse_switch)]
    #[arg(conflicts_with_all = ["tls_verify", "tls_fingerprint", "tls_known"])]
    tls_accept_new: bool,

    /// Encrypt; refuse a server that is not known from an earlier connection
    #[arg(long, env = "CHATTY_TLS_KNOWN", value_parser = parse_switch)]
    #[arg(conflicts_with_all = ["tls_verify", "tls_fingerprint", "tls_accept_new"])]
    tls_known: bool,
}

/// What to do with a server that is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stranger {
    Accept,
    Ask,
    Refuse,
}

/// Which certificates to trust.
#[derive(Debug)]
enum TrustPolicy {
    FirstUse {
        known: KnownHosts,
        /// The certificate that was accepted, since the file may not be writable.
        accepted: OnceLock<Fingerprint>,
        stranger: Stranger,
    },
    Authorities,
    Pinned(Fingerprint),
}

/// The TLS configuration of a connection.
#[derive(Debug, Clone)]
pub(in crate::client) struct Tls {
    config: Arc<ClientConfig>,
    trust: Arc<TrustPolicy>,
}

/// Why a connection could not be encrypted.
#[derive(Debug)]
pub(super) enum TlsError {
    /// The server is not trusted; a retry would fail, too.
    Distrusted(String),
    /// The server is not known, and the user has to be asked.
    Unknown(Fingerprint),
    /// The handshake failed; a retry may succeed.
    Failed(String),
}

impl TlsArgs {
    /// Returns the TLS configuration; `None` without encryption. `can_ask`: there is a user who
    /// can be asked whether to trust a server.
    pub(in crate::client) fn open(&self, can_ask: bool) -> Result<Option<Tls>, String> {
        let stranger = match (self.tls_accept_new, self.tls_known) {
            (true, _) => Stranger::Accept,
            (_, true) => Stranger::Refuse,
            _ if can_ask => Stranger::Ask,
            _ => Stranger::Accept,
        };
        let trust = match self.tls_fingerprint {
            Some(fingerprint) => TrustPolicy::Pinned(fingerprint),
            None if self.tls_verify => TrustPolicy::Authorities,
            None if self.tls || self.tls_accept_new || self.tls_known => TrustPolicy::FirstUse {
                known: KnownHosts::open_default()?,
                accepted: OnceLock::new(),
                stranger,
            },
            None => return Ok(None),
        };
        let config = configure(&trust)?;
        Ok(Some(Tls { config: Arc::new(config), trust: Arc::new(trust) }))
    }
}

impl Tls {
    /// Does the handshake and verifies the server's certificate before any data is sent.
    pub(super) async fn encrypt(
        &self,
        stream: TcpStream,
        endpoint: &Endpoint,
    ) -> Result<TlsStream<TcpStream>, TlsError> {
        let host = endpoint.host_without_zone();
        let name = ServerName::try_from(host.to_owned()).or_else(|problem| {
            // Only certificate authorities certify names.
            if matches!(*self.trust, TrustPolicy::Authorities) { Err(problem) } else { fallback() }
        });
        let name =
            name.map_err(|_| TlsError::Distrusted(format!("\"{host}\" is not a valid TLS name")))?;
        let connector = TlsConnector::from(self.config.clone());
        let stream = connector.connect(name, stream).await;
        let stream = stream.map_err(|error| self.failure(&error, host))?;
        let presented = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let presented = presented.ok_or_else(|| TlsError::Failed(NOT_TLS.to_owned()))?;
        self.check(endpoint, Fingerprint::of(presented))?;
        Ok(stream)
    }

    /// Trusts the certificate of a server from now on.
    pub(in crate::client) fn accept(&self, endpoint: &Endpoint, presented: Fingerprint) {
        if let TrustPolicy::FirstUse { known, accepted, .. } = &*self.trust {
            let _ = accepted.set(presented); // fails only if it is already set
            store(known, endpoint, presented);
        }
    }

    fn check(&self, endpoint: &Endpoint, presented: Fingerprint) -> Result<(), TlsError> {
        let distrust = |why| Err(TlsError::Distrusted(why));
        match &*self.trust {
            TrustPolicy::Authorities => Ok(()), // verified in the handshake
            TrustPolicy::Pinned(fingerprint) if *fingerprint == presented => Ok(()),
            TrustPolicy::Pinned(fingerprint) => distrust(format!(
                "ANOTHER SERVER THAN EXPECTED: the fingerprint (SHA-256) of its certificate is \
                 {presented}, not {fingerprint}. The connection may be intercepted, or \
                 --tls-fingerprint is out of date"
            )),
            TrustPolicy::FirstUse { known, accepted, stranger } => {
                let before = match accepted.get() {
                    Some(fingerprint) => Some(*fingerprint),
                    None => known.find(endpoint).map_err(|problem| {
                        TlsError::Distrusted(format!(
                            "cannot tell whether the server is known: {problem} \
                             (--tls-fingerprint and --tls-verify do not use this file)"
                        ))
                    })?,
                };
                match (before, stranger) {
                    (Some(before), _) if before == presented => {}
                    (Some(before), _) => {
                        return distrust(changed(known, endpoint, before, presented));
                    }
                    (None, Stranger::Accept) => trust_on_first_use(known, endpoint, presented),
                    (None, Stranger::Ask) => return Err(TlsError::Unknown(presented)),
                    (None, Stranger::Refuse) => {
                        return distrust(format!(
                            "the server is not known (--tls-known); the fingerprint (SHA-256) of \
                             its certificate is {presented}"
                        ));
                    }
                }
                let _ = accepted.set(presented); // fails only if it is already set
                Ok(())
            }
        }
    }
}

/// Accepts an unknown server, prints its fingerprint, and stores it.
fn trust_on_first_use(known: &KnownHosts, endpoint: &Endpoint, presented: Fingerprint) {
    print_error(&format!(
        "first connection to {endpoint}: trusting its certificate (SHA-256 {presented})"
    ));
    store(known, endpoint, presented);
}

fn store(known: &KnownHosts, endpoint: &Endpoint, presented: Fingerprint) {
    if let Err(problem) = known.add(endpoint, presented) {
        print_error(&format!("cannot store the fingerprint: {problem}"));
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
         The connection may be intercepted. If the server operator confirms the new certificate, \
         remove the line of {} from {} and join again",
        known_hosts::host(endpoint),
        known.path.display()
    )
}

const NOT_TLS: &str = "the server does not speak TLS (is \"chatty serve --tls\" running there?), \
    or is full";

impl Tls {
    /// Explains why a handshake failed. The texts of the library contain names of its types, so
    /// they are not used.
    fn failure(&self, error: &io::Error, host: &str) -> TlsError {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(Error::InvalidCertificate(problem)) => {
                let why = certificate_problem(problem, host);
                TlsError::Distrusted(match *self.trust {
                    TrustPolicy::Authorities => {
                        format!("certificate not trusted: {why}; --tls would trust it on first use")
                    }
                    _ => format!("its certificate cannot be used: {why}"),
                })
            }
            Some(problem) => TlsError::Failed(handshake_problem(problem)),
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                TlsError::Failed("the server closed the connection in the TLS handshake".to_owned())
            }
            None => TlsError::Failed(format!("TLS failed: {error}")),
        }
    }
}

fn handshake_problem(problem: &Error) -> String {
    let why = match problem {
        Error::InvalidMessage(_) | Error::PeerSentOversizedRecord => return NOT_TLS.to_owned(),
        Error::AlertReceived(alert) => alert_problem(*alert),
        Error::PeerIncompatible(_) => {
            "no common TLS version or cipher (chatty speaks TLS 1.2 and 1.3)"
        }
        Error::PeerMisbehaved(_)
        | Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. } => "the server violates the TLS protocol",
        Error::NoCertificatesPresented => "the server has no certificate",
        Error::DecryptError => "the data of the server was damaged and cannot be decrypted",
        Error::FailedToGetRandomBytes => "the system provides no random numbers",
        Error::FailedToGetCurrentTime => "the system does not know the time",
        _ => "the handshake failed",
    };
    format!("TLS failed: {why}")
}

/// Explains the alert with which the server ended the handshake.
fn alert_problem(alert: AlertDescription) -> &'static str {
    use AlertDescription as A;
    match alert {
        A::HandshakeFailure | A::ProtocolVersion | A::InsufficientSecurity => {
            "the server accepts no TLS version or cipher that chatty supports"
        }
        A::CertificateRequired | A::NoCertificate | A::AccessDenied => {
            "the server requires a client certificate, which chatty join does not support"
        }
        A::UnrecognisedName => "the server has no certificate for that name",
        A::InternalError => "the server had an internal error",
        A::CloseNotify | A::UserCanceled => "the server ended the handshake",
        _ => "the server refused the handshake",
    }
}

/// Explains what is wrong with a certificate.
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
            return format!("it is not valid before {from} (is the clock of this machine right?)");
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
        C::UnknownIssuer => "it is not signed by a trusted authority",
        C::Revoked => "it was revoked",
        C::BadSignature => "its signature is invalid",
        C::BadEncoding => "it cannot be decoded",
        C::InvalidPurpose | C::InvalidPurposeContext { .. } => "it was not issued for servers",
        C::UnsupportedSignatureAlgorithmContext { .. }
        | C::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "its signature algorithm is not supported"
        }
        C::UnhandledCriticalExtension => "it has a critical extension that is not supported",
        C::UnknownRevocationStatus | C::ExpiredRevocationList => {
            "it is unknown whether it was revoked"
        }
        C::Other(other) => other_problem(&other.to_string()),
        _ => RULE_VIOLATION,
    };
    why.to_owned()
}

const RULE_VIOLATION: &str = "it violates the rules for certificates";

/// Explains problems for which the library has only a name.
fn other_problem(name: &str) -> &'static str {
    if name.contains("CaUsedAsEndEntity") {
        "it is an authority's and not a server's (openssl req -x509 makes those by default)"
    } else if name.contains("EndEntityUsedAsCa") || name.contains("PathLenConstraintViolated") {
        "its signer may not sign certificates"
    } else if name.contains("NameConstraint") {
        "its signer may not sign for that name"
    } else if name.contains("UnsupportedCertVersion") {
        "it is an X.509 version 1 certificate, which is not supported"
    } else {
        RULE_VIOLATION
    }
}

/// Returns the name inside `DnsName("localhost")`, as the library formats it.
fn bare_name(name: &str) -> &str {
    let inner = name.split_once('(').map_or(name, |(_, rest)| rest.trim_end_matches(')'));
    inner.trim_matches('"')
}

/// The name for a host that is no valid TLS name, such as one with an underscore.
fn fallback() -> Result<ServerName<'static>, tokio_rustls::rustls::pki_types::InvalidDnsNameError> {
    ServerName::try_from("localhost")
}

fn configure(trust: &TrustPolicy) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| "cannot encrypt: no TLS version is available")?;
    let builder = if matches!(trust, TrustPolicy::Authorities) {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err("--tls-verify: this machine has no certificate authorities; install \
                        ca-certificates or set SSL_CERT_FILE"
                .to_owned());
        }
        builder.with_root_certificates(roots)
    } else {
        let verifier = Arc::new(PinnedVerifier { algorithms });
        builder.dangerous().with_custom_certificate_verifier(verifier)
    };
    Ok(builder.with_no_client_auth())
}

/// Verifies that the server holds the key of its certificate, and accepts any certificate:
/// [`Tls::check`] compares the fingerprint afterwards.
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

    /// Whether a text contains the name of a type, such as `CaUsedAsEndEntity`.
    fn has_type_name(text: &str) -> bool {
        let is_inner_capital =
            |pair: &[char]| pair[0].is_ascii_lowercase() && pair[1].is_ascii_uppercase();
        text.chars().collect::<Vec<_>>().windows(2).any(is_inner_capital)
    }

    #[test]
    fn certificate_problem_is_explained_without_type_names() {
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
            (C::NotValidYetContext { time: day(1), not_before: day(9) }, "before 1970-01-10"),
            (C::NotValidForName, "not for host"),
            (
                C::NotValidForNameContext { expected, presented: presented.to_vec() },
                "it is for localhost, 127.0.0.1, x and others and not for host",
            ),
            (C::UnknownIssuer, "not signed by a trusted authority"),
            (C::Revoked, "revoked"),
            (C::BadSignature, "signature"),
            (C::BadEncoding, "cannot be decoded"),
            (C::InvalidPurpose, "not issued for servers"),
            (C::UnhandledCriticalExtension, "critical extension"),
            (C::UnknownRevocationStatus, "revoked"),
            (C::InvalidOcspResponse, "rules"),
            (C::ApplicationVerificationFailure, "rules"),
            (other("CaUsedAsEndEntity"), "is an authority's"),
            (other("EndEntityUsedAsCa"), "may not sign"),
            (other("NameConstraintViolation"), "for that name"),
            (other("UnsupportedCertVersion"), "version 1"),
            (other("MaximumPathBuildCallsExceeded"), "rules"),
        ] {
            let text = certificate_problem(&problem, "host");
            assert!(text.contains(words), "{problem:?}: {text}");
            assert!(!has_type_name(&text), "{problem:?}: {text}");
        }
    }

    #[test]
    fn handshake_problem_is_explained_without_type_names() {
        for problem in [
            Error::InvalidMessage(InvalidMessage::MessageTooShort),
            Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon),
            Error::PeerMisbehaved(PeerMisbehaved::IncorrectBinder),
            Error::NoCertificatesPresented,
            Error::DecryptError,
            Error::General("SomeThing".to_owned()),
            Error::HandshakeNotComplete,
        ] {
            let text = handshake_problem(&problem);
            assert!(!has_type_name(&text), "{problem:?}: {text}");
        }
        for alert in 0..=u8::MAX {
            let text = handshake_problem(&Error::AlertReceived(alert.into()));
            assert!(text.starts_with("TLS failed: ") && !has_type_name(&text), "{text}");
        }
    }
}
