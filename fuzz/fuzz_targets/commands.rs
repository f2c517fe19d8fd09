//! A line to a command: what is read is written again.
#![no_main]
#![allow(dead_code)] // each target checks one thing

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/it/any_input/checks.rs"]
mod checks;

fuzz_target!(|line: &str| checks::check_command(line));
