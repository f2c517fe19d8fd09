//! Earlier lines: what was typed is there again the next time, for Up and Ctrl-R.
//! Each line is written when it is typed, so that nothing is lost whatever ends the
//! program. What holds a password is in no history. A history that cannot be read
//! or written holds up nobody.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use rustyline::history::History as _;

use super::print_error;
use super::prompt::ChatEditor;
use super::submission::is_secret;
use crate::files::check_own;

/// Where the history is kept, if it is.
pub(super) struct History(Option<PathBuf>);

impl History {
    /// The user's, or none that outlives this visit.
    pub(super) fn new(is_kept: bool) -> Self {
        Self(super::home("XDG_STATE_HOME", ".local/state").filter(|_| is_kept).and_then(|home| {
            let folder = home.join("chatty");
            DirBuilder::new().recursive(true).mode(0o700).create(&folder).ok()?;
            let path = folder.join("history");
            // The editor's library opens it by its name.
            match check_own(&path) {
                Ok(()) => Some(path),
                Err(problem) => {
                    print_error(&format!("no history: {}: {problem}", path.display()));
                    None
                }
            }
        }))
    }

    /// Gives the editor what is kept. Whether there is nothing yet, though it will be
    /// kept: then this is somebody's first visit.
    pub(super) fn load(&self, editor: &mut ChatEditor) -> bool {
        let Some(path) = &self.0 else { return false };
        let _ = editor.load_history(path);
        editor.history().is_empty()
    }

    /// Remembers a text that was typed.
    pub(super) fn add(&self, editor: &mut ChatEditor, text: &str) {
        if is_secret(text) || !editor.add_history_entry(text).unwrap_or(false) {
            return;
        }
        if let Some(path) = self.0.as_ref().filter(|path| check_own(path).is_ok()) {
            // Made by the editor's own library, for its user alone (0600).
            let _ = editor.append_history(path);
        }
    }
}
