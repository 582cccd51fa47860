//! What an author writes, and what is said to it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use graphloom::compile::{Providers, compile, revive};
use graphloom::diagnostic::{Bag, CODES, Span, render_json, render_text};
use graphloom::spec::{Files, Folder, load, load_files};

/// Loads and compiles a folder. Returns what was loaded, the codes of what is found, and the printed text.
fn check(folder: &Path, providers: &Providers) -> (Option<Folder>, Vec<&'static str>, String) {
    let mut bag = Bag::default();
    let loaded = load(folder, &mut bag);
    if let Some(folder) = &loaded {
        compile(folder, providers, &mut bag);
    }
    bag.sort();
    let codes = bag.findings().iter().map(|finding| finding.code).collect();
    (loaded, codes, render_text(&bag, false))
}

/// Loads one graph from memory and returns the codes of what is found.
fn codes_of(graph: &str) -> Vec<String> {
    let mut bag = Bag::default();
    let files = Files::from([("chat.yaml".to_owned(), graph.as_bytes().to_vec())]);
    load_files("", files, &mut bag);
    bag.sort();
    bag.findings().iter().map(|finding| finding.code.to_owned()).collect()
}

fn fixtures() -> Vec<PathBuf> {
    let entries = fs::read_dir("tests/fixtures/invalid").unwrap();
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    folders
}

