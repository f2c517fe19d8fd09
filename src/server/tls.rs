//! TLS: the flags, the server's identity, and reading it again.
//!
//! An identity is a certificate and its key. Without another one the server makes
//! its own and keeps it in its data folder; nobody vouches for that one, so people
//! know it by its fingerprint.

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

use crate::files::open_own;
use crate::protocol::Fingerprint;
use crate::protocol::units::parse_switch;
use crate::text_file;

/// The file of the server's own identity, in its data folder.
const OWN_IDENTITY: &str = "tls-identity.pem";

/// What can be told about encryption.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Encryption")]
pub struct TlsArgs {
    /// Take TLS on the same port as well: chatty join --tls, ncat --ssl
    ///
    /// The server makes its own certificate, keeps it in its data folder and says
    /// its fingerprint, by which people know it.
    #[arg(long, env = "CHATTY_TLS", value_parser = parse_switch)]
    tls: bool,

    /// Take TLS, with this certificate: a PEM file, with those that vouch for it
    ///
    /// SIGHUP reads it again, with its key.
    #[arg(long, value_name = "FILE", env = "CHATTY_TLS_CERT", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// The key of --tls-cert, a PEM file
    #[arg(long, value_name = "FILE", env = "CHATTY_TLS_KEY", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Take TLS and nothing else
    #[arg(long, env = "CHATTY_TLS_ONLY", value_parser = parse_switch)]
    tls_only: bool,
}

/// What is offered to whoever connects.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Who the server is, for handshakes from now on.
    pub config: Arc<ServerConfig>,
    /// Whether nobody may speak without TLS.
    pub is_only: bool,
}

/// Where the identity comes from.
#[derive(Debug, Clone)]
enum Source {
    Files { certificate: PathBuf, key: PathBuf },
    Own(PathBuf),
    Passing,
}

/// The server's identity, which can be read again.
#[derive(Debug)]
pub struct Identity {
    source: Source,
    is_only: bool,
    fingerprint: Fingerprint,
}

impl TlsArgs {
    /// The identity and what it offers; `None` without TLS. `folder` is where the
    /// server keeps its data, if it keeps any.
    ///
    /// # Errors
    /// The identity cannot be read, or made.
    pub fn open(self, folder: Option<&Path>) -> anyhow::Result<Option<(Identity, Offer)>> {
        let source = match (self.tls_cert, self.tls_key) {
            (Some(certificate), Some(key)) => Source::Files { certificate, key },
            _ if !self.tls && !self.tls_only => return Ok(None),
            _ => folder.map_or(Source::Passing, |folder| Source::Own(folder.join(OWN_IDENTITY))),
        };
        if let Source::Own(path) = &source {
            make_initial(path)?;
        }
        let (config, fingerprint) = source.read()?;
        let identity = Identity { source, is_only: self.tls_only, fingerprint };
        let offer = Offer { config, is_only: self.tls_only };
        Ok(Some((identity, offer)))
    }
}

impl Identity {
    /// What is said of it at the start.
    #[must_use]
    pub fn describe(&self) -> String {
        let scope = if self.is_only { "TLS only" } else { "TLS" };
        let remark = match self.source {
            Source::Passing => " (made for this run; --data DIR keeps one)",
            Source::Files { .. } | Source::Own(_) => "",
        };
        format!("{scope}, certificate SHA-256 {}{remark}", self.fingerprint)
    }

