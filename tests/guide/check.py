#!/usr/bin/env python3
"""Checks the guide: every fenced block by its info string, every link, every generated table.

    check.py [--bless] [PAGE …]

`--bless` writes the output of the commands and the generated tables into the pages; read the difference.
RULES.md says what is checked. GRAPHLOOM names the binary, TEST_DATABASE_URL the PostgreSQL server.
"""
import json, os, re, shutil, signal, subprocess, sys, tempfile, tomllib
from pathlib import Path

# Nothing is left beside the sources.
sys.dont_write_bytecode = True
from stage import ROOT, Stage, perform, run, shell, words

try:
    import yaml
except ImportError:
    # graphloom itself reads the rest; only fragments of other programs' files go unread then.
    yaml = None

SRC = ROOT / "docs" / "src"
CODES = SRC / "codes"
BLESS = "--bless" in sys.argv
ONLY = [a for a in sys.argv[1:] if not a.startswith("--")]
SHOWN = {"text", "sh", "python", "ts", "lua", "nginx", "sql", "console norun"}
ANSWERS = {"text answer", "json answer"}
WRITTEN = ("yaml", "text", "toml", "json")

faults = []


def fault(page, line, text):
    faults.append(f"{page}:{line}: {text}")


if yaml:
    class Strict(yaml.SafeLoader):
        """Refuses a key that is there twice, as graphloom does."""

    def mapping(loader, node, deep=False):
        keys = [str(key.value) for key, _ in node.value]
        if len(set(keys)) < len(keys):
            raise yaml.YAMLError("a key is there twice")
        return yaml.SafeLoader.construct_mapping(loader, node, deep)

    Strict.add_constructor("tag:yaml.org,2002:map", mapping)


def blocks(lines):
    """Yields (info, number of the first line of the content, content) of each fenced block, and each hidden step."""
    at = 0
    while at < len(lines):
        fence = re.match(r"^(`{3,})(.*)$", lines[at])
        if hidden := re.match(r"^<!-- run: (.+) -->$", lines[at]):
            yield f"run {hidden[1]}", at + 1, []
        if not fence:
            at += 1
            continue
        end = at + 1
        while end < len(lines) and lines[end].rstrip() != fence[1]:
            end += 1
        if end == len(lines):
            raise ValueError(f"line {at + 1}: the block has no end")
        yield fence[2].strip(), at + 1, lines[at + 1:end]
        at = end + 1


def commands(content):
    """Splits a console block into (offset of the command, command, offset of its output, output)."""
    found = []
    for offset, text in enumerate(content):
        if text.startswith("$ "):
            found.append([offset, text[2:], offset + 1, []])
        elif found:
            found[-1][3].append(text)
        else:
            raise ValueError("a console block begins with a line `$ …`")
    # An empty line before the next command is only for the eye.
    for entry in found[:-1]:
        if entry[3] and entry[3][-1] == "":
            entry[3].pop()
    return found


def patch(path, content):
    """Applies a block of lines that stay, go (`-`) and come (`+`); `@@` parts places. Says what is wrong."""
    if not path.is_file():
        return f"there is no `{path.name}` to change"
    file = path.read_text().split("\n")
    hunks = [[]]
    for text in content:
        if text == "@@":
            hunks.append([])
        else:
            hunks[-1].append((text[:1] or " ", text[1:]))
    for hunk in hunks:
        if any(sign not in " -+" for sign, _ in hunk):
            return "a line of a diff begins with a space, `-` or `+`"
        old = [text for sign, text in hunk if sign != "+"]
        new = [text for sign, text in hunk if sign != "-"]
        places = [i for i in range(len(file) - len(old) + 1) if file[i:i + len(old)] == old]
        if len(places) != 1:
            return f"the lines from `{old[0] if old else ''}` stand {len(places)} times in `{path.name}`"
        file[places[0]:places[0] + len(old)] = new
    path.write_text("\n".join(file))
    return None


HELP = {}


def help_of(command):
    if command not in HELP:
        HELP[command], _ = run([*command, "--help"], ROOT)
    return HELP[command]


