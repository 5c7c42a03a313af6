//! One target of `postern_chaos::fuzz`, which `POSTERN_FUZZ_TARGET` names, under libFuzzer.
#![no_main]

use std::sync::LazyLock;

use postern_chaos::fuzz::Target;

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("POSTERN_FUZZ_TARGET").expect("POSTERN_FUZZ_TARGET names a target");
    Target::ALL.into_iter().find(|target| target.name() == name).expect("a target of postern_chaos::fuzz")
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET.run(data));