    /// Reads it again; gives what to offer from now on if it could be read, and
    /// what to say of it.
    pub fn reload(&mut self) -> (Option<Offer>, String) {
        if matches!(self.source, Source::Passing) {
            return (None, "TLS: this certificate lasts as long as the server".to_owned());
        }
        match self.source.read() {
            Err(problem) => (None, format!("TLS: the certificate stays as it was: {problem:#}")),
            Ok((config, fingerprint)) => {
                self.fingerprint = fingerprint;
                let offer = Offer { config, is_only: self.is_only };
                (Some(offer), format!("TLS: certificate read again, SHA-256 {fingerprint}"))
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
                        "{} holds no certificate with its key; without that file a new one is made",
                        path.display()
                    )
                })
            }
            Self::Passing => {
                let text = make()?;
                configure(&text, &text).map_err(|_| anyhow!("cannot make a certificate"))
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

/// A new identity: the certificate, then its key.
fn make() -> anyhow::Result<Vec<u8>> {
    let make = || {
        let key = KeyPair::generate()?;
        let mut sheet = CertificateParams::new(["localhost".to_owned()])?;
        sheet.distinguished_name.push(DnType::CommonName, "chatty");
        Ok::<_, rcgen::Error>(sheet.self_signed(&key)?.pem() + &key.serialize_pem())
    };
    make().map(String::into_bytes).context("cannot make a certificate")
}

/// Makes an identity of our own where there is none. One that is missing later, when it
/// is read again, is a mistake: clients know the server by it.
fn make_initial(path: &Path) -> anyhow::Result<()> {
    // A link is there, too, wherever it leads.
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => keep(path),
        Err(error) => Err(error).with_context(|| format!("cannot look for {}", path.display())),
    }
}

/// Makes a new identity and keeps it, whole or not at all, for nobody else's eyes.
fn keep(path: &Path) -> anyhow::Result<()> {
    let text = make()?;
    let draft = path.with_extension("new");
    let write = || {
        // What a crash left behind may be of any mode.
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&draft, path)
    };
    write().with_context(|| format!("cannot keep a certificate in {}", path.display()))
}

/// A file that should hold a certificate or a key, with its text.
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

    /// A sequence in DER, which begins with its length.
    fn is_der(&self) -> bool {
        match *self.text {
            [0x30, 0x81..=0x84, ..] => true,
            [0x30, length, ..] => usize::from(length) + 2 == self.text.len(),
            _ => false,
        }
    }

    /// Why it does not hold `what`; `tool` is the command of openssl that knows it.
    fn lacks(&self, what: &str, tool: &str) -> anyhow::Error {
        let path = self.path.display();
        if self.text.iter().all(u8::is_ascii_whitespace) {
            anyhow!("{path} is empty; it should hold a {what} in PEM")
        } else if self.is_der() {
            anyhow!(
                "{path} is in DER, and chatty takes PEM: \
                 openssl {tool} -inform der -in {path} -out {path}.pem"
            )
        } else if self.has("-----BEGIN") && (self.has_certificate() || self.has_key()) {
            let found = if self.has_certificate() { "a certificate" } else { "a key" };
            anyhow!("{path} holds no {what} in PEM that can be read, but {found}")
        } else {
            anyhow!("{path} holds no {what} in PEM")
        }
    }
}

/// Why an identity is of no use.
#[derive(Debug)]
enum Unusable {
    NoCertificate,
    NoKey,
    /// The key is another's.
    Strangers,
    Other(Error),
}

/// Says what is wrong with the files, and what to do.
fn explain(problem: &Unusable, certificate: &Pem<'_>, key: &Pem<'_>) -> anyhow::Error {
    let (certificate_path, key_path) = (certificate.path.display(), key.path.display());
    if certificate.has_key()
        && !certificate.has_certificate()
        && key.has_certificate()
        && !key.has_key()
    {
        return anyhow!(
            "{certificate_path} holds a key and {key_path} a certificate: \
             --tls-cert and --tls-key have changed places"
        );
    }
    match problem {
        Unusable::NoCertificate => certificate.lacks("certificate", "x509"),
        Unusable::NoKey if key.is_encrypted_key() => anyhow!(
            "{key_path} holds an encrypted key, and chatty needs one without a passphrase: \
             openssl pkey -in {key_path} -out {key_path}.open"
        ),
        Unusable::NoKey => key.lacks("key", "pkey"),
        Unusable::Strangers => anyhow!(
            "the key in {key_path} is not that of the certificate in {certificate_path}, which has \
             to be the first one there"
        ),
        Unusable::Other(Error::InvalidCertificate(_)) => {
            anyhow!("the first certificate in {certificate_path} is damaged, or none of X.509")
        }
        // All that is left to be wrong.
        Unusable::Other(_) => anyhow!(
            "cannot use the key in {key_path}: chatty takes RSA of 2048 bits or more, \
             ECDSA (P-256, P-384) and Ed25519"
        ),
    }
}

