//! Fills the working corpora of the fuzz programs, and keeps what they found. Runs in this folder.
//!
//! ```text
//! corpus seed    writes corpus/TARGET from the fixtures and from what was kept, and words.dict
//! corpus keep    packs corpus/TARGET into ../fixtures/fuzz/TARGET.corpus, smallest inputs first
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use graphloom_fuzz::drive::{TARGETS, unpack};
use graphloom_fuzz::words::WORDS;

/// The most bytes that are kept for one program.
const KEPT: usize = 600 * 1024;

fn main() -> io::Result<ExitCode> {
    match std::env::args().nth(1).as_deref() {
        Some("seed") => seed()?,
        Some("keep") => keep()?,
        _ => {
            eprintln!("usage: corpus seed | keep");
            return Ok(ExitCode::from(2));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn kept(target: &str) -> PathBuf {
    Path::new("../fixtures/fuzz").join(format!("{target}.corpus"))
}

fn keep() -> io::Result<()> {
    fs::create_dir_all("../fixtures/fuzz")?;
    for (target, _) in TARGETS {
        let mut inputs = Vec::new();
        for entry in fs::read_dir(Path::new("corpus").join(target))? {
            inputs.push(fs::read(entry?.path())?);
        }
        inputs.sort_by(|a, b| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
        let found = inputs.len();
        let mut bytes = 0;
        inputs.retain(|input| {
            bytes += input.len();
            bytes <= KEPT
        });
        println!("{target}: {} of {found} inputs", inputs.len());
        fs::write(kept(target), pack(&inputs))?;
    }
    Ok(())
}

fn seed() -> io::Result<()> {
    let mut projects: Vec<Vec<(String, String)>> = Vec::new();
    let mut roots = vec![PathBuf::from("../../graphs")];
    for folder in ["../fixtures/valid", "../fixtures/invalid"] {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            roots.push(if path.join("graphs").is_dir() { path.join("graphs") } else { path });
        }
    }
    for root in &roots {
        let mut files = Vec::new();
        collect(root, root, &mut files)?;
        projects.push(files);
    }
    for folder in ["../fixtures/corpus", "../fixtures/corpus/mended"] {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_file() {
                projects.extend(cases(&fs::read_to_string(path)?));
            }
        }
    }
    let files: BTreeSet<&(String, String)> = projects.iter().flatten().collect();
    let texts: BTreeSet<&str> = files.iter().flat_map(|(path, text)| texts(path, text)).collect();
    let reader = files.iter().map(|file| input([*file]));
    let compiler = projects.iter().map(input);
    let partial = "\n--- _partials/a.md\n{{ state.text }}{% macro m(x) %}{{ x }}{% endmacro %}";
    let template = texts.iter().flat_map(|text| [(*text).to_owned(), format!("{text}{partial}")]);
    write("reader", reader)?;
    write("compiler", compiler)?;
    write("template", template)?;
    let escaped = |word: &String| -> String {
        let plain = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\' || b == b' ';
        word.bytes()
            .map(|b| if plain(b) { char::from(b).to_string() } else { format!("\\x{b:02X}") })
            .collect()
    };
    let words: String = WORDS.iter().map(|word| format!("\"{}\"\n", escaped(word))).collect();
    fs::write("words.dict", words)
}

/// Takes the texts of a folder, by their paths from its root.
fn collect(root: &Path, folder: &Path, files: &mut Vec<(String, String)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(root, &path, files)?;
        } else if let (Ok(name), Ok(text)) = (path.strip_prefix(root), fs::read_to_string(&path)) {
            files.push((name.display().to_string(), text));
        }
    }
    files.sort();
    Ok(())
}

/// Reads the cases of a file of the corpus of slips.
fn cases(text: &str) -> Vec<Vec<(String, String)>> {
    let case = |case: &str| {
        let parts = case.split("\n--- ").skip(1).filter_map(|part| part.split_once('\n'));
        parts
            .filter_map(|(path, text)| Some((path.strip_prefix("graphs/")?.to_owned(), format!("{text}\n"))))
            .collect()
    };
    text.split("=== ").skip(1).map(case).collect()
}

/// Finds expressions and templates: prompts, and the values of YAML that read something.
fn texts<'t>(path: &str, text: &'t str) -> Vec<&'t str> {
    if path.ends_with(".md") {
        return vec![text];
    }
    let values = text.lines().filter_map(|line| line.split_once(": "));
    let values = values.map(|(_, value)| value.trim().trim_matches(['"', '\'']));
    values
        .filter(|value| {
            ["state.", "input.", "{{", "{%", "item", "result"].iter().any(|sign| value.contains(sign))
        })
        .collect()
}

fn input<'f>(files: impl IntoIterator<Item = &'f (String, String)>) -> String {
    files
        .into_iter()
        .map(|(path, text)| format!("--- {path}\n{text}{}", if text.ends_with('\n') { "" } else { "\n" }))
        .collect()
}

fn write(target: &str, seeds: impl Iterator<Item = String>) -> io::Result<()> {
    let folder = Path::new("corpus").join(target);
    fs::create_dir_all(&folder)?;
    let seeds = seeds.map(String::into_bytes);
    let kept = fs::read(kept(target)).map(|packed| unpack(&packed)).unwrap_or_default();
    for (n, seed) in seeds.chain(kept).enumerate() {
        fs::write(folder.join(format!("seed-{n:04}")), seed)?;
    }
    Ok(())
}

/// Puts inputs into one file, as `unpack` takes it apart.
fn pack(inputs: &[Vec<u8>]) -> Vec<u8> {
    let entry = |input: &Vec<u8>| [format!("@ {}\n", input.len()).as_bytes(), input, b"\n"].concat();
    inputs.iter().flat_map(entry).collect()
}