/// Each folder is a project with one mistake: `CODE-what/graphs`, with the printed message in `expected.txt`.
/// `BLESS=1` writes the messages anew; read them before you keep them.
#[test]
fn each_mistake_is_told_once_at_its_place() {
    let bless = std::env::var_os("BLESS").is_some();
    let providers = Providers::without_secrets().unwrap();
    let without = Providers::lenient(Box::new(|_| None)).unwrap();
    let mut wrong = Vec::new();
    for folder in fixtures() {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let code = name.split('-').next().unwrap();
        let (_, codes, printed) =
            check(&folder.join("graphs"), if code == "M503" { &without } else { &providers });
        let golden = folder.join("expected.txt");
        if codes != [code] {
            wrong.push(format!("{name} gives {codes:?}:\n{printed}"));
        } else if bless {
            fs::write(&golden, &printed).unwrap();
        } else if fs::read_to_string(&golden).unwrap_or_default() != printed {
            wrong.push(format!("{name} gives another text:\n{printed}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_finding_has_a_code_that_is_registered() {
    let mut unknown = Vec::new();
    let mut folders = vec![PathBuf::from("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            for word in
                text.split('"').filter(|word| word.len() == 4 && word.starts_with(|c| "YGSETM".contains(c)))
            {
                let code = word.bytes().skip(1).all(|b| b.is_ascii_digit());
                if code && !CODES.iter().any(|info| info.code == word) {
                    unknown.push(format!("{word} in {}", path.display()));
                }
            }
        }
    }
    assert_eq!(unknown, Vec::<String>::new());
}

/// Takes the files of a section of a code's page: a path alone on a line, then a block.
fn files_of(page: &str, section: &str) -> Files {
    let text = page.split(&format!("\n## {section}\n")).nth(1).unwrap_or_default();
    let text = text.split("\n## ").next().unwrap_or_default();
    let (mut files, mut path, mut block) = (Files::new(), None, None::<String>);
    for line in text.lines() {
        match (&mut block, line) {
            (Some(_), "```") => drop(files.insert(path.take().unwrap(), block.take().unwrap().into_bytes())),
            (Some(block), line) => *block += &format!("{line}\n"),
            (None, line) if line.starts_with("```") => block = Some(String::new()),
            (None, line) => {
                let name = line.strip_prefix('`').and_then(|line| line.strip_suffix('`'));
                path = name.and_then(|name| name.strip_prefix("graphs/")).map(str::to_owned).or(path);
            }
        }
    }
    files
}

/// What `explain` prints is true: the wrong project gives the code and nothing else, the right one nothing.
#[test]
fn the_page_of_a_code_shows_it_and_how_it_is_mended() {
    let providers = Providers::lenient(Box::new(|_| None)).unwrap();
    let codes = |files: Files| {
        // How deep folders are is seen on the disk alone.
        let root = std::env::temp_dir().join(format!("gl_{}", uuid::Uuid::now_v7().simple()));
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let mut bag = Bag::default();
        let folder = load(&root, &mut bag);
        fs::remove_dir_all(&root).ok();
        if let Some(folder) = folder {
            compile(&folder, &providers, &mut bag);
        }
        bag.sort();
        (bag.findings().iter().map(|finding| finding.code).collect::<Vec<_>>(), render_text(&bag, false))
    };
    // It is told of runs that began with other files.
    let of_runs = |page: &str, section: &str| {
        let compiled = |files: Files| {
            let mut bag = Bag::default();
            let folder = load_files("graphs", files, &mut bag);
            compile(&folder, &providers, &mut bag).unwrap()
        };
        let before = compiled(files_of(page, "Before")).graphs.remove("chat").unwrap();
        let today = compiled(files_of(page, section)).project;
        revive(&before.body, "chat", &today, &providers).is_err()
    };
    let mut wrong = Vec::new();
    for info in CODES {
        let head = format!("# {}: {}\n", info.code, info.title);
        if !info.page.starts_with(&head) {
            wrong.push(format!("{}: the page does not begin with {head:?}", info.code));
        }
        for (section, expected) in [("Wrong", vec![info.code]), ("Right", vec![])] {
            let files = files_of(info.page, section);
            let (mut found, printed) = codes(files.clone());
            if info.code == "M515" && of_runs(info.page, section) {
                found.push("M515");
            }
            if files.is_empty() || found != expected {
                wrong.push(format!("{} {section} gives {found:?}:\n{printed}", info.code));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_registered_code_has_a_fixture() {
    // Paused runs need a store: `people` has them.
    let elsewhere = ["M515"];
    let names: Vec<String> =
        fixtures().iter().map(|folder| folder.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    let lacks = |code: &&str| !names.iter().any(|name| name.starts_with(code)) && !elsewhere.contains(code);
    let lacking: Vec<&str> = CODES.iter().map(|info| info.code).filter(lacks).collect();
    assert_eq!(lacking, Vec::<&str>::new());
}

#[test]
fn what_the_language_allows_is_read_without_a_finding() {
    for folder in ["tests/fixtures/valid/language", "graphs"] {
        let mut bag = Bag::default();
        let loaded = load(Path::new(folder), &mut bag).unwrap();
        assert_eq!(render_text(&bag, false), "", "{folder}");
        assert!(loaded.graphs.len() >= 2 && !loaded.prompts.is_empty() && !loaded.partials.is_empty());
        assert!(loaded.graphs.values().all(|graph| graph.nodes.iter().all(|(_, node)| node.is_some())));
    }
}

/// `page` was copied from the page that defines the language, with what its blocks speak of.
#[test]
fn what_the_page_of_the_language_shows_is_sound_and_its_cases_pass() {
    let graphloom = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_graphloom"));
        command.args(["--graphs", "tests/fixtures/valid/page"]).args(arguments);
        let out = command.output().unwrap();
        (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned())
    };
    let (fine, told) = graphloom(&["check", "--no-secrets", "--deny-warnings", "--format", "json"]);
    let report: serde_json::Value = serde_json::from_str(&told).unwrap();
    let codes: Vec<&str> =
        report["findings"].as_array().unwrap().iter().map(|f| f["code"].as_str().unwrap()).collect();
    // Only the host program of the page registers `tickets::open`.
    assert_eq!((fine, codes), (true, vec!["M506"]), "{told}");
    let (fine, told) = graphloom(&["test"]);
    assert!(fine && told.contains("2 cases passed, 0 failed"), "{told}");
}

#[test]
fn all_mistakes_of_all_files_are_found_at_once() {
    let mut bag = Bag::default();
    let files = Files::from([
        ("a.yaml".to_owned(), b"format: 2\nstart: x\nnodes: {x: {kind: sey, next: end}}\n".to_vec()),
        ("b.yaml".to_owned(), b"format: 1\nnodes: {x: {kind: say, next: end}}\n".to_vec()),
        ("project.yaml".to_owned(), b"a: [\n".to_vec()),
    ]);
    load_files("graphs", files, &mut bag);
    bag.sort();
    let found: Vec<String> = bag
        .findings()
        .iter()
        .map(|f| format!("{} {}:{}", f.code, bag.source(f.label.span.file).0, bag.place(f.label.span).line))
        .collect();
    assert_eq!(
        found,
        [
            "G101 graphs/a.yaml:1",
            "G103 graphs/a.yaml:3",
            "G104 graphs/b.yaml:1",
            "G104 graphs/b.yaml:2",
            "Y001 graphs/project.yaml:1",
        ]
    );
    assert_eq!(render_json(&bag)["summary"]["errors"], 5);
}

/// What is wrong in one word hides nothing of what is wrong in another, here and in other files.
#[test]
fn mistakes_that_do_not_follow_from_one_another_are_told_in_one_pass() {
    let project = "format: 1\nmodels: {demo: {provider: demo}, spare: {provider: demo}}\ndefault_model: demo\n\
                   types: {Hit: {id: string}}\n";
    let prompt = "---\ninputs: {messages: messages, hits: {type: [{id: string}], default: []}}\n---\n@system\n\
                  {{ mesages | last_text }}\n{{ hits | uper }}\n{% for hit in hits %}{{ hit.name }}{% endfor %}\n\
                  {{ other }}\n@messages mesages\n@user\n{{ hits }}\n";
    let chat = "format: 1\ninput: {list: [string]}\nstate: {messages: messages, n: {type: integer, default: 0}}\n\
                start: [{when: input.x and state.y and foo and input.list | lenght, to: count}, {else: answer}]\n\
                nodes:\n  count: {kind: set, set: {n: \"'x'\"}, next: tell}\n  \
                tell: {kind: say, text: \"{{ state.n | uper }}{{ state.m }}{{ state.n + 'x' }}\", next: answer}\n  \
                answer: {kind: llm, prompt: answer, reply: true, next: end}\n";
    let test = "format: 1\ntests: chat\ncases: [{name: x, turns: [{user: x, script: {nope: y}, expect: {path: [cuont]}}]}]\n";
    let files = [
        ("project.yaml", project),
        ("chat.yaml", chat),
        ("prompts/answer.md", prompt),
        ("prompts/idle.md", "Be kind.\n"),
        ("tests/chat.test.yaml", test),
    ];
    let files: Files = files.map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec())).into();
    let mut bag = Bag::default();
    let folder = load_files("", files, &mut bag);
    compile(&folder, &PROVIDERS, &mut bag);
    bag.sort();
    let found: Vec<String> = bag
        .findings()
        .iter()
        .map(|f| {
            let (path, source) = bag.source(f.label.span.file);
            format!("{} {path} {}", f.code, &source[f.label.span.start as usize..f.label.span.end as usize])
        })
        .collect();
    assert_eq!(
        found,
        [
            "S401 chat.yaml input.x",
            "S401 chat.yaml state.y",
            "E102 chat.yaml foo",
            "E103 chat.yaml lenght",
            "S403 chat.yaml \"'x'\"",
            "E103 chat.yaml uper",
            "S401 chat.yaml state.m",
            "S403 chat.yaml 'x'",
            "M517 project.yaml spare",
            "M517 project.yaml Hit",
            "T302 prompts/answer.md mesages",
            "E103 prompts/answer.md uper",
            "T302 prompts/answer.md name",
            "T302 prompts/answer.md other",
            "T308 prompts/answer.md hits",
            "T309 prompts/idle.md ",
            "M514 tests/chat.test.yaml nope",
            "M514 tests/chat.test.yaml cuont",
        ],
        "{}",
        render_text(&bag, false)
    );
}

#[test]
fn a_bomb_is_refused() {
    let nested = "[".repeat(10_000);
    let blocks: String = (0..2_000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    let mut aliases = String::from("a: &a [x, x]\n");
    for (from, to) in "abcdefgh".chars().zip("bcdefghi".chars()) {
        aliases += &format!(
            "{to}: &{to} [*{from}, *{from}, *{from}, *{from}, *{from}, *{from}, *{from}, *{from}]\n"
        );
    }
    let keys: String = (0..20_000).map(|n| format!("k{n}: \n")).collect();
    let flow = format!("a: [{}]", "{},".repeat(300_000));
    assert_eq!(codes_of(&flow), ["Y007"]);
    assert_eq!(codes_of(&nested), ["Y007"]);
    assert_eq!(codes_of(&blocks), ["Y007"]);
    assert!(codes_of(&aliases).iter().all(|code| code == "Y005"));
    assert!(codes_of(&keys).iter().all(|code| code.starts_with('G')));
    assert_eq!(codes_of("format: 1\n\0"), ["Y001"]);
    assert_eq!(codes_of(&"x".repeat(1024 * 1024 + 1)), ["Y007"]);
}

/// Each part names the next: what is followed to its end needs a stack as deep as the chain is long.
#[test]
fn a_long_chain_of_types_is_refused_before_it_is_followed_to_its_end() {
    let links = 5_000;
    let graph = |ty: &str| {
        format!(
            "format: 1\nstate: {{messages: messages, a: {{{ty}, optional: true}}}}\nstart: s\nnodes:\n  \
             s: {{kind: say, text: \"{{{{ state.a | tojson }}}}\", next: end}}\nallow: {{S405: x}}\n"
        )
    };
    let def = |n: usize| format!("\"d{n}\": {{\"items\": {{\"$ref\": \"#/$defs/d{}\"}}}}", n + 1);
    let defs: Vec<String> = (0..links).map(def).collect();
    let deep = "{\"items\": ".repeat(100) + "{}" + &"}".repeat(100);
    let chain =
        format!("{{\"$ref\": \"#/$defs/d0\", \"$defs\": {{{}, \"d{links}\": {{}}}}}}", defs.join(", "));
    let types: String = (0..links).map(|n| format!("  T{n}: {{fields: {{a: T{}}}}}\n", n + 1)).collect();
    let types = format!("format: 1\ntypes:\n{types}  T{links}: {{a: string}}\nallow: {{M517: x}}\n");
    for (files, expected) in [
        ([("chat.yaml", graph("schema: schemas/a.json")), ("schemas/a.json", chain)], "S410"),
        ([("chat.yaml", graph("schema: schemas/a.json")), ("schemas/a.json", deep)], "S410"),
        ([("chat.yaml", graph("type: T0")), ("project.yaml", types)], "S409"),
    ] {
        let files: Files = files.map(|(path, text)| (path.to_owned(), text.into_bytes())).into();
        let mut bag = Bag::default();
        let folder = load_files("graphs", files, &mut bag);
        compile(&folder, &PROVIDERS, &mut bag);
        bag.sort();
        let codes: BTreeSet<&str> = bag.findings().iter().map(|finding| finding.code).collect();
        assert_eq!(codes, BTreeSet::from([expected]), "{}", render_text(&bag, false));
    }
}

/// Who writes a project may not open what is not public: that is the operator's word.
#[test]
fn a_private_host_is_called_only_where_the_operator_allows_it() {
    let graph = "format: 1\nstate: {messages: messages, a: any}\nstart: f\nnodes:\n  \
                 f: {kind: http, url: \"http://localhost:8080/x\", into: a, next: s}\n  \
                 s: {kind: say, text: \"{{ state.a | tojson }}\", next: end}\n";
    let project = "format: 1\nhosts: {allow: [\"LOCALHOST.:8080\"]}\n";
    let found = |providers: &Providers| {
        let files = [("chat.yaml", graph), ("project.yaml", project)];
        let files: Files = files.map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec())).into();
        let mut bag = Bag::default();
        let folder = load_files("graphs", files, &mut bag);
        let whole = compile(&folder, providers, &mut bag).is_some();
        bag.sort();
        (whole, render_text(&bag, false))
    };
    let strict = || Providers::new(Box::new(|_| None)).unwrap();
    let (whole, text) = found(&strict());
    assert!(!whole && text.contains("error[M510]: `localhost:8080` is no public host"), "{text}");
    assert!(text.contains("GRAPHLOOM_ALLOW_PRIVATE=localhost:8080"), "{text}");
    let (whole, text) = found(&Providers::lenient(Box::new(|_| None)).unwrap());
    assert!(whole && text.contains("warning[M510]"), "the service may be told other things: {text}");
    let allowed = vec!["localhost:8080".parse().unwrap()];
    assert_eq!(found(&strict().with_private(allowed)), (true, String::new()));
}

#[test]
fn a_huge_file_is_refused_before_it_is_read() {
    let folder = std::env::temp_dir().join(format!("graphloom-huge-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    fs::File::create(folder.join("chat.yaml")).unwrap().set_len(100 * 1024 * 1024).unwrap();
    let (loaded, _, printed) = check(&folder, &Providers::without_secrets().unwrap());
    fs::remove_dir_all(&folder).unwrap();
    assert!(printed.contains("error[Y007]"), "{printed}");
    assert_eq!(loaded.unwrap().broken_graphs, ["chat"]);
}

#[cfg(unix)]
#[test]
fn a_link_that_leaves_the_project_is_refused() {
    let folder = std::env::temp_dir().join(format!("graphloom-link-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", folder.join("chat.yaml")).unwrap();
    let (loaded, _, printed) = check(&folder, &Providers::without_secrets().unwrap());
    fs::remove_dir_all(&folder).unwrap();
    assert!(printed.contains("error[T305]"), "{printed}");
    assert!(loaded.unwrap().files.is_empty());
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_whose_name_is_not_utf_8_is_told() {
    use std::os::unix::ffi::OsStrExt as _;
    let folder = std::env::temp_dir().join(format!("graphloom-name-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(std::ffi::OsStr::from_bytes(b"caf\xe9.yaml")), "format: 1").unwrap();
    let (loaded, _, printed) = check(&folder, &Providers::without_secrets().unwrap());
    fs::remove_dir_all(&folder).unwrap();
    assert!(printed.contains("warning[G108]") && printed.contains("caf\u{fffd}.yaml"), "{printed}");
    assert!(loaded.unwrap().files.is_empty());
}

#[test]
fn an_allowed_warning_is_silent_and_an_error_cannot_be_allowed() {
    assert_eq!(
        codes_of(
            "format: 1\nallow: {G216: x, G201: x, G999: x}\nstart: a\nnodes: {a: {kind: route, next: end}}"
        ),
        ["G105", "G105"]
    );
}

proptest::proptest! {
    /// Whatever is written, loading ends, and every place lies within its file.
    #[test]
    fn no_text_breaks_the_reader(text in "[-a-z:{}\\[\\]\"'|>#&*!,?%@ \n\t\u{e9}\u{2019}\u{a0}]{0,80}", tail in "\\PC{0,20}") {
        let mut bag = Bag::default();
        let text = format!("format: 1\nstart: a\nnodes:\n  a: {{kind: route, next: end}}\nx-a: {text}{tail}");
        let files = Files::from([("chat.yaml".to_owned(), text.clone().into_bytes())]);
        load_files("", files, &mut bag);
        bag.sort();
        for finding in bag.findings() {
            let span = finding.label.span;
            proptest::prop_assert!(span.start <= span.end && span.end as usize <= text.len());
            proptest::prop_assert!(text.is_char_boundary(span.start as usize) && text.is_char_boundary(span.end as usize));
        }
        render_text(&bag, false);
        render_json(&bag);
    }

    /// Whatever stands as text, condition or prompt, compiling ends, and every place lies within its file.
    #[test]
    fn no_expression_and_no_template_breaks_the_compiler(noise in "[-a-z_.{}%#()\\[\\]'|@!=<>+*/~, 0-9\n\u{e9}\u{2019}]{0,60}", part in "(state\\.a|input\\.b|[|] first|[|] default\\('x'\\)|not | in | is none|\\{% if |%\\}|\\{\\{|\\}\\}){0,8}") {
        let quoted = serde_json::to_string(&format!("{part}{noise}")).unwrap();
        let graph = format!(
            "format: 1\ninput: {{b: string?}}\nstate: {{messages: messages, a: [string]}}\nstart: [{{when: {quoted}, to: s}}, {{else: l}}]\n\
             nodes:\n  s: {{kind: say, text: {quoted}, next: end}}\n  l: {{kind: llm, prompt: p, reply: true, next: end}}\n",
        );
        let prompt = format!("---\ninputs: {{messages: messages}}\n---\n@system\n{noise}{part}\n@messages messages\n");
        let project = "format: 1\nmodels: {m: {provider: demo}}\ndefault_model: m\n".to_owned();
        let files = [("chat.yaml", graph), ("prompts/p.md", prompt), ("project.yaml", project)];
        let files: Files = files.map(|(path, text)| (path.to_owned(), text.into_bytes())).into();
        let mut bag = Bag::default();
        let folder = load_files("", files, &mut bag);
        compile(&folder, &PROVIDERS, &mut bag);
        bag.sort();
        for finding in bag.findings() {
            let (_, text) = bag.source(finding.label.span.file);
            let span = finding.label.span;
            proptest::prop_assert!(span.start <= span.end && span.end as usize <= text.len());
            proptest::prop_assert!(text.is_char_boundary(span.start as usize) && text.is_char_boundary(span.end as usize));
        }
        render_text(&bag, false);
    }
}

static PROVIDERS: std::sync::LazyLock<Providers> =
    std::sync::LazyLock::new(|| Providers::without_secrets().unwrap());

#[test]
fn line_ends_of_windows_change_neither_a_hash_nor_a_place() {
    let providers = Providers::without_secrets().unwrap();
    let told = |files: Files| {
        let mut bag = Bag::default();
        let folder = load_files("", files, &mut bag);
        let catalog = compile(&folder, &providers, &mut bag).unwrap_or_default();
        bag.sort();
        let place = |at: Span| (bag.source(at.file).0.to_owned(), bag.place(at));
        let findings = bag.findings().iter().map(|f| (f.code, place(f.label.span))).collect::<Vec<_>>();
        (catalog.graphs.into_values().map(|graph| graph.plan.hash.clone()).collect::<Vec<_>>(), findings)
    };
    for folder in fixtures().into_iter().map(|folder| folder.join("graphs")).chain([PathBuf::from("graphs")])
    {
        // One that is refused as a whole has no files.
        let Some(Folder { files, .. }) = load(&folder, &mut Bag::default()) else { continue };
        let windows = files.iter().map(|(path, content)| {
            let lines: Vec<&[u8]> = content.split(|byte| *byte == b'\n').collect();
            (path.clone(), lines.join(b"\r\n".as_slice()))
        });
        assert_eq!(told(windows.collect()), told(files.clone()), "{}", folder.display());
    }
}
