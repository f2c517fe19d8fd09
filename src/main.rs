//! chatty's command line.
fn main() {}
