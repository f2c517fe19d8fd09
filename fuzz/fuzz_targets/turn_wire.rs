//! Decoding of turns: any bytes are refused, or are turns that are the same when they are encoded
//! and decoded again.
#![no_main]
#![allow(dead_code)] // each target checks one thing

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/it/any_input/checks.rs"]
mod checks;
#[path = "../../tests/support/hub_driver.rs"]
mod hub_driver;

fuzz_target!(|bytes: &[u8]| checks::relay::check_turns(bytes));
