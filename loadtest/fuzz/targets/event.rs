//! Runs the property `event` on libFuzzer's inputs.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| logferry_fuzz::event(data));
