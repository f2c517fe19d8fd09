//! Parsing of events: a parsed event that is encoded and parsed again is the same.
#![no_main]
#![allow(dead_code)] // each target checks one thing

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/it/any_input/checks.rs"]
mod checks;
#[path = "../../tests/support/hub_driver.rs"]
mod hub_driver;

fuzz_target!(|line: &str| checks::check_event(line));
