//! The servers that were trusted when they were first met, as ssh keeps them: a
//! file with a line for each, `HOST:PORT FINGERPRINT`.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use super::address::Endpoint;
use crate::files::{open_own, open_regular};
use crate::protocol::Fingerprint;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct KnownHosts {
    pub(super) path: PathBuf,
}

impl KnownHosts {
    /// Where data is kept.
    pub(super) fn usual() -> Result<Self, String> {
        let home = super::home("XDG_DATA_HOME", ".local/share").ok_or(
            "--tls: neither XDG_DATA_HOME nor HOME says where known servers are kept; \
             --tls-verify and --tls-fingerprint need no such place",
        )?;
        Ok(Self { path: home.join("chatty/known_hosts") })
    }

    /// How this server was known.
    pub(super) fn find(&self, endpoint: &Endpoint) -> Result<Option<Fingerprint>, String> {
        let host = host(endpoint);
        for (number, line) in self.read()?.lines().enumerate() {
            let Some(rest) = line.trim().strip_prefix(&host) else { continue };
            let Some(rest) = rest.strip_prefix([' ', '\t']) else { continue };
            let at = format!("{}:{}", self.path.display(), number + 1);
            return rest.trim().parse().map(Some).map_err(|problem| format!("{at}: {problem}"));
        }
        Ok(None)
    }

    /// From now on it is known so.
    pub(super) fn add(&self, endpoint: &Endpoint, fingerprint: Fingerprint) -> Result<(), String> {
        let is_whole = |text: &str| text.is_empty() || text.ends_with('\n');
        let end = if is_whole(&self.read()?) { "" } else { "\n" };
        let line = format!("{end}{} {fingerprint}\n", host(endpoint));
        let write = || {
            if let Some(folder) = self.path.parent() {
                DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            }
            let mut file = open_own(&self.path, OpenOptions::new().append(true).create(true))?;
            // In one piece: there may be another client of ours.
            file.write_all(line.as_bytes())
        };
        write().map_err(|problem: io::Error| format!("{}: {problem}", self.path.display()))
    }

    fn read(&self) -> Result<String, String> {
        match open_regular(&self.path).and_then(io::read_to_string) {
            Err(problem) if problem.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            read => read.map_err(|problem| format!("{}: {problem}", self.path.display())),
        }
    }
}

/// A server's name in the file; names of hosts ignore case.
pub(super) fn host(endpoint: &Endpoint) -> String {
    endpoint.to_string().to_lowercase()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_was_added_is_found_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let known = KnownHosts { path: folder.path().join("deep/known_hosts") };
        let endpoint = |text: &str| text.parse::<super::super::Address>().unwrap().or_port(5555);
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
        // As people leave it who edit it.
        fs::write(&known.path, format!("# mine\n\n  a:5555\t{one}  \nb:5555 x\nc:5555")).unwrap();
        known.add(&endpoint("d"), other).unwrap();
        assert_eq!(known.find(&endpoint("a")), Ok(Some(one)));
        assert!(known.find(&endpoint("b")).unwrap_err().contains("known_hosts:4: \"x\" is no"));
        assert_eq!(known.find(&endpoint("d")), Ok(Some(other)));
    }

    #[test]
    fn link_is_read_and_never_written() {
        let folder = tempfile::tempdir().unwrap();
        let victim = folder.path().join("victim");
        fs::write(&victim, "").unwrap();
        let known = KnownHosts { path: folder.path().join("known_hosts") };
        std::os::unix::fs::symlink(&victim, &known.path).unwrap();
        let endpoint = "a".parse::<super::super::Address>().unwrap().or_port(5555);
        assert_eq!(known.find(&endpoint), Ok(None));
        let problem = known.add(&endpoint, Fingerprint::of(b"one")).unwrap_err();
        assert!(problem.contains("is a link"), "{problem}");
        assert_eq!(fs::read_to_string(victim).unwrap(), "");
    }
}
