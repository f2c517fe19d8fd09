//! File names made of names from the network.

use crate::protocol::DEFAULT_PORT;
use crate::protocol::name::is_name_char;

/// Converts a name to a file name that cannot leave its folder and is not hidden.
pub(in crate::client) fn safe_file_name(name: &str) -> String {
    let safe: String = name.chars().map(|c| if is_name_char(c) { c } else { '_' }).collect();
    match safe.strip_prefix('.') {
        Some(rest) => format!("_{rest}"),
        None => safe,
    }
}

/// Returns the name of the folder for the files of a server.
pub(in crate::client) fn server_folder(host: &str, port: u16) -> String {
    match port {
        DEFAULT_PORT => safe_file_name(host),
        port => safe_file_name(&format!("{host}_{port}")),
    }
}
