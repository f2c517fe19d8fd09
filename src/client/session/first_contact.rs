//! The question whether to trust a server whose certificate is not known, as ssh asks it.

use crate::client::net::address::Endpoint;
use crate::client::net::connection::{Connection, Unreachable, connect};
use crate::client::net::tls::Tls;
use crate::client::process::question::ask;
use crate::client::text::sanitize::print_error;

/// Connects. If the server is unknown and the policy is to ask, asks and connects again: while the
/// user thinks, the server's time for a login may run out.
pub(in crate::client) async fn connect_or_ask(
    endpoint: &Endpoint,
    tls: Option<&Tls>,
) -> Result<Connection, Unreachable> {
    let problem = match connect(endpoint, tls).await {
        Err(problem) if problem.unknown.is_some() => problem,
        connected => return connected,
    };
    let (Some(tls), Some(presented)) = (tls, problem.unknown) else { return Err(problem) };
    print_error(&format!(
        "{endpoint} is not known. The SHA-256 fingerprint of its certificate is\n{presented}\n\
         The server prints its fingerprint when it starts."
    ));
    let mut question = "Connect? (yes, no or the fingerprint): ";
    loop {
        let answer = ask(question, false).await.unwrap_or_default();
        let answer = answer.trim();
        if answer.eq_ignore_ascii_case("yes") || answer.parse().ok() == Some(presented) {
            tls.accept(endpoint, presented);
            return connect(endpoint, Some(tls)).await;
        }
        if answer.is_empty() || answer.eq_ignore_ascii_case("no") {
            return Err(problem);
        }
        question = "Type yes, no or the fingerprint: ";
    }
}
