//! Text for a terminal: without control characters, measured in columns, and coloured.

pub(super) mod file_name;
pub(super) mod sanitize;
pub(super) mod sentences;
pub(super) mod theme;
pub(super) mod width;
