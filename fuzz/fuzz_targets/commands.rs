//! Parsing of commands: a parsed command that is written and parsed again is the same.
#![no_main]
#![allow(dead_code)] // each target checks one thing

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/it/any_input/checks.rs"]
mod checks;
#[path = "../../tests/support/hub_driver.rs"]
mod hub_driver;

fuzz_target!(|line: &str| checks::check_command(line));
