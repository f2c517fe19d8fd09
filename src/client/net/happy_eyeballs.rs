//! Opens the TCP connection. The addresses of a host are raced (Happy Eyeballs, RFC 8305),
//! so that an address without an answer costs 250 ms and not a timeout. It does not know
//! what is sent over the connection.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::address::Endpoint;

/// The delay before the next address is tried in parallel: the Connection Attempt Delay of
/// RFC 8305.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// The timeout of all attempts together. A host that drops packets would otherwise block
/// for minutes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to the address of the endpoint that answers first.
///
/// # Errors
/// A message for the user.
pub(super) async fn connect_fastest(endpoint: &Endpoint) -> Result<TcpStream, String> {
    let addresses = interleave(endpoint.resolve().await?);
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    race(addresses, ATTEMPT_DELAY, deadline, connect).await.map_err(|error| match error {
        None => "the name has no address".to_owned(),
        Some(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            format!("connection refused (is \"chatty serve --port {}\" running?)", endpoint.port)
        }
        Some(error) if error.kind() == io::ErrorKind::TimedOut => {
            "no answer in time (a firewall, or the wrong host?)".to_owned()
        }
        Some(error) if lacks_zone(endpoint, &error) => {
            format!("a link-local address needs its interface, e.g. {}%eth0", endpoint.host)
        }
        Some(error) => error.to_string(),
    })
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // A client that retries a free local port may connect to itself (TCP simultaneous
    // open): both ends then have the same address.
    if stream.local_addr().ok() == stream.peer_addr().ok() {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(stream)
}

/// Whether a link-local address lacks its interface, which the system reports as an invalid
/// argument.
fn lacks_zone(endpoint: &Endpoint, error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidInput
        && endpoint.host.parse::<std::net::Ipv6Addr>().is_ok_and(|ip| ip.is_unicast_link_local())
}

/// Deduplicates the addresses and alternates between the two families, starting with the
/// family of the first address: an unreachable family then costs one delay, regardless of
/// its number of addresses.
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let mut known = Vec::new();
    for address in addresses {
        if !known.contains(&address) {
            known.push(address);
        }
    }
    let is_v6 = known.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        known.into_iter().partition(|address| address.is_ipv6() == is_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut mixed = Vec::new();
    loop {
        let pair = [first.next(), second.next()];
        if pair == [None, None] {
            return mixed;
        }
        mixed.extend(pair.into_iter().flatten());
    }
}

/// Starts an attempt per address, each after a delay or as soon as an earlier attempt
/// fails. The first connection wins; the other attempts are cancelled.
///
/// # Errors
/// The most informative failure (see [`rank`]); `None` without any address.
async fn race<T, F>(
    addresses: Vec<SocketAddr>,
    delay: Duration,
    deadline: Instant,
    connect: impl Fn(SocketAddr) -> F,
) -> Result<T, Option<io::Error>>
where
    T: Send + 'static,
    F: Future<Output = io::Result<T>> + Send + 'static,
{
    let mut waiting = addresses.into_iter();
    let mut attempts = JoinSet::new();
    let mut failure: Option<io::Error> = None;
    let mut note = |error: io::Error| {
        if failure.as_ref().is_none_or(|known| rank(&error) > rank(known)) {
            failure = Some(error);
        }
    };
    loop {
        if let Some(address) = waiting.next() {
            attempts.spawn(connect(address));
        } else if attempts.is_empty() {
            return Err(failure);
        }
        tokio::select! {
            Some(ended) = attempts.join_next() => match ended {
                Ok(Ok(connected)) => return Ok(connected),
                Ok(Err(error)) => note(error),
                Err(panicked) => note(io::Error::other(panicked)),
            },
            () = sleep(delay), if waiting.len() > 0 => {}
            () = sleep_until(deadline) => {
                note(io::ErrorKind::TimedOut.into());
                return Err(failure);
            }
        }
    }
}

/// Ranks how informative a failure is: an answer of the host ranks above a timeout, and a
/// timeout above a missing route (as without IPv6).
fn rank(error: &io::Error) -> u8 {
    use io::ErrorKind as K;
    match error.kind() {
        K::ConnectionRefused => 4,
        K::TimedOut => 2,
        K::HostUnreachable => 1,
        K::NetworkUnreachable | K::AddrNotAvailable | K::Unsupported => 0,
        _ if error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT) => 0,
        _ => 3,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// The outcome of an attempt; the port of the address selects it.
    #[derive(Clone, Copy)]
    enum Fate {
        Connects,
        Fails(io::ErrorKind),
        Hangs,
    }

    /// Races addresses with these outcomes. Returns the winner or the failure, and the
    /// order of the attempts.
    fn raced(
        fates: &[Fate],
        delay: Duration,
        deadline: Duration,
    ) -> (Result<u16, String>, Vec<u16>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let tried = Arc::new(Mutex::new(Vec::new()));
        let addresses = (0..fates.len()).map(|at| address(&format!("127.0.0.1:{}", at + 1)));
        let (all, order) = (fates.to_vec(), tried.clone());
        let connect = move |address: SocketAddr| {
            order.lock().unwrap().push(address.port());
            let fate = all[usize::from(address.port()) - 1];
            async move {
                match fate {
                    Fate::Connects => Ok(address.port()),
                    Fate::Fails(kind) => Err(kind.into()),
                    Fate::Hangs => std::future::pending().await,
                }
            }
        };
        let addresses = addresses.collect();
        let won = runtime
            .block_on(async { race(addresses, delay, Instant::now() + deadline, connect).await });
        let won = won.map_err(|error| format!("{:?}", error.map(|error| error.kind())));
        let order = tried.lock().unwrap().clone();
        (won, order)
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().expect(text)
    }

    const LONG: Duration = Duration::from_mins(1);
    const SHORT: Duration = Duration::from_millis(5);

    #[test]
    fn silent_address_costs_a_delay_and_failed_address_costs_nothing() {
        use Fate::{Connects, Fails, Hangs};
        use io::ErrorKind::{ConnectionRefused, NetworkUnreachable};
        // No delay if the first address answers or fails.
        assert_eq!(raced(&[Connects, Hangs], LONG, LONG), (Ok(1), vec![1]));
        let fates = [Fails(NetworkUnreachable), Fails(ConnectionRefused), Connects, Hangs];
        assert_eq!(raced(&fates, LONG, LONG), (Ok(3), vec![1, 2, 3]));
        assert_eq!(raced(&[Hangs, Hangs, Connects], SHORT, LONG), (Ok(3), vec![1, 2, 3]));
        assert_eq!(raced(&[Hangs, Fails(ConnectionRefused), Connects], SHORT, LONG).0, Ok(3));
    }

    #[test]
    fn most_informative_failure_is_returned() {
        use Fate::{Fails, Hangs};
        use io::ErrorKind as K;
        for (fates, expected) in [
            (&[][..], "None"),
            (
                &[Fails(K::NetworkUnreachable), Fails(K::ConnectionRefused)],
                "Some(ConnectionRefused)",
            ),
            (
                &[Fails(K::ConnectionRefused), Fails(K::NetworkUnreachable)],
                "Some(ConnectionRefused)",
            ),
            (&[Fails(K::ConnectionRefused), Hangs], "Some(ConnectionRefused)"),
            (&[Fails(K::NetworkUnreachable), Hangs], "Some(TimedOut)"),
            (&[Fails(K::HostUnreachable), Fails(K::PermissionDenied)], "Some(PermissionDenied)"),
            (&[Hangs, Hangs], "Some(TimedOut)"),
        ] {
            assert_eq!(raced(fates, SHORT, 40 * SHORT).0, Err(expected.to_owned()));
        }
    }

    #[test]
    fn address_families_alternate() {
        let mixed = |addresses: &[&str]| {
            let addresses = addresses.iter().map(|text| address(text)).collect();
            interleave(addresses).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(mixed(&[]), [""; 0]);
        let six = ["[::1]:1", "[::2]:1", "[::1]:1", "[::3]:1", "1.1.1.1:1", "2.2.2.2:1"];
        assert_eq!(mixed(&six), ["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1"]);
        let four = ["1.1.1.1:1", "2.2.2.2:1", "[::1]:1"];
        assert_eq!(mixed(&four), ["1.1.1.1:1", "[::1]:1", "2.2.2.2:1"]);
    }
}
