//! See [`nkv_fuzz::targets::options`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nkv_fuzz::targets::options(bytes));