def known(parts):
    """Says what is wrong with a command that is not run: its name and its flags have to exist."""
    command, arguments = (), parts[1:]
    text = help_of(command)
    while listed := re.search(r"^Commands:\n((?:  .*\n)+)", text, re.M):
        if not arguments or arguments[0].startswith("-"):
            # Alone, `graphloom` serves.
            if command:
                return f"`{' '.join(command)}` needs a command of its own"
            break
        command, arguments = (*command, arguments[0]), arguments[1:]
        if command[-1] not in re.findall(r"^  (\S+)", listed[1], re.M):
            return f"there is no command `{' '.join(command)}`"
        text = help_of(command)
    for flag in arguments:
        if flag.startswith("--") and not re.search(rf"{re.escape(flag.split('=')[0])}(?![\w-])", text):
            return f"`{flag}` is no flag of it"
    return None


def unshaped(what, text):
    """Returns what is wrong with the shape of a part of a file; names that stand elsewhere may be unknown."""
    inner = "".join("  " + row if row.strip() else row for row in text.splitlines(True))
    around = {
        "project": "format: 1\n",
        "models": "format: 1\nmodels:\n",
        "set": "format: 1\nstart: a\nnodes:\n a:\n  kind: set\n  next: end\n",
        "say": "format: 1\nstart: a\nnodes:\n a:\n  kind: say\n  text: Hello\n  next: end\n",
    }
    if what == "ways":
        # Each entry is a form of `next`.
        names = re.findall(r"(?m)^(\w+):", text)
        bodies = re.split(r"(?m)^\w+:", text)[1:]
        whole = "format: 1\nstart: end\nnodes:\n"
        # The line of the block for each line of the file, both from 1.
        origin, line = [0, 0, 0, 0], 0
        for name, body in zip(names, bodies):
            body = "".join("   " + row if row.strip() else row for row in body.splitlines(True)).lstrip(" ")
            whole += f"  {name}:\n   kind: route\n   next: {body}"
            origin += [line + 1] * 2 + [line + 1 + n for n in range(body.count("\n"))]
            line += body.count("\n")
    elif what in around:
        whole = around[what] + (text if what == "project" else inner)
    else:
        return [{"line": 0, "code": "fragment", "message": f"of what? `{what}` is none of {', '.join([*around, 'ways'])}"}]
    with tempfile.TemporaryDirectory() as folder:
        graphs = Path(folder) / "graphs"
        graphs.mkdir()
        # A project has a graph in any case.
        (graphs / "a.yaml").write_text("format: 1\nstart: a\nnodes: {a: {kind: route, next: end}}\n")
        (graphs / ("project.yaml" if what in ("project", "models") else "a.yaml")).write_text(whole)
        found = json.loads(run(["check", "--format", "json"], folder)[0])["findings"]
    shape = [f for f in found if re.match(r"Y|G10[1-6]|G2(07|20)|E101|M511", f["code"])]
    at = (lambda n: origin[n]) if what == "ways" else (lambda n: n - around[what].count("\n"))
    return [{**f, "line": at(f["line"])} for f in shape]


def lines_of(text):
    return text.rstrip("\n").split("\n") if text.strip() else []


def check_answer(page, line, info, content, stage):
    """Compares what came for the request above; returns the block's new content when it is blessed, else None."""
    if stage.answer is None:
        fault(page, line, "there is no request above that it could be the answer to")
        return None
    came, stage.answer = stage.shown(stage.answer), None
    if info == "json answer":
        # A line a value: so the form of the page is free, and `…` stands for one value.
        expected, actual = (json.dumps(json.loads(text), indent=2, ensure_ascii=False).split("\n")
                            for text in ("\n".join(content), came))
    else:
        expected, actual = content, lines_of(came)
    if stage.same(expected, actual, within=True):
        return None
    if BLESS:
        return stage.blessed(expected, actual)
    fault(page, line, "the answer is\n      " + "\n      ".join(actual))
    return None


