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
