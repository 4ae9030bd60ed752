#![no_main]

#[path = "../properties/forwarded_for.rs"]
mod property;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| property::holds(bytes));
