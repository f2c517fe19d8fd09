//! Decoding of bytes to lines: the result does not depend on how the bytes are split.
#![no_main]
#![allow(dead_code)] // each target checks one thing

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/it/any_input/checks.rs"]
mod checks;
#[path = "../../tests/support/hub_driver.rs"]
mod hub_driver;

fuzz_target!(|input: (u8, &[u8])| checks::check_decoder(input.1, input.0.into()));
