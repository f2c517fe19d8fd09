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
use clap::builder::BoolishValueParser;
use rcgen::{CertificateParams, DnType, KeyPair};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::NoServerSessionStorage;
use tokio_rustls::rustls::{Error, InconsistentKeys, ServerConfig};

use crate::files::open_own;
use crate::protocol::Fingerprint;
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
    #[arg(long, env = "CHATTY_TLS", value_parser = BoolishValueParser::new())]
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
    #[arg(long, env = "CHATTY_TLS_ONLY", value_parser = BoolishValueParser::new())]
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
            make_first(path)?;
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
    pub fn introduction(&self) -> String {
        let scope = if self.is_only { "TLS only" } else { "TLS" };
        let remark = match self.source {
            Source::Passing => " (made for this run; --data DIR keeps one)",
            Source::Files { .. } | Source::Own(_) => "",
        };
        format!("{scope}, certificate SHA-256 {}{remark}", self.fingerprint)
    }

    /// Reads it again; gives what to offer from now on if it could be read, and
    /// what to say of it.
    pub fn read_again(&mut self) -> (Option<Offer>, String) {
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
                configure(&chain, &key_text).map_err(|problem| match problem {
                    Unusable::NoCertificate => {
                        anyhow!("{} holds no certificate in PEM", certificate.display())
                    }
                    Unusable::NoKey => anyhow!("{} holds no key in PEM", key.display()),
                    Unusable::Strangers => anyhow!(
                        "the key in {} is not that of the certificate in {}",
                        key.display(),
                        certificate.display()
                    ),
                    Unusable::Other(problem) => {
                        anyhow!("cannot use the certificate {}: {problem}", certificate.display())
                    }
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
fn make_first(path: &Path) -> anyhow::Result<()> {
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

/// Why an identity is of no use.
#[derive(Debug)]
enum Unusable {
    NoCertificate,
    NoKey,
    /// The key is another's.
    Strangers,
    Other(Error),
}

fn configure(chain: &[u8], key: &[u8]) -> Result<(Arc<ServerConfig>, Fingerprint), Unusable> {
    let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, pem::Error>>();
    let chain = chain.map_err(|_| Unusable::NoCertificate)?;
    let fingerprint = Fingerprint::of(chain.first().ok_or(Unusable::NoCertificate)?);
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| Unusable::NoKey)?;
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
        make_first(&path).unwrap();
        let first = fingerprint(&source);
        make_first(&path).unwrap();
        assert_eq!(fingerprint(&source), first);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!path.with_extension("new").exists());
        fs::remove_file(&path).unwrap();
        assert!(source.read().is_err(), "none is made unasked");
        make_first(&path).unwrap();
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
        let (empty, absent) = (file("empty", b""), folder.path().join("absent"));
        let problem = |certificate: &Path, key: &Path| {
            let source = Source::Files { certificate: certificate.into(), key: key.into() };
            source.read().map(|_| ()).map_err(|problem| format!("{problem:#}"))
        };
        assert_eq!(problem(&one, &one), Ok(()));
        let text = fs::read_to_string(&one).unwrap();
        let marked = file("marked", format!("\u{FEFF}{}", text.replace('\n', "\r\n")).as_bytes());
        assert_eq!(problem(&marked, &marked), Ok(()), "as Windows writes it");
        let wide = file("wide", b"\xFF\xFE-\0");
        for (certificate, key, words) in [
            (&absent, &one, "cannot read the certificate"),
            (&one, &absent, "cannot read the key"),
            (&empty, &one, "empty holds no certificate in PEM"),
            (&one, &empty, "empty holds no key in PEM"),
            (&one, &other, "is not that of the certificate"),
            (&wide, &one, "it is UTF-16"),
        ] {
            let problem = problem(certificate, key).unwrap_err();
            assert!(problem.contains(words), "{problem}");
        }
    }
}