def check_block(page, line, info, content, stage):
    """Checks one block; returns its new content when it is blessed, else None."""
    kind, _, rest = info.partition(" ")
    text = "\n".join(content) + "\n"
    project = stage.project
    if info in ANSWERS:
        return check_answer(page, line, info, content, stage)
    if stage.answer is not None:
        fault(page, line, "the request above has no answer beneath it")
        stage.answer = None
    if kind == "run":
        if rest.startswith("graphloom "):
            out, code = perform(stage, rest)
            if code:
                fault(page, line, f"`{rest}` prints\n      {out}")
        else:
            shell(stage, rest)
        return None
    if info == "console":
        out = []
        for offset, command, _, expected in commands(content):
            typed = [row[1:].strip() for row in expected if row.startswith(">")]
            actual = lines_of(stage.shown(perform(stage, command, typed)[0]))
            if stage.same(expected, actual):
                actual = expected
            elif BLESS:
                actual = stage.blessed(expected, actual)
            else:
                shown = "\n      ".join(actual)
                fault(page, line + offset + 1, f"`{command}` prints\n      {shown}")
            out.append(["$ " + command, *actual])
        joined = []
        for i, chunk in enumerate(out):
            joined += ([""] if i and len(out[i - 1]) > 1 else []) + chunk
        return joined if BLESS and joined != content else None
    if info in SHOWN:
        if info == "sh":
            done = subprocess.run(["sh", "-n"], input=text.encode(), capture_output=True)
            if done.returncode:
                fault(page, line, f"not a shell script: {done.stderr.decode()}")
            elif text.startswith("curl "):
                if Stage.SHOWN_ADDRESS not in text:
                    raise ValueError(f"it does not ask the page's server, {Stage.SHOWN_ADDRESS}")
                stage.answer = shell(stage, text)
        if info == "console norun":
            for offset, command, _, shown in commands(content):
                _, parts = words(command)
                if shown:
                    fault(page, line + offset + 1, f"`{command}` is not run, so it shows no output")
                if parts[:1] == ["graphloom"] and (why := known(parts)):
                    fault(page, line + offset + 1, f"`{command}`: {why}")
        return None
    if kind == "rust" and rest.endswith(".rs"):
        source = (ROOT / rest).read_text() if (ROOT / rest).is_file() else ""
        if text.strip() not in source:
            fault(page, line, f"these lines do not stand in `{rest}`, one after the other")
        return None
    if kind == "yaml" and rest.startswith("fragment "):
        for found in unshaped(rest.split(" ", 1)[1], text):
            fault(page, line + found["line"], f"{found['code']} {found['message']}")
        return None
    if kind in WRITTEN and rest and rest != "fragment":
        if not re.fullmatch(r"[A-Za-z0-9._/-]+", rest) or rest.startswith("/") or ".." in rest:
            fault(page, line, f"`{rest}` is no path of the project")
            return None
        path = project / rest
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if rest == "graphloom.toml":
            # Every command reads the settings first.
            out, code = run(["explain", "codes"], project)
            if code != 0:
                fault(page, line, out)
        return None
    if kind == "diff" and rest:
        if why := patch(project / rest, content):
            fault(page, line, why)
        return None
    try:
        if info == "yaml fragment":
            if yaml:
                yaml.load(text, Strict)
        elif info == "json":
            json.loads(text)
        elif info == "toml":
            tomllib.loads(text)
        else:
            fault(page, line, f"unknown info string `{info}`")
    except Exception as error:
        fault(page, line, f"not {kind}: {error}")
    return None


# Where the tutorial leads to: these graphs of the repository, word for word but for comments.
LEADS_TO = {"tutorial/11-tests.md": ["articles", "refund", "research", "support"]}


def arrived(page, project):
    """The page's project has the same version of these graphs as the repository."""
    text, _ = run(["diff", str(ROOT / "graphs"), "graphs", "--format", "json"], project)
    told = {entry["graph"]: entry for entry in json.loads(text)["graphs"]}
    for graph in LEADS_TO.get(page, []):
        if graph in told:
            fault(page, 0, f"its graph `{graph}` is not that of the repository: {json.dumps(told[graph])}")


