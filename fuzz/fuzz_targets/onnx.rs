#![no_main]

libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, most: usize, seed: u32| {
    wgfuse_fuzz::mutated(data, size, most, seed)
});
libfuzzer_sys::fuzz_target!(|data: &[u8]| wgfuse_fuzz::onnx(data));
