//! The remote end of a connection: address, encryption, and networks of addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// The remote end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The remote address; IPv4-mapped IPv6 addresses are converted to IPv4.
    pub address: IpAddr,
    /// Whether the connection is encrypted.
    pub is_encrypted: bool,
}

impl Peer {
    /// Creates a peer with this address on an unencrypted connection.
    #[must_use]
    pub fn new(address: IpAddr) -> Self {
        Self { address: address.to_canonical(), is_encrypted: false }
    }

    /// A peer on this machine.
    #[must_use]
    pub fn local() -> Self {
        Self::new(Ipv4Addr::LOCALHOST.into())
    }

    /// Returns whether the peer is on this machine.
    #[must_use]
    pub fn is_local(self) -> bool {
        self.address.is_loopback()
    }

    /// Returns whether nothing between the two ends can read the traffic.
    #[must_use]
    pub fn is_private(self) -> bool {
        self.is_encrypted || self.is_local()
    }

    /// Returns the networks that the peer is in and that may belong to one customer, the
    /// narrowest first: IPv6 /64, /56 and /48; an IPv4 address and, twice, its /24.
    #[must_use]
    pub fn networks(self) -> [Network; 3] {
        let bits = if self.address.is_ipv4() { [32, 24, 24] } else { [64, 56, 48] };
        bits.map(|bits| Network::new(self.address, bits))
    }

    /// Returns the smallest network that belongs to one customer: an IPv4 address, or an IPv6
    /// /64, within which a host can choose its addresses freely.
    #[must_use]
    pub fn network(self) -> IpAddr {
        match self.address {
            IpAddr::V4(_) => self.address,
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
            }
        }
    }
}

/// A range of addresses with a common prefix (CIDR).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Network {
    /// The remaining bits are zero.
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// Parses `192.0.2.0/24`, or a single address, which means the smallest network that
    /// belongs to one customer ([`Peer::network`]).
    ///
    /// # Errors
    /// A message for the user.
    pub fn parse(text: &str) -> Result<Self, String> {
        let problem = || {
            let examples = "192.0.2.7, 192.0.2.0/24 or 2001:db8::/32";
            format!("\"{text}\" is not an address; use e.g. {examples}")
        };
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse().map_err(|_| problem())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| problem())?;
        let (longest, usual) = if address.is_ipv4() { (32, 32) } else { (128, 64) };
        let bits: u8 = bits.unwrap_or(usual);
        match address.to_canonical() {
            _ if bits > longest => Err(problem()),
            // IPv4-mapped IPv6.
            IpAddr::V4(address) if longest == 128 => {
                let bits = if usual == bits { 128 } else { bits };
                Ok(Self::new(address.into(), bits.checked_sub(96).ok_or_else(problem)?))
            }
            address => Ok(Self::new(address, bits)),
        }
    }

    fn new(address: IpAddr, bits: u8) -> Self {
        Self { address: masked(address, bits), bits }
    }

    /// Returns whether a peer's address is in this network.
    #[must_use]
    pub fn contains(self, peer: Peer) -> bool {
        peer.address.is_ipv4() == self.address.is_ipv4()
            && masked(peer.address, self.bits) == self.address
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { address: IpAddr::V4(address), bits: 32 } => write!(f, "{address}"),
            Self { address, bits } => write!(f, "{address}/{bits}"),
        }
    }
}

/// Returns the first `bits` bits of an address, followed by zeros.
fn masked(address: IpAddr, bits: u8) -> IpAddr {
    let dropped = |longest: u32| longest.saturating_sub(bits.into());
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(dropped(32)).unwrap_or(0);
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(dropped(128)).unwrap_or(0);
            IpAddr::V6((address.to_bits() & mask).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_is_parsed_displayed_and_contains_its_addresses() {
        let peer = |address: &str| Peer::new(address.parse().unwrap());
        for (text, shown, inside, outside) in [
            ("192.0.2.7", "192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("192.0.2.7/24", "192.0.2.0/24", "192.0.2.200", "192.0.3.7"),
            ("192.0.2.7/31", "192.0.2.6/31", "192.0.2.6", "192.0.2.8"),
            ("0.0.0.0/0", "0.0.0.0/0", "203.0.113.9", "::1"),
            ("::ffff:192.0.2.7", "192.0.2.7", "::ffff:192.0.2.7", "192.0.2.6"),
            ("::ffff:192.0.2.7/120", "192.0.2.0/24", "192.0.2.200", "192.0.3.7"),
            ("2001:db8:1:2:3::4", "2001:db8:1:2::/64", "2001:db8:1:2:9::9", "2001:db8:1:3::"),
            ("2001:db8::/32", "2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::1/128", "::1/128", "::1", "::2"),
            ("::/0", "::/0", "2001:db8::", "192.0.2.7"),
        ] {
            let network = Network::parse(text).unwrap();
            assert_eq!(network.to_string(), shown);
            assert_eq!(Network::parse(shown), Ok(network));
            assert!(network.contains(peer(inside)), "{inside} is in {text}");
            assert!(!network.contains(peer(outside)), "{outside} is not in {text}");
        }
        for bad in [
            "",
            "bob",
            "192.0.2",
            "192.0.2.0/33",
            "192.0.2.0/",
            "::/129",
            "::ffff:1.2.3.4/95",
            "1/8/9",
        ] {
            assert!(Network::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn host_is_an_ipv4_address_or_an_ipv6_64_network() {
        let peer = |address: &str| Peer::new(address.parse().unwrap());
        for (address, network, is_private) in [
            ("127.0.0.1", "127.0.0.1", true),
            ("::1", "::", true),
            ("::ffff:127.0.0.2", "127.0.0.2", true),
            ("::ffff:192.0.2.7", "192.0.2.7", false),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::", false),
        ] {
            assert_eq!(peer(address).network().to_string(), network);
            assert_eq!(peer(address).is_private(), is_private, "{address}");
            assert_eq!(peer(address).is_local(), is_private, "{address}");
            let encrypted = Peer { is_encrypted: true, ..peer(address) };
            assert!(encrypted.is_private(), "{address}");
            assert_eq!(encrypted.is_local(), is_private, "{address}");
        }
    }
}
