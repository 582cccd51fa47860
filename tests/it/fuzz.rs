//! Does again what the fuzz programs of `tests/fuzz` once found, and refuses what is made to break a compiler.

#[expect(unreachable_pub, reason = "the programs of `tests/fuzz` use it, too")]
mod drive;

use std::fs;
use std::time::{Duration, Instant};

use drive::{TARGETS, unpack};

/// How long an input may take, on a busy machine and without optimisation. A thousandth is usual; what takes this long
/// grows faster than it should.
const BUDGET: Duration = Duration::from_secs(5);

/// Each input reached something that no other did. `tests/fuzz/README.md` says how they are found and kept.
#[test]
fn what_was_found_by_chance_breaks_nothing_and_takes_no_time() {
    let mut slow = Vec::new();
    for (target, drive) in TARGETS {
        let packed = fs::read(format!("tests/fixtures/fuzz/{target}.corpus")).unwrap();
        let inputs = unpack(&packed);
        assert!(inputs.len() > 100, "{target} has kept {} inputs", inputs.len());
        for (n, input) in inputs.iter().enumerate() {
            let started = Instant::now();
            drive(input);
            if started.elapsed() > BUDGET {
                slow.push(format!("{target} #{n}: {}", String::from_utf8_lossy(input)));
            }
        }
    }
    assert!(slow.is_empty(), "{}", slow.join("\n\n"));
}

/// The smallest inputs that show what the programs found.
#[test]
fn what_once_broke_something_is_told_at_its_place() {
    let found: [(drive::Drive, &str); 3] = [
        // The place of a pasted quote in a key on two lines was counted in its value, and cut a character.
        (drive::reader, "--- chat.yaml\n{l\n  \u{2019}: x}"),
        // The engine's compiler panicked.
        (drive::template, "{% import '_macros/a.md' as 0 %}"),
        // A block that names nothing ended before it began.
        (drive::template, "{% set %}x{% endset %}"),
    ];
    for (drive, input) in found {
        drive(input.as_bytes());
    }
}
