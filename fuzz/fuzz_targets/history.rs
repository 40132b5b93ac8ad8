//! See [`nkv_fuzz::targets::history`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nkv_fuzz::targets::history(bytes));
