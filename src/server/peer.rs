//! Who is at the other end of a connection, as far as the network tells.

use std::net::{IpAddr, Ipv6Addr};

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Where it comes from; IPv4 as such, also where it came in over IPv6.
    pub address: IpAddr,
}

impl Peer {
    /// The other end at this address.
    #[must_use]
    pub fn new(address: IpAddr) -> Self {
        Self { address: address.to_canonical() }
    }

    /// Whether nobody between the two ends can read along.
    #[must_use]
    pub fn is_private(self) -> bool {
        self.address.is_loopback()
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

#[cfg(test)]
mod tests {
    use super::*;

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
        }
    }
}