def finished(page, project):
    """A page ends with a project in which `check` finds nothing."""
    graphs = project / "graphs"
    if not any(graphs.glob("*.yaml")):
        return
    text, _ = run(["check", "--format", "json"], project)
    report = json.loads(text)
    for found in report["findings"]:
        fault(page, 0, f"at its end: {found['file']}:{found['line']} {found['code']} {found['message']}")
    if page in LEADS_TO:
        arrived(page, project)


def play(page, lines, at):
    """Plays a page in a folder; returns its lines as they should be."""
    project = at / page.replace("/", "_")
    first = re.match(r"<!-- continues: (\S+) -->", lines[0]) if lines else None
    if first:
        before = first[1]
        source = at / before.replace("/", "_")
        if not source.is_dir():
            play(before, (SRC / before).read_text().split("\n"), at)
        shutil.copytree(source, project)
    else:
        project.mkdir()
    stage = Stage(project)
    out, last = [], 0
    try:
        for info, line, content in blocks(lines):
            try:
                new = check_block(page, line, info, content, stage)
            except Exception as error:
                fault(page, line, f"{type(error).__name__}: {error}")
                new = None
            out += lines[last:line] + (content if new is None else new)
            last = line + len(content)
        if stage.answer is not None:
            fault(page, last, "the request above has no answer beneath it")
    finally:
        stage.close()
    out += lines[last:]
    finished(page, project)
    return out


# ---- generated tables ----

def keys_of():
    """Returns {map: [(key, due, text)]}, from the JSON Schemas of the binary."""
    maps = {}
    for name in ("graph", "project", "prompt", "test"):
        schema = json.loads(run(["schema", name], ROOT)[0])
        for map_name, body in {name: schema, **schema["definitions"]}.items():
            props = body.get("properties")
            if props and map_name not in maps:
                due = body.get("required", [])
                maps[map_name] = [(k, k in due, v.get("description", "")) for k, v in props.items()]
    common = [k for k, _, _ in maps["route"]]
    maps["node"] = [(k, k == "kind", "What the node does." if k == "kind" else t) for k, _, t in maps["route"]]
    params = [k for k, _, _ in maps["params"]]
    for kind in ("llm", "say", "set", "fail"):
        maps[kind] = [e for e in maps[kind] if e[0] not in common and e[0] not in params]
    maps["model"] = [e for e in maps["model"] if e[0] not in params]
    return maps


def table_of_keys(name):
    rows = ["| key | | what it does |", "|---|---|---|"]
    for key, due, text in KEYS[name]:
        rows.append(f"| `{key}` | {'due' if due else ''} | {text.replace('|', chr(92) + '|')} |")
    return rows


def table_of_codes():
    rows = ["| code | severity | what it finds |", "|---|---|---|"]
    for row in run(["explain", "codes"], ROOT)[0].strip().split("\n"):
        code, severity, title = re.split(r"\s{2,}", row, maxsplit=2)
        rows.append(f"| [{code}]({code}.md) | {severity} | {title} |")
    return rows


