#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| damage_cases::fuzz::open_read(data));
