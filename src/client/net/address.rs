//! Parses `HOST[:PORT]` of the command line and resolves it to addresses. It does not connect.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::timeout;

use crate::scoped_ip::ScopedIp;

/// The timeout of a name lookup.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

/// A host and an optional port, as written by the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::client) struct Address {
    pub(super) host: String,
    port: Option<u16>,
}

/// A host and its port.
#[derive(Debug, Clone)]
pub(in crate::client) struct Endpoint {
    pub(in crate::client) host: String,
    pub(in crate::client) port: u16,
}

impl Endpoint {
    /// Resolves the host to addresses, in the system's order of preference (RFC 6724). This
    /// is the only place where a name is resolved.
    ///
    /// # Errors
    /// A message for the user.
    pub(super) async fn resolve(&self) -> Result<Vec<SocketAddr>, String> {
        if self.host.contains('%') {
            let address: ScopedIp = self.host.parse()?;
            return Ok(vec![address.with_port(self.port)]);
        }
        if let Some(addresses) = loopback_addresses(&self.host, self.port) {
            return Ok(addresses);
        }
        let lookup = lookup_host((self.host.as_str(), self.port));
        match timeout(LOOKUP_TIMEOUT, lookup).await {
            Ok(Ok(addresses)) => Ok(addresses.collect()),
            Ok(Err(error)) => Err(lookup_problem(&error).to_owned()),
            Err(_) => Err("the name lookup timed out".to_owned()),
        }
    }

    /// Returns the host without the zone of a link-local address, which is only valid on
    /// this machine.
    pub(super) fn host_without_zone(&self) -> &str {
        match self.host.split_once('%') {
            Some((ip, _)) if ip.parse::<IpAddr>().is_ok() => ip,
            _ => &self.host,
        }
    }
}

/// Explains an error of `getaddrinfo`, whose reasons the standard library distinguishes
/// only by text.
fn lookup_problem(error: &io::Error) -> &'static str {
    if error.to_string().contains("Temporary failure") {
        "the name cannot be looked up now (no network, or no name server?)"
    } else {
        "no such host; check the spelling of its name"
    }
}

impl Address {
    /// Returns the endpoint, with `port` if the address has none.
    pub(in crate::client) fn with_default_port(&self, port: u16) -> Endpoint {
        Endpoint { host: self.host.clone(), port: self.port.unwrap_or(port) }
    }

    pub(in crate::client) fn drop_port(&mut self) {
        self.port = None;
    }
}

/// Returns the loopback addresses for `localhost` and names under it; `None` for other
/// names. They are not looked up (RFC 6761, section 6.3), because `/etc/hosts` may be
/// missing.
fn loopback_addresses(host: &str, port: u16) -> Option<Vec<SocketAddr>> {
    let name = host.strip_suffix('.').unwrap_or(host);
    let top = name.rsplit('.').next().unwrap_or(name);
    let is_local = top.eq_ignore_ascii_case("localhost");
    is_local.then(|| vec![(Ipv6Addr::LOCALHOST, port).into(), (Ipv4Addr::LOCALHOST, port).into()])
}

/// Returns an address as written, without its port.
pub(super) fn without_port(text: &str) -> &str {
    match text.rsplit_once(':') {
        // The last group of a bare IPv6 address is not a port.
        Some((host, _)) if host.ends_with(']') || !host.contains(':') => host,
        _ => text,
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) =
                rest.split_once(']').ok_or("an address that begins with [ must end with ]")?;
            match rest {
                "" => (host, None),
                rest => (host, Some(rest.strip_prefix(':').ok_or("only :PORT may follow ]")?)),
            }
        } else if text.matches(':').count() > 1 {
            // A bare IPv6 address: its last group is not a port.
            (text, None)
        } else {
            text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)))
        };
        let is_word = |c: char| !c.is_whitespace() && !c.is_control() && c != '/';
        if host.is_empty() || !host.chars().all(is_word) {
            return Err("HOST must be a name or an address, e.g. chat.example.org:5555".to_owned());
        }
        let port = port.map(|port| match port.parse() {
            Ok(0) | Err(_) => Err(format!("\"{port}\" is not a port (1 to 65535)")),
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
    fn address_is_parsed_with_and_without_port_and_brackets() {
        for (text, shown) in [
            ("localhost", "localhost:5555"),
            ("localhost:6000", "localhost:6000"),
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("::1", "[::1]:5555"),
            ("[::1]", "[::1]:5555"),
            ("[::1]:6000", "[::1]:6000"),
            ("fe80::1%lo", "[fe80::1%lo]:5555"),
            ("[fe80::1%lo]:6000", "[fe80::1%lo]:6000"),
        ] {
            let address: Address = text.parse().expect(text);
            assert_eq!(address.with_default_port(5555).to_string(), shown);
        }
        for bad in ["", ":5555", "host:", "host:x", "host:0", "host:99999", "[::1", "[::1]6", "a b"]
        {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn scoped_address_is_resolved_without_name_lookup() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let resolve = |text: &str| {
            let endpoint = text.parse::<Address>().expect(text).with_default_port(5555);
            runtime.block_on(endpoint.resolve())
        };
        let found = resolve("[fe80::1%lo]:6000").expect("an address");
        assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), ["[fe80::1%1]:6000"]);
        assert!(resolve("fe80::1%nosuch").unwrap_err().contains("no network interface \"nosuch\""));
        assert!(resolve("x%lo").unwrap_err().contains("invalid IP address"));
    }
}
