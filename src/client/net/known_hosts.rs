//! The file of servers trusted on first use, like that of ssh, with one line per server:
//! `HOST:PORT FINGERPRINT`. It does not know how a certificate is verified.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use super::address::{Address, Endpoint, without_port};
use crate::config::base_folder;
use crate::files::open_own;
use crate::protocol::{DEFAULT_PORT, Fingerprint};
use crate::text_file;

/// The file of known servers.
#[derive(Debug)]
pub(super) struct KnownHosts {
    pub(super) path: PathBuf,
}

impl KnownHosts {
    /// Returns the file in the user's data folder.
    pub(super) fn open_default() -> Result<Self, String> {
        let home = base_folder("XDG_DATA_HOME", ".local/share").ok_or(
            "--tls: set XDG_DATA_HOME or HOME to store known servers, or use --tls-verify or \
             --tls-fingerprint",
        )?;
        Ok(Self { path: home.join("chatty/known_hosts") })
    }

    /// Returns the stored fingerprint of this server.
    ///
    /// # Errors
    /// The file cannot be read, or a damaged line may be this server's: a server that was
    /// known must not be treated as new.
    pub(super) fn find(&self, endpoint: &Endpoint) -> Result<Option<Fingerprint>, String> {
        find_in(&self.read()?, endpoint)
            .map_err(|problem| format!("{}:{problem}", self.path.display()))
    }

    /// Appends the fingerprint of this server.
    pub(super) fn add(&self, endpoint: &Endpoint, fingerprint: Fingerprint) -> Result<(), String> {
        let is_whole = |text: &[u8]| text.is_empty() || text.ends_with(b"\n");
        let end = if is_whole(&self.read()?) { "" } else { "\n" };
        let line = format!("{end}{} {fingerprint}\n", host(endpoint));
        let write = || {
            if let Some(folder) = self.path.parent() {
                DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            }
            let mut file = open_own(&self.path, OpenOptions::new().append(true).create(true))?;
            // One write: another client may append at the same time.
            file.write_all(line.as_bytes())
        };
        write().map_err(|problem: io::Error| format!("{}: {problem}", self.path.display()))
    }

    fn read(&self) -> Result<Vec<u8>, String> {
        let file = open_own(&self.path, OpenOptions::new().read(true));
        match file.and_then(text_file::read_bytes_from) {
            Err(problem) if problem.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            read => read.map_err(|problem| format!("{}: {problem}", self.path.display())),
        }
    }
}

/// Looks a server up in the text of the file.
///
/// # Errors
/// `LINE: problem` for a damaged line that is, or may be, this server's.
fn find_in(text: &[u8], endpoint: &Endpoint) -> Result<Option<Fingerprint>, String> {
    let wanted = host(endpoint);
    let mut found = None;
    for (number, line) in text.split(|&byte| byte == b'\n').enumerate() {
        let line = String::from_utf8_lossy(line);
        match Line::parse(&line) {
            Line::Known(host, fingerprint) if host == wanted => {
                found.get_or_insert(fingerprint);
            }
            Line::Damaged(problem) if may_match(&line, endpoint) => {
                return Err(format!(
                    "{}: {problem}. If the server operator confirms the fingerprint, correct this \
                     line (HOST:PORT FINGERPRINT) or delete it, and join again",
                    number + 1
                ));
            }
            Line::Blank | Line::Known(..) | Line::Damaged(_) => {}
        }
    }
    Ok(found)
}

/// One line of the file.
enum Line {
    /// Blank, or a comment.
    Blank,
    Known(String, Fingerprint),
    Damaged(String),
}

impl Line {
    fn parse(line: &str) -> Self {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return Self::Blank;
        }
        let (host, fingerprint) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        let Some(host) = normalized(host) else {
            return Self::Damaged(format!("\"{host}\" is not a HOST:PORT"));
        };
        match fingerprint.trim() {
            "" => Self::Damaged("the fingerprint is missing".to_owned()),
            fingerprint => match fingerprint.parse() {
                Ok(fingerprint) => Self::Known(host, fingerprint),
                Err(problem) => Self::Damaged(problem),
            },
        }
    }
}

