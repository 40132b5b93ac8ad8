//! See [`nkv_fuzz::targets::token`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nkv_fuzz::targets::token(bytes));
