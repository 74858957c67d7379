//! Runs the property `formats` on libFuzzer's inputs.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| logferry_fuzz::formats(data));