fn configure(chain: &[u8], key: &[u8]) -> Result<(Arc<ServerConfig>, Fingerprint), Unusable> {
    let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, pem::Error>>();
    let chain = chain.map_err(|_| Unusable::NoCertificate)?;
    let fingerprint = Fingerprint::of(chain.first().ok_or(Unusable::NoCertificate)?);
    // The old form of an encrypted key begins as one that is not.
    let is_encrypted = Pem::new(Path::new(""), key).is_encrypted_key();
    let key = if is_encrypted { None } else { PrivateKeyDer::from_pem_slice(key).ok() };
    let key = key.ok_or(Unusable::NoKey)?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key));
    let mut config = config.map_err(|problem| match problem {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => Unusable::Strangers,
        problem => Unusable::Other(problem),
    })?;
    // A visit lasts for hours: remembering handshakes would save nothing.
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
    fn its_own_identity_is_made_once_and_kept_for_its_own_eyes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(OWN_IDENTITY);
        fs::write(path.with_extension("new"), "half of one").unwrap();
        let source = Source::Own(path.clone());
        make_initial(&path).unwrap();
        let first = fingerprint(&source);
        make_initial(&path).unwrap();
        assert_eq!(fingerprint(&source), first);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!path.with_extension("new").exists());
        fs::remove_file(&path).unwrap();
        assert!(source.read().is_err(), "none is made unasked");
        make_initial(&path).unwrap();
        assert_ne!(fingerprint(&source), first);
        fs::write(&path, "no certificate").unwrap();
        let problem = source.read().unwrap_err().to_string();
        assert!(problem.contains("without that file a new one is made"), "{problem}");
    }

    #[test]
    fn what_is_wrong_with_the_files_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let (one, other) = (file("one", &make().unwrap()), file("other", &make().unwrap()));
        let (empty, absent) = (file("empty", b"\n"), folder.path().join("absent"));
        let made = String::from_utf8(make().unwrap()).unwrap();
        let at = made.find("-----BEGIN PRIVATE KEY").unwrap();
        let certificate = file("certificate", &made.as_bytes()[..at]);
        let (key, text) = (file("key", &made.as_bytes()[at..]), file("text", b"hello\n"));
        let first = CertificateDer::from_pem_slice(made.as_bytes()).unwrap();
        let der = file("der", &first);
        // An empty sequence is no certificate, and no key of any kind.
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
        assert_eq!(problem(&marked, &marked), Ok(()), "as Windows writes it");
        let wide = file("wide", b"\xFF\xFE-\0");
        for (certificate, key, words) in [
            (&absent, &one, "cannot read the certificate"),
            (&one, &absent, "cannot read the key"),
            (&empty, &one, "empty is empty; it should hold a certificate in PEM"),
            (&one, &empty, "empty is empty; it should hold a key in PEM"),
            (&one, &other, "is not that of the certificate"),
            (&wide, &one, "it is UTF-16"),
            (&key, &certificate, "--tls-cert and --tls-key have changed places"),
            (&key, &one, "key holds no certificate in PEM that can be read, but a key"),
            (&one, &certificate, "certificate holds no key in PEM that can be read, but a cert"),
            (&text, &one, "text holds no certificate in PEM"),
            (&der, &one, "der is in DER, and chatty takes PEM: openssl x509 -inform der -in"),
            (&one, &der, "der is in DER, and chatty takes PEM: openssl pkey -inform der -in"),
            (&certificate, &encrypted, "encrypted holds an encrypted key"),
            (&certificate, &old, "old holds an encrypted key, and chatty needs one without"),
            (&damaged, &key, "damaged is damaged, or none of X.509"),
            (&certificate, &unknown, "chatty takes RSA of 2048 bits or more"),
        ] {
            let problem = problem(certificate, key).unwrap_err();
            assert!(problem.contains(words), "{problem}");
        }
    }
}
