//! TLS: the options, the server's identity, and reloading it.
//!
//! An identity is a certificate with its private key. Without `--tls-cert` the server
//! generates a self-signed one and stores it in its data folder; clients recognize it by its
//! SHA-256 fingerprint (trust on first use). Handshakes belong to `stream.rs`.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use clap::Args;
use rcgen::{CertificateParams, DnType, KeyPair};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::NoServerSessionStorage;
use tokio_rustls::rustls::{Error, InconsistentKeys, ServerConfig};

use crate::config::parse_switch;
use crate::files::open_own;
use crate::protocol::Fingerprint;
use crate::text_file;

/// The file of the self-signed identity, in the data folder.
const OWN_IDENTITY: &str = "tls-identity.pem";

/// The options of encryption.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Encryption")]
pub struct TlsArgs {
    /// Accept TLS on the same port, beside plain connections
    ///
    /// The server generates a certificate, stores it in its data folder, and prints its
    /// fingerprint, by which clients recognize it. Connect with `chatty join --tls` or
    /// `ncat --ssl`.
    #[arg(long, env = "CHATTY_TLS", value_parser = parse_switch)]
    tls: bool,

    /// PEM file with the certificate and its chain; enables TLS
    ///
    /// SIGHUP reloads the certificate and the key.
    #[arg(long, value_name = "FILE", env = "CHATTY_TLS_CERT", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// PEM file with the private key of --tls-cert
    #[arg(long, value_name = "FILE", env = "CHATTY_TLS_KEY", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Accept TLS connections only
    #[arg(long, env = "CHATTY_TLS_ONLY", value_parser = parse_switch)]
    tls_only: bool,
}

/// What new connections are offered.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Certificate and parameters of new handshakes.
    pub config: Arc<ServerConfig>,
    /// Whether plain connections are rejected.
    pub is_only: bool,
}

/// Where the identity comes from.
#[derive(Debug, Clone)]
enum Source {
    Files { certificate: PathBuf, key: PathBuf },
    Own(PathBuf),
    Generated,
}

/// The server's identity, which can be reloaded.
#[derive(Debug)]
pub struct Identity {
    source: Source,
    is_only: bool,
    fingerprint: Fingerprint,
}

impl TlsArgs {
    /// Returns whether plain connections are rejected.
    #[must_use]
    pub fn is_only(&self) -> bool {
        self.tls_only
    }

    /// Opens the identity; returns it with the first offer, or `None` without TLS. `folder` is
    /// the data folder; without one, the generated identity lasts until the server stops.
    ///
    /// # Errors
    /// The identity cannot be read or generated.
    pub fn open(self, folder: Option<&Path>) -> anyhow::Result<Option<(Identity, Offer)>> {
        let source = match (self.tls_cert, self.tls_key) {
            (Some(certificate), Some(key)) => Source::Files { certificate, key },
            _ if !self.tls && !self.tls_only => return Ok(None),
            _ => folder.map_or(Source::Generated, |folder| Source::Own(folder.join(OWN_IDENTITY))),
        };
        if let Source::Own(path) = &source {
            generate_if_missing(path)?;
        }
        let (config, fingerprint) = source.read()?;
        let identity = Identity { source, is_only: self.tls_only, fingerprint };
        let offer = Offer { config, is_only: self.tls_only };
        Ok(Some((identity, offer)))
    }
}

impl Identity {
    /// Returns the line that describes the identity on stderr at the start.
    #[must_use]
    pub fn describe(&self) -> String {
        let scope = if self.is_only { "TLS only" } else { "TLS" };
        let remark = match self.source {
            Source::Generated => " (generated for this run; use --data DIR for a permanent one)",
            Source::Files { .. } | Source::Own(_) => "",
        };
        format!("{scope}, certificate SHA-256 {}{remark}", self.fingerprint)
    }

