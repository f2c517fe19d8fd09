//! The history of typed lines, for Up and Ctrl-R, stored in a file across runs. It knows nothing
//! of the chat.
//!
//! Each line is written when it is typed, so that a crash loses none. Lines with passwords are
//! not stored. A history that cannot be read or written does not stop the client.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use rustyline::history::History as _;

use super::helper::ChatEditor;
use crate::client::model::submission::is_secret;
use crate::client::text::sanitize::print_error;
use crate::config::base_folder;
use crate::files::check_own;

/// The path of the history file, if the history is persisted.
pub(in crate::client) struct History(Option<PathBuf>);

impl History {
    /// Returns the user's history, or one that is not persisted if `is_persisted` is false or
    /// the file is not the user's own.
    pub(in crate::client) fn new(is_persisted: bool) -> Self {
        Self(base_folder("XDG_STATE_HOME", ".local/state").filter(|_| is_persisted).and_then(
            |home| {
                let folder = home.join("chatty");
                DirBuilder::new().recursive(true).mode(0o700).create(&folder).ok()?;
                let path = folder.join("history");
                // rustyline opens the file by its path, so ownership is checked here.
                match check_own(&path) {
                    Ok(()) => Some(path),
                    Err(problem) => {
                        print_error(&format!("no history: {}: {problem}", path.display()));
                        None
                    }
                }
            },
        ))
    }

    /// Loads the stored lines into the editor. Returns whether the history is persisted but
    /// still empty, which means that the user starts the client for the first time.
    pub(super) fn load(&self, editor: &mut ChatEditor) -> bool {
        let Some(path) = &self.0 else { return false };
        let _ = editor.load_history(path);
        editor.history().is_empty()
    }

    /// Adds a typed text, unless it contains a password.
    pub(super) fn add(&self, editor: &mut ChatEditor, text: &str) {
        if is_secret(text) || !editor.add_history_entry(text).unwrap_or(false) {
            return;
        }
        if let Some(path) = self.0.as_ref().filter(|path| check_own(path).is_ok()) {
            // rustyline creates the file with mode 0600.
            let _ = editor.append_history(path);
        }
    }
}
