//! IP addresses with the zone of a link-local IPv6 address: `fe80::1%eth0`, or `fe80::1%2`
//! by the number of the interface (RFC 4007). This module does not resolve host names.

use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV6, ToSocketAddrs as _};
use std::str::FromStr;

/// An IP address and, for IPv6, its network interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScopedIp {
    /// The address, without its zone.
    pub ip: IpAddr,
    /// The number of the interface; 0 if none was given.
    scope: u32,
}

impl ScopedIp {
    /// Returns the socket address with a port.
    #[must_use]
    pub fn with_port(self, port: u16) -> SocketAddr {
        match self.ip {
            IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, self.scope).into(),
            ip @ IpAddr::V4(_) => SocketAddr::new(ip, port),
        }
    }
}

impl From<IpAddr> for ScopedIp {
    fn from(ip: IpAddr) -> Self {
        Self { ip, scope: 0 }
    }
}

impl fmt::Display for ScopedIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip.fmt(f)?;
        if self.scope == 0 { Ok(()) } else { write!(f, "%{}", self.scope) }
    }
}

impl FromStr for ScopedIp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let invalid =
            || format!("invalid IP address \"{text}\": use one like 0.0.0.0, :: or fe80::1%eth0");
        let Some((ip, zone)) = text.split_once('%') else {
            return text.parse::<IpAddr>().map(Self::from).map_err(|_| invalid());
        };
        let ip = IpAddr::V6(ip.parse().map_err(|_| invalid())?);
        let scope = interface_number(zone)
            .ok_or_else(|| format!("this machine has no network interface \"{zone}\""))?;
        Ok(Self { ip, scope })
    }
}

/// Returns the number of an interface given by name or number.
fn interface_number(zone: &str) -> Option<u32> {
    if zone.bytes().all(|byte| byte.is_ascii_digit()) {
        return zone.parse().ok().filter(|&number| number != 0);
    }
    // The resolver looks up the interface as part of the address, without a DNS query.
    match (format!("fe80::%{zone}").as_str(), 0).to_socket_addrs().ok()?.next()? {
        SocketAddr::V6(address) => Some(address.scope_id()).filter(|&number| number != 0),
        SocketAddr::V4(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zone_is_the_name_or_number_of_an_interface() {
        for (text, socket) in [
            ("127.0.0.1", "127.0.0.1:5"),
            ("::", "[::]:5"),
            ("fe80::1", "[fe80::1]:5"),
            ("fe80::1%1", "[fe80::1%1]:5"),
            ("fe80::1%lo", "[fe80::1%1]:5"),
            ("::1%lo", "[::1%1]:5"),
        ] {
            let address: ScopedIp = text.parse().expect(text);
            assert_eq!(address.with_port(5).to_string(), socket, "{text}");
            assert_eq!(address.to_string().parse(), Ok(address), "{text}");
        }
        for (text, problem) in [
            ("nowhere", "invalid IP address"),
            ("", "invalid IP address"),
            ("127.0.0.1%lo", "invalid IP address"),
            ("fe80::1%", "no network interface \"\""),
            ("fe80::1%0", "no network interface \"0\""),
            ("fe80::1%nosuch", "no network interface \"nosuch\""),
            ("fe80::1%99999999999", "no network interface"),
        ] {
            let found = text.parse::<ScopedIp>().expect_err(text);
            assert!(found.contains(problem), "{text}: {found}");
        }
    }
}