    /// Reads the identity again. Returns the new offer, if reading succeeded, and a line for
    /// the log.
    pub fn reload(&mut self) -> (Option<Offer>, String) {
        if matches!(self.source, Source::Generated) {
            return (
                None,
                "TLS: the generated certificate is replaced at a restart only".to_owned(),
            );
        }
        match self.source.read() {
            Err(problem) => (None, format!("TLS: the certificate was not reloaded: {problem:#}")),
            Ok((config, fingerprint)) => {
                self.fingerprint = fingerprint;
                let offer = Offer { config, is_only: self.is_only };
                (Some(offer), format!("TLS: certificate reloaded, SHA-256 {fingerprint}"))
            }
        }
    }
}

impl Source {
    fn read(&self) -> anyhow::Result<(Arc<ServerConfig>, Fingerprint)> {
        match self {
            Self::Files { certificate, key } => {
                let chain = read_file(certificate, "certificate")?;
                let key_text = read_file(key, "key")?;
                configure(&chain, &key_text).map_err(|problem| {
                    let (certificate, key) =
                        (Pem::new(certificate, &chain), Pem::new(key, &key_text));
                    explain(&problem, &certificate, &key)
                })
            }
            Self::Own(path) => {
                let text = read_own(path)?;
                configure(&text, &text).map_err(|_| {
                    anyhow!(
                        "{} contains no certificate with its key; remove the file to \
                     generate a new one",
                        path.display()
                    )
                })
            }
            Self::Generated => {
                let text = generate()?;
                configure(&text, &text).map_err(|_| anyhow!("cannot generate a certificate"))
            }
        }
    }
}

fn read_file(path: &Path, what: &str) -> anyhow::Result<Vec<u8>> {
    text_file::read_bytes(path)
        .with_context(|| format!("cannot read the {what} {}", path.display()))
}

fn read_own(path: &Path) -> anyhow::Result<Vec<u8>> {
    let read = || {
        let mut text = Vec::new();
        open_own(path, OpenOptions::new().read(true))?.read_to_end(&mut text)?;
        Ok::<_, io::Error>(text)
    };
    read().with_context(|| format!("cannot read the certificate {}", path.display()))
}

/// Generates a self-signed identity: the certificate, then its key, in PEM.
fn generate() -> anyhow::Result<Vec<u8>> {
    let build = || {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(["localhost".to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, "chatty");
        Ok::<_, rcgen::Error>(params.self_signed(&key)?.pem() + &key.serialize_pem())
    };
    build().map(String::into_bytes).context("cannot generate a certificate")
}

/// Generates a self-signed identity if there is none. Only called at the start: if the file is
/// missing at a reload, that is an error, because clients recognize the server by it.
fn generate_if_missing(path: &Path) -> anyhow::Result<()> {
    // A dangling link counts as present.
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => store_new(path),
        Err(error) => Err(error).with_context(|| format!("cannot look for {}", path.display())),
    }
}

/// Generates an identity and stores it atomically, readable by the owner only.
fn store_new(path: &Path) -> anyhow::Result<()> {
    let text = generate()?;
    let draft = path.with_extension("new");
    let write = || {
        // A file left behind by a crash may have any mode.
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&draft, path)
    };
    write().with_context(|| format!("cannot store a certificate in {}", path.display()))
}

/// A file that should contain a certificate or a key, with its content.
struct Pem<'a> {
    path: &'a Path,
    text: &'a [u8],
}

impl<'a> Pem<'a> {
    fn new(path: &'a Path, text: &'a [u8]) -> Self {
        Self { path, text }
    }

    fn has(&self, words: &str) -> bool {
        memchr::memmem::find(self.text, words.as_bytes()).is_some()
    }

    fn has_certificate(&self) -> bool {
        self.has("-BEGIN CERTIFICATE-")
    }

    fn has_key(&self) -> bool {
        self.has(" PRIVATE KEY-")
    }

    fn is_encrypted_key(&self) -> bool {
        self.has("-BEGIN ENCRYPTED PRIVATE KEY-") || self.has("Proc-Type: 4,ENCRYPTED")
    }