/// Whether a damaged line may be this server's. It is another server's only if it begins
/// with the complete name of that server and does not contain the name of this one.
fn may_match(line: &str, endpoint: &Endpoint) -> bool {
    let line = line.trim().to_lowercase();
    let (word, rest) = line.split_once([' ', '\t']).unwrap_or((&line, ""));
    let wanted = host(endpoint);
    // A truncated line has no port or only part of it.
    let is_another = without_port(word) != word
        && !word.contains('\u{FFFD}')
        && normalized(word).is_some_and(|host| {
            host != wanted && !(rest.is_empty() && wanted.to_lowercase().starts_with(&host))
        });
    // Two lines may have become one.
    !is_another || rest.contains(&normalized_host(&endpoint.host).to_lowercase())
}

/// Returns a server of the file in its normalized spelling.
fn normalized(text: &str) -> Option<String> {
    let address: Address = text.parse().ok()?;
    Some(host(&address.with_default_port(DEFAULT_PORT)))
}

/// Returns the server's name in the file.
pub(super) fn host(endpoint: &Endpoint) -> String {
    Endpoint { host: normalized_host(&endpoint.host), port: endpoint.port }.to_string()
}

/// Normalizes a host: host names ignore case and a trailing dot, and an IPv6 address has
/// one canonical spelling. A zone is the name of an interface and is case-sensitive.
fn normalized_host(host: &str) -> String {
    let (ip, zone) = host.split_once('%').map_or((host, None), |(ip, zone)| (ip, Some(zone)));
    match (ip.parse::<IpAddr>(), zone) {
        (Ok(ip), None) => ip.to_string(),
        (Ok(ip), Some(zone)) => format!("{ip}%{zone}"),
        (Err(_), _) => host.strip_suffix('.').unwrap_or(host).to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_added_servers_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let known = KnownHosts { path: folder.path().join("deep/known_hosts") };
        let endpoint = |text: &str| text.parse::<Address>().unwrap().with_default_port(5555);
        let (one, other) = (Fingerprint::of(b"one"), Fingerprint::of(b"other"));
        assert_eq!(known.find(&endpoint("chat.example.org")), Ok(None));
        known.add(&endpoint("chat.example.org"), one).unwrap();
        known.add(&endpoint("[::1]:6000"), other).unwrap();
        for (text, found) in [
            ("Chat.Example.Org", Some(one)),
            ("chat.example.org:5555", Some(one)),
            ("chat.example.org:555", None),
            ("chat.example.org:55555", None),
            ("example.org", None),
            ("[::1]:6000", Some(other)),
            ("::1", None),
        ] {
            assert_eq!(known.find(&endpoint(text)), Ok(found), "{text}");
        }
        // Edited by hand.
        fs::write(&known.path, format!("# mine\n\n  a:5555\t{one}  \nb:5555 x\nc:5555")).unwrap();
        known.add(&endpoint("d"), other).unwrap();
        assert_eq!(known.find(&endpoint("a")), Ok(Some(one)));
        assert!(
            known
                .find(&endpoint("b"))
                .unwrap_err()
                .contains("known_hosts:4: invalid fingerprint \"x\"")
        );
        assert_eq!(known.find(&endpoint("d")), Ok(Some(other)));
        // Written by a Windows editor.
        fs::write(&known.path, format!("\u{FEFF}a:5555 {one}\r\nb:5555 {other}\r\n")).unwrap();
        assert_eq!(known.find(&endpoint("a")), Ok(Some(one)));
        assert_eq!(known.find(&endpoint("b")), Ok(Some(other)));
        fs::write(&known.path, b"\xFF\xFEa\0").unwrap();
        assert!(known.find(&endpoint("a")).unwrap_err().contains("UTF-16"));
    }

    #[test]
    fn symbolic_link_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let victim = folder.path().join("victim");
        fs::write(&victim, "").unwrap();
        let known = KnownHosts { path: folder.path().join("known_hosts") };
        std::os::unix::fs::symlink(&victim, &known.path).unwrap();
        let endpoint = "a".parse::<Address>().unwrap().with_default_port(5555);
        assert!(known.find(&endpoint).unwrap_err().contains("is a link"));
        let problem = known.add(&endpoint, Fingerprint::of(b"one")).unwrap_err();
        assert!(problem.contains("is a link"), "{problem}");
        assert_eq!(fs::read_to_string(victim).unwrap(), "");
    }

    fn found(text: &str, host: &str) -> Result<Option<Fingerprint>, String> {
        let endpoint = host.parse::<Address>().expect(host).with_default_port(5555);
        find_in(text.as_bytes(), &endpoint)
    }

    #[test]
    fn hosts_are_compared_in_normalized_spelling() {
        let one = Fingerprint::of(b"one");
        for (line, host) in [
            ("Chat.Example.Org:5555", "chat.example.org"),
            ("chat.example.org:5555", "CHAT.example.org"),
            ("chat.example.org.:5555", "chat.example.org"),
            ("chat.example.org:5555", "chat.example.org.:5555"),
            ("chat.example.org", "chat.example.org:5555"),
            ("[0:0:0:0:0:0:0:1]:5555", "::1"),
            ("[2001:DB8::1]:7", "[2001:0db8:0::1]:7"),
            ("[FE80::1%lo]:5555", "fe80::1%lo"),
            ("Größe.example:5555", "GRÖßE.example"),
        ] {
            assert_eq!(found(&format!("{line} {one}\n"), host), Ok(Some(one)), "{line} {host}");
        }
        for (line, host) in [
            ("chat.example.org:5556", "chat.example.org"),
            ("[fe80::1%LO]:5555", "fe80::1%lo"),
            ("[fe80::1]:5555", "fe80::1%lo"),
        ] {
            assert_eq!(found(&format!("{line} {one}\n"), host), Ok(None), "{line} {host}");
        }
    }

    #[test]
    fn damaged_line_that_may_match_is_an_error() {
        let one = Fingerprint::of(b"one").to_string();
        let whole = format!("chat.example.org:5555 {one}");
        // Truncated at every position.
        for end in 1..whole.len() {
            let text = format!("# mine\n{}", &whole[..end]);
            let problem = found(&text, "chat.example.org").expect_err(&text);
            assert!(problem.starts_with("2: "), "{problem}");
        }
        for (line, is_refused) in [
            (format!("CHAT.example.ORG.:5555 {}", &one[..20]), true),
            (format!("chat.example.org {}", &one[..20]), true),
            (format!("chat.example.org:5555 {one}x"), true),
            ("chat.example.org:5555".to_owned(), true),
            ("what is this".to_owned(), true),
            (format!("\u{FFFD}hat.example.org:5555 {one}x"), true),
            (format!("a:1 {one}chat.example.org:5555 {one}"), true),
            (format!("a:1 {}", &one[..20]), false),
            ("a:1".to_owned(), false),
            (format!("[::1]:5555 {}", &one[..20]), false),
            (format!("chat.example.org:6000 {}", &one[..20]), false),
        ] {
            // At every position, and beside an intact line.
            for text in [format!("{line}\n{whole}\n"), format!("{whole}\n{line}\n"), line.clone()] {
                let found = found(&text, "chat.example.org");
                assert_eq!(found.is_err(), is_refused, "{text}: {found:?}");
            }
        }
        let endpoint = "a".parse::<Address>().unwrap().with_default_port(5555);
        assert!(find_in(b"a:5555 \xff\n", &endpoint).is_err());
        assert!(find_in(b"\xff:5555 x\n", &endpoint).is_err());
    }
}
