//! Runs the property `batch` on libFuzzer's inputs.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| logferry_fuzz::batch(data));