    /// Returns whether the content looks like a DER sequence, which begins with its length.
    fn is_der(&self) -> bool {
        match *self.text {
            [0x30, 0x81..=0x84, ..] => true,
            [0x30, length, ..] => usize::from(length) + 2 == self.text.len(),
            _ => false,
        }
    }

    /// Explains why the file contains no `what`; `tool` is the openssl command that converts it.
    fn missing(&self, what: &str, tool: &str) -> anyhow::Error {
        let path = self.path.display();
        if self.text.iter().all(u8::is_ascii_whitespace) {
            anyhow!("{path} is empty; it should contain a {what} in PEM")
        } else if self.is_der() {
            anyhow!(
                "{path} is in DER, but chatty needs PEM: \
                 openssl {tool} -inform der -in {path} -out {path}.pem"
            )
        } else if self.has("-----BEGIN") && (self.has_certificate() || self.has_key()) {
            let found = if self.has_certificate() { "a certificate" } else { "a key" };
            anyhow!("{path} contains no readable {what} in PEM, but {found}")
        } else {
            anyhow!("{path} contains no {what} in PEM")
        }
    }
}

/// Why an identity cannot be used.
#[derive(Debug)]
enum Unusable {
    NoCertificate,
    NoKey,
    /// The key does not belong to the certificate.
    KeyMismatch,
    Other(Error),
}

/// Describes what is wrong with the files, and how to fix it.
fn explain(problem: &Unusable, certificate: &Pem<'_>, key: &Pem<'_>) -> anyhow::Error {
    let (certificate_path, key_path) = (certificate.path.display(), key.path.display());
    if certificate.has_key()
        && !certificate.has_certificate()
        && key.has_certificate()
        && !key.has_key()
    {
        return anyhow!(
            "{certificate_path} contains a key and {key_path} a certificate: \
             swap --tls-cert and --tls-key"
        );
    }
    match problem {
        Unusable::NoCertificate => certificate.missing("certificate", "x509"),
        Unusable::NoKey if key.is_encrypted_key() => anyhow!(
            "{key_path} contains an encrypted key; chatty needs one without a passphrase: \
             openssl pkey -in {key_path} -out {key_path}.open"
        ),
        Unusable::NoKey => key.missing("key", "pkey"),
        Unusable::KeyMismatch => anyhow!(
            "the key in {key_path} does not belong to the first certificate in {certificate_path}; \
             put the server's certificate first"
        ),
        Unusable::Other(Error::InvalidCertificate(_)) => {
            anyhow!("the first certificate in {certificate_path} is damaged or not X.509")
        }
        // The remaining errors concern the key.
        Unusable::Other(_) => anyhow!(
            "cannot use the key in {key_path}: chatty supports RSA of 2048 bits or more, \
             ECDSA (P-256, P-384) and Ed25519"
        ),
    }
}

