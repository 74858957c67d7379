//! Runs the property `decode` on what libFuzzer makes up.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| logferry_fuzz::decode(data));
