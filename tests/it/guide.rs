//! The guide: every file in it is checked, every command runs, every table is what the code knows.

use std::process::Command;

/// `tests/guide/RULES.md` says how blocks are read. `BLESS=1` writes outputs and tables anew; read what changed.
#[test]
fn what_the_guide_shows_is_what_happens() {
    let mut check = Command::new("python3");
    check.arg("tests/guide/check.py").env("GRAPHLOOM", env!("CARGO_BIN_EXE_graphloom"));
    if std::env::var_os("BLESS").is_some() {
        check.arg("--bless");
    }
    let out = check.output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
}
