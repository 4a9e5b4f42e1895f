//! A fixed number of inputs for the body of each fuzz target, the same on every machine.

use std::panic::{AssertUnwindSafe, catch_unwind};

use damage_cases::Random;
use damage_cases::fuzz::TARGETS;

/// How many inputs each target gets.
const CASES: u64 = 20_000;

/// Bytes of every length up to a few steps of a script; a share of them text that looks like a key.
fn input(target: &str, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let len = match random.below(4) {
        0 => random.below(16),
        1 => random.below(700),
        _ => random.below(64),
    };
    let mut bytes = vec![0; len];
    random.fill(&mut bytes);
    if target == "key_parse" && random.below(8) > 0 {
        let parts = [
            "/",
            "/state",
            "a",
            ".",
            "..",
            "\0",
            "\n",
            "\u{7f}",
            "\u{85}",
            "ä",
            "日",
            "//",
            "kkkkkkkkkkkkkkkk",
        ];
        let text: String = (0..random.below(40)).map(|_| parts[random.below(parts.len())]).collect();
        return text.into_bytes();
    }
    bytes
}

/// The inputs that are kept: each did something once that no other does, as its name says. `cargo fuzz run TARGET corpus/TARGET seeds/TARGET` begins with them.
#[test]
fn no_target_finds_anything_in_the_inputs_that_are_kept() {
    let seeds = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds");
    let mut count = 0;
    for (name, body) in TARGETS {
        let Ok(files) = std::fs::read_dir(seeds.join(name)) else { continue };
        for file in files {
            let path = file.unwrap().path();
            let data = std::fs::read(&path).unwrap();
            let outcome = catch_unwind(AssertUnwindSafe(|| body(&data)));
            assert!(outcome.is_ok(), "{}", path.display());
            count += 1;
        }
    }
    assert!(count >= 30, "{count} inputs");
}

#[test]
fn no_target_finds_anything_in_a_fixed_number_of_cases() {
    let mut broken = Vec::new();
    for (name, body) in TARGETS {
        for seed in 0..CASES {
            let data = input(name, seed);
            if catch_unwind(AssertUnwindSafe(|| body(&data))).is_err() {
                broken.push(format!("{name}: seed {seed}"));
                break;
            }
        }
        println!("{name}: {CASES} cases");
    }
    assert!(broken.is_empty(), "{broken:?}");
}
