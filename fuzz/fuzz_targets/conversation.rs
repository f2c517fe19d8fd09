//! A whole conversation with the hub: who comes, goes, says what, and what is kept.
#![no_main]
#![allow(dead_code)] // each target checks one thing

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/it/any_input/checks.rs"]
mod checks;

fuzz_target!(|bytes: &[u8]| checks::check_conversation(bytes));