fn configure(chain: &[u8], key: &[u8]) -> Result<(Arc<ServerConfig>, Fingerprint), Unusable> {
    let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, pem::Error>>();
    let chain = chain.map_err(|_| Unusable::NoCertificate)?;
    let fingerprint = Fingerprint::of(chain.first().ok_or(Unusable::NoCertificate)?);
    // The old format of an encrypted key begins like an unencrypted one.
    let is_encrypted = Pem::new(Path::new(""), key).is_encrypted_key();
    let key = if is_encrypted { None } else { PrivateKeyDer::from_pem_slice(key).ok() };
    let key = key.ok_or(Unusable::NoKey)?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key));
    let mut config = config.map_err(|problem| match problem {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => Unusable::KeyMismatch,
        problem => Unusable::Other(problem),
    })?;
    // Sessions last for hours, so TLS resumption would save nothing.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok((Arc::new(config), fingerprint))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn fingerprint(source: &Source) -> Fingerprint {
        source.read().expect("an identity").1
    }

    #[test]
    fn self_signed_identity_is_generated_once_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(OWN_IDENTITY);
        fs::write(path.with_extension("new"), "half of one").unwrap();
        let source = Source::Own(path.clone());
        generate_if_missing(&path).unwrap();
        let first = fingerprint(&source);
        generate_if_missing(&path).unwrap();
        assert_eq!(fingerprint(&source), first);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!path.with_extension("new").exists());
        fs::remove_file(&path).unwrap();
        assert!(source.read().is_err(), "a reload generates none");
        generate_if_missing(&path).unwrap();
        assert_ne!(fingerprint(&source), first);
        fs::write(&path, "no certificate").unwrap();
        let problem = source.read().unwrap_err().to_string();
        assert!(problem.contains("remove the file to generate a new one"), "{problem}");
    }

    #[test]
    fn problem_of_the_files_is_explained() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let (one, other) = (file("one", &generate().unwrap()), file("other", &generate().unwrap()));
        let (empty, absent) = (file("empty", b"\n"), folder.path().join("absent"));
        let made = String::from_utf8(generate().unwrap()).unwrap();
        let at = made.find("-----BEGIN PRIVATE KEY").unwrap();
        let certificate = file("certificate", &made.as_bytes()[..at]);
        let (key, text) = (file("key", &made.as_bytes()[at..]), file("text", b"hello\n"));
        let first = CertificateDer::from_pem_slice(made.as_bytes()).unwrap();
        let der = file("der", &first);
        // An empty sequence is neither a certificate nor a key.
        let wrapped = |what: &str, headers: &str| {
            format!("-----BEGIN {what}-----\n{headers}MAA=\n-----END {what}-----\n")
        };
        let encrypted = file("encrypted", wrapped("ENCRYPTED PRIVATE KEY", "").as_bytes());
        let headers = "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n";
        let old = file("old", wrapped("RSA PRIVATE KEY", headers).as_bytes());
        let damaged = file("damaged", wrapped("CERTIFICATE", "").as_bytes());
        let unknown = file("unknown", wrapped("PRIVATE KEY", "").as_bytes());
        let problem = |certificate: &Path, key: &Path| {
            let source = Source::Files { certificate: certificate.into(), key: key.into() };
            source.read().map(|_| ()).map_err(|problem| format!("{problem:#}"))
        };
        assert_eq!(problem(&one, &one), Ok(()));
        let whole = fs::read_to_string(&one).unwrap();
        let windows = format!("\u{FEFF}{}", whole.replace('\n', "\r\n"));
        let marked = file("marked", windows.as_bytes());
        assert_eq!(problem(&marked, &marked), Ok(()), "with BOM and CRLF");
        let wide = file("wide", b"\xFF\xFE-\0");
        for (certificate, key, words) in [
            (&absent, &one, "cannot read the certificate"),
            (&one, &absent, "cannot read the key"),
            (&empty, &one, "empty is empty; it should contain a certificate in PEM"),
            (&one, &empty, "empty is empty; it should contain a key in PEM"),
            (&one, &other, "does not belong to the first certificate"),
            (&wide, &one, "it is UTF-16"),
            (&key, &certificate, "swap --tls-cert and --tls-key"),
            (&key, &one, "key contains no readable certificate in PEM, but a key"),
            (&one, &certificate, "certificate contains no readable key in PEM, but a cert"),
            (&text, &one, "text contains no certificate in PEM"),
            (&der, &one, "der is in DER, but chatty needs PEM: openssl x509 -inform der -in"),
            (&one, &der, "der is in DER, but chatty needs PEM: openssl pkey -inform der -in"),
            (&certificate, &encrypted, "encrypted contains an encrypted key"),
            (&certificate, &old, "old contains an encrypted key; chatty needs one without"),
            (&damaged, &key, "damaged is damaged or not X.509"),
            (&certificate, &unknown, "chatty supports RSA of 2048 bits or more"),
        ] {
            let problem = problem(certificate, key).unwrap_err();
            assert!(problem.contains(words), "{problem}");
        }
    }
}
