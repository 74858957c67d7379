//! Runs the property `route` on libFuzzer's inputs.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| logferry_fuzz::route(data));