def operations_and_events():
    """Returns two tables, from the OpenAPI document of the binary."""
    document = json.loads(run(["openapi"], ROOT)[0])
    operations = ["| request | operation | does |", "|---|---|---|"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            text = operation["summary"]
            operations.append(f"| `{method.upper()} {path}` | `{operation['operationId']}` | {text} |")
    schemas = document["components"]["schemas"]
    events = ["| event | has | says |", "|---|---|---|"]
    common = {"type", "run_id", "epoch", "seq", "ts", "task_id", "attempt"}
    for arm in schemas["GraphEvent"]["oneOf"]:
        schema = schemas[arm["$ref"].rsplit("/", 1)[1]]
        name = schema["properties"]["type"]["enum"][0]
        due = schema["required"]
        fields = [f"`{k}`" + ("" if k in due else "?") for k in schema["properties"] if k not in common]
        events.append(f"| `{name}` | {' '.join(fields)} | {' '.join(schema['description'].split())} |")
    return operations, events


def generated(page, lines):
    out, at = [], 0
    while at < len(lines):
        mark = re.match(r"<!-- generated: (.+) -->$", lines[at])
        out.append(lines[at])
        at += 1
        if not mark:
            continue
        end = lines.index("<!-- /generated -->", at)
        what = mark[1]
        if what == "codes":
            new = table_of_codes()
        elif what in ("operations", "events"):
            new = operations_and_events()[what == "events"]
        elif what.startswith("keys of ") and what[8:] in KEYS:
            new = table_of_keys(what[8:])
        else:
            fault(page, at, f"nothing is known of `{what}`")
            new = lines[at:end]
        new = ["", *[row for row in new if row], ""]
        if new != lines[at:end]:
            if BLESS:
                lines[at:end] = new
                end = at + len(new)
            else:
                fault(page, at, f"`{what}` is not up to date")
        out += lines[at:end]
        at = end
    return out


# ---- links ----

def check_links(page, lines):
    fenced = False
    for number, text in enumerate(lines, 1):
        if text.startswith("```"):
            fenced = not fenced
        if fenced:
            continue
        for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", text)):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            file = (SRC / page).parent / path if path else SRC / page
            file = Path(os.path.normpath(file))
            if not file.exists() and file.parent == SRC / "codes":
                file = CODES / file.name
            if not file.exists():
                fault(page, number, f"`{target}` leads nowhere")
            elif anchor:
                heads = re.findall(r"^#+ (.*)$", file.read_text(), re.M)
                slugs = [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in heads]
                if anchor not in slugs:
                    fault(page, number, f"`{target}`: there is no such heading")


def check_summary(pages):
    text = (SRC / "SUMMARY.md").read_text()
    listed = re.findall(r"\]\(([^)]+)\)", text)
    here = {str(p) for p in pages if str(p) != "SUMMARY.md"}
    codes = {f"codes/{p.name}" for p in CODES.glob("*.md")} | {"codes/index.md"}
    for missing in sorted((here | codes) - set(listed)):
        fault("SUMMARY.md", 0, f"`{missing}` is not listed")
    for extra in sorted(set(listed) - here - codes):
        fault("SUMMARY.md", 0, f"`{extra}` does not exist")


def check_readme():
    """The numbers of README.md: its points count up, and its cases are those of the shipped graphs."""
    text = (ROOT / "README.md").read_text()
    points = [int(n) for n in re.findall(r"^\*\*(\d+)\.", text, re.M)]
    if points != list(range(1, len(points) + 1)):
        fault("README.md", 0, f"the points are numbered {points}")
    cases = len(json.loads(run(["test", "--format", "json"], ROOT)[0])["cases"])
    shown = re.search(r"^(\d+) cases passed, (\d+) failed", text, re.M)
    if not shown or int(shown[1]) + int(shown[2]) != cases:
        fault("README.md", 0, f"the shipped graphs have {cases} cases")


# Whoever ends the check ends its servers, too.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
KEYS = keys_of()
# The pages of codes have a form of their own, and a test of their own runs them. The tutorial's pages come in the order
# of their numbers and before the others, so that each is played once, in an empty folder, after the one that it continues.
pages = sorted((p.relative_to(SRC) for p in SRC.rglob("*.md") if not re.fullmatch(r"[A-Z]\d{3}\.md", p.name)),
               key=lambda page: (page.parts[0] != "tutorial",
                                 [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(page))]))
counted = {}
with tempfile.TemporaryDirectory() as folder:
    for page in map(str, pages):
        if ONLY and page not in ONLY:
            continue
        lines = (SRC / page).read_text().split("\n")
        lines = generated(page, lines)
        lines = play(page, lines, Path(folder))
        check_links(page, lines)
        for info, _, _ in blocks(lines):
            whole = info in SHOWN or info in ANSWERS or " fragment" in info
            name = " ".join(info.split(" ")[:2]) if whole else info.split(" ")[0]
            counted[name] = counted.get(name, 0) + 1
        if BLESS:
            (SRC / page).write_text("\n".join(lines))
if not ONLY:
    check_summary(pages)
    check_readme()
faults = list(dict.fromkeys(faults))
for text in faults:
    print(text)
print(f"{len(pages)} pages; blocks: " + ", ".join(f"{n} {k}" for k, n in sorted(counted.items())))
print(f"{len(faults)} faults" if faults else "all is well")
sys.exit(1 if faults else 0)
