//! The arguments of `chatty serve`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use clap::Args;

use super::limits::Limits;
use super::net::tls::TlsArgs;
use super::store::options::StorageArgs;
use crate::protocol::DEFAULT_PORT;
use crate::scoped_ip::ScopedIp;

/// The options of `chatty serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Address to listen on; repeatable
    ///
    /// By default only this machine can connect. 0.0.0.0 means every IPv4 address of this machine,
    /// and :: every IPv4 and IPv6 address. A link-local address needs its interface:
    /// `fe80::1%eth0`.
    #[arg(
        help_heading = "Network",
        long,
        value_name = "ADDR",
        default_values_t = [
            ScopedIp::from(IpAddr::from(Ipv4Addr::LOCALHOST)),
            ScopedIp::from(IpAddr::from(Ipv6Addr::LOCALHOST)),
        ],
        env = "CHATTY_BIND",
        value_delimiter = ','
    )]
    pub(super) bind: Vec<ScopedIp>,

    /// Port to listen on; 0 picks a free port and prints it
    #[arg(help_heading = "Network", long, short, default_value_t = DEFAULT_PORT)]
    #[arg(env = "CHATTY_PORT")]
    pub(super) port: u16,

    #[command(flatten)]
    pub(super) storage: StorageArgs,

    #[command(flatten)]
    pub(super) tls: TlsArgs,

    #[command(flatten)]
    pub(super) limits: Limits,
}
