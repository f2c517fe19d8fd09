//! Who is at the other end of a connection, as far as the network tells.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Where it comes from; IPv4 as such, also where it came in over IPv6.
    pub address: IpAddr,
    /// Whether what is said is encrypted on its way.
    pub is_encrypted: bool,
}

impl Peer {
    /// The other end at this address, as far as it is known to begin with.
    #[must_use]
    pub fn new(address: IpAddr) -> Self {
        Self { address: address.to_canonical(), is_encrypted: false }
    }

    /// Whether it is on this machine.
    #[must_use]
    pub fn is_local(self) -> bool {
        self.address.is_loopback()
    }

    /// Whether nobody between the two ends can read along.
    #[must_use]
    pub fn is_private(self) -> bool {
        self.is_encrypted || self.is_local()
    }

    /// The smallest network that is one customer's: an IPv4 address, or the /64
    /// that an IPv6 host may take any address of.
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

/// All addresses that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The rest of its bits are zero.
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// Reads `192.0.2.0/24` or an address alone, which means the smallest network
    /// that is one customer's ([`Peer::network`]).
    ///
    /// # Errors
    /// A sentence for the person who wrote it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let problem =
            || format!("\"{text}\" is no address; write 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32");
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse().map_err(|_| problem())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| problem())?;
        let (longest, usual) = if address.is_ipv4() { (32, 32) } else { (128, 64) };
        let bits: u8 = bits.unwrap_or(usual);
        match address.to_canonical() {
            _ if bits > longest => Err(problem()),
            // IPv4 written as IPv6.
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

    /// Whether somebody comes from there.
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

/// The first bits of an address, and zeros.
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
    fn a_network_is_read_written_and_holds_its_addresses() {
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
    fn a_host_is_an_ipv4_address_or_an_ipv6_network() {
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
