#![no_main]

use graphloom_fuzz::{drive, mutate::mutate};
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_mutator!(|data: &mut [u8], size: usize, most: usize, seed: u32| { mutate(data, size, most, seed) });
fuzz_target!(|input: &[u8]| drive::reader(input));
