//! `HOST[:PORT]` as people write it on a command line.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::tls::Tls;

/// A host, and a port if one was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) host: String,
    port: Option<u16>,
}

/// A host and its port, and how to speak there.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    pub(super) host: String,
    pub(super) port: u16,
    /// `None`: for all to read.
    pub(super) tls: Option<Tls>,
}

impl Address {
    /// With `port` where none was written.
    pub(super) fn or_port(&self, port: u16) -> Endpoint {
        Endpoint { host: self.host.clone(), port: self.port.unwrap_or(port), tls: None }
    }
}

/// The addresses of `localhost` and of names under it; `None` for other names. They always mean
/// this machine and no resolver is asked (RFC 6761, section 6.3): `/etc/hosts` may be missing.
pub(super) fn loopback_addresses(host: &str, port: u16) -> Option<Vec<SocketAddr>> {
    let name = host.strip_suffix('.').unwrap_or(host);
    let top = name.rsplit('.').next().unwrap_or(name);
    let is_local = top.eq_ignore_ascii_case("localhost");
    is_local.then(|| vec![(Ipv6Addr::LOCALHOST, port).into(), (Ipv4Addr::LOCALHOST, port).into()])
}

/// An address without its port, as it was written.
pub(super) fn without_port(text: &str) -> &str {
    match text.rsplit_once(':') {
        // Of a bare IPv6 address the last group is no port.
        Some((host, _)) if host.ends_with(']') || !host.contains(':') => host,
        _ => text,
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) =
                rest.split_once(']').ok_or("an address that begins with [ ends with ]")?;
            match rest {
                "" => (host, None),
                rest => (host, Some(rest.strip_prefix(':').ok_or("after ] comes :PORT")?)),
            }
        } else if text.matches(':').count() > 1 {
            // A bare IPv6 address: its last group is no port.
            (text, None)
        } else {
            text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)))
        };
        let is_word = |c: char| !c.is_whitespace() && !c.is_control() && c != '/';
        if host.is_empty() || !host.chars().all(is_word) {
            return Err("HOST is a name or an address, as in chat.example.org:5555".to_owned());
        }
        let port = port.map(|port| match port.parse() {
            Ok(0) | Err(_) => Err(format!("\"{port}\" is no port; it is 1 to 65535")),
            Ok(port) => Ok(port),
        });
        Ok(Self { host: host.to_owned(), port: port.transpose()? })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn localhost_and_names_under_it_are_loopback_addresses() {
        let loopback = ["[::1]:6000", "127.0.0.1:6000"].map(|address| address.parse().unwrap());
        for name in ["localhost", "LocalHost", "localhost.", "a.localhost", "b.a.LOCALHOST."] {
            assert_eq!(loopback_addresses(name, 6000), Some(loopback.to_vec()), "{name}");
        }
        for name in ["", ".", "localhost..", "localhost.example", "mylocalhost", "127.0.0.1", "::1"]
        {
            assert_eq!(loopback_addresses(name, 6000), None, "{name}");
        }
    }

    #[test]
    fn a_host_may_come_with_a_port_and_with_brackets() {
        for (text, shown) in [
            ("localhost", "localhost:5555"),
            ("localhost:6000", "localhost:6000"),
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("::1", "[::1]:5555"),
            ("[::1]", "[::1]:5555"),
            ("[::1]:6000", "[::1]:6000"),
        ] {
            let address: Address = text.parse().expect(text);
            assert_eq!(address.or_port(5555).to_string(), shown);
        }
        for bad in ["", ":5555", "host:", "host:x", "host:0", "host:99999", "[::1", "[::1]6", "a b"]
        {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
