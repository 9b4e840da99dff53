#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| wgfuse_fuzz::texts(data));
