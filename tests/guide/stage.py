"""What a page of the guide is played on: commands, servers, databases, and the comparison of what they print."""
import http.client, os, re, shlex, subprocess, sys, threading, uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = os.environ.get("GRAPHLOOM", str(ROOT / "target" / "debug" / "graphloom"))
# A server without a database's name, as the tests of the store take it.
POSTGRES = os.environ.get("TEST_DATABASE_URL", "postgres://postgres@127.0.0.1:5432").rstrip("/")
# Programs that projects of the guide name, as `docs-server`.
PROGRAMS = Path(__file__).resolve().parent / "bin"
# How long one command may take, in seconds: only what hangs gets there.
LIMIT = 300


def environment(cwd, env=()):
    path = f"{PROGRAMS}:{Path(sys.executable).parent}:/usr/bin:/bin"
    return {"PATH": path, "HOME": str(cwd), **dict(env)}


def run(args, cwd, env=(), typed=""):
    """Runs the binary and returns what it prints, standard output and error together, without colours."""
    done = subprocess.run([BINARY, *args], cwd=cwd, env=environment(cwd, env), input=typed.encode(),
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=LIMIT)
    return done.stdout.decode(), done.returncode


def psql(statement):
    done = subprocess.run(["psql", "-qXw", f"{POSTGRES}/postgres", "-c", statement], capture_output=True, timeout=LIMIT)
    if done.returncode:
        raise ValueError(f"`{statement}` fails at TEST_DATABASE_URL: {done.stderr.decode()}")


UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
HEX = r"[0-9a-f]{20}"
# What is another one each time: identifiers, and times.
IDENTIFIER = rf"(?<![0-9a-f-])(?:{UUID}|{HEX})(?![0-9a-f-])"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z"


class Stage:
    """What a page is played on: its folder, and what really stands behind what it shows."""

    # Where `serve` listens when nothing is said, so where the server of a page is shown.
    SHOWN_ADDRESS = "127.0.0.1:8080"

    def __init__(self, project):
        self.project, self.server, self.database = project, None, None
        # By what the page shows: the server's address, and identifiers.
        self.behind = {}
        # What came for the last request, until its answer is compared.
        self.answer = None

    def real(self, text):
        """Puts what there really is in the place of what the page shows."""
        for shown, real in self.behind.items():
            text = text.replace(shown, real)
        return re.sub(r"postgres://\w+@db/graphloom\b", lambda _: f"{POSTGRES}/{self.postgres()}", text)

    def shown(self, text):
        for shown, real in self.behind.items():
            text = text.replace(real, shown)
        return text

    def postgres(self):
        """Returns the name of the page's database, which is made when it is needed first."""
        if not self.database:
            name = f"guide_{uuid.uuid4().hex}"
            psql(f"create database {name}")
            self.database = name
        return self.database

    def same(self, expected, actual, within=False):
        """Compares lines, and takes what an identifier stands for when it is shown first.

        A line `…` stands for any lines, also for none; `within` a line it does so for any part of it.
        """
        kinds = rf"({TIME}|{IDENTIFIER}" + ("|…)" if within else ")")
        pattern, names = "", {}
        for row in expected:
            if row.strip() == "…":
                pattern += r"(?:.*\n)*?"
                continue
            for at, part in enumerate(re.split(kinds, row)):
                if at % 2 == 0 or part in self.behind:
                    pattern += re.escape(part)
                elif part == "…":
                    pattern += ".*?"
                elif re.fullmatch(TIME, part):
                    pattern += TIME
                elif part in names:
                    pattern += f"(?P={names[part]})"
                else:
                    names[part] = f"id{len(names)}"
                    pattern += f"(?P<{names[part]}>{HEX if re.fullmatch(HEX, part) else UUID})"
            pattern += r"\n"
        found = re.fullmatch(pattern, "".join(row + "\n" for row in actual))
        if not found:
            return False
        new = {shown: found[name] for shown, name in names.items()}
        # Two that are shown are two.
        if len(set(new.values())) < len(new) or set(new.values()) & set(self.behind):
            return False
        self.behind.update(new)
        return True

    def blessed(self, expected, actual):
        """Returns lines for the page, with the identifiers that it shows where as many came: later commands name them."""
        old, new = (list(dict.fromkeys(re.findall(IDENTIFIER, "\n".join(rows)))) for rows in (expected, actual))
        if len(old) == len(new):
            self.behind.update({shown: real for shown, real in zip(old, new) if shown not in self.behind and shown != real})
        return [self.shown(row) for row in actual]

    def serve(self, args, env):
        """Starts the page's server in the place of the one before; returns what it says until it serves, or ends."""
        self.stop()
        # Any free port, whatever the settings of the page say.
        command = [BINARY, *args, "--bind", "127.0.0.1:0"]
        self.server = subprocess.Popen(command, cwd=self.project, env=environment(self.project, env), bufsize=0,
                                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        hangs = threading.Timer(LIMIT, self.server.kill)
        hangs.start()
        try:
            said, pipe = b"", self.server.stdout
            for line in pipe:
                said += line
                if found := re.search(rb"listens on http://(\S+)", line):
                    break
            else:
                return said.decode(), self.server.wait()
            self.behind[self.SHOWN_ADDRESS] = found[1].decode()
            # Once it answers it has said all that it says before.
            asked = http.client.HTTPConnection(found[1].decode(), timeout=LIMIT)
            asked.request("GET", "/ready")
            asked.getresponse().close()
            asked.close()
            os.set_blocking(pipe.fileno(), False)
            said += pipe.read() or b""
            os.set_blocking(pipe.fileno(), True)
        finally:
            hangs.cancel()
        # A full pipe would stop it.
        threading.Thread(target=pipe.read, daemon=True).start()
        return said.decode(), 0

    def stop(self):
        if self.server:
            self.server.kill()
            self.server.wait()
        self.server = None
        self.behind.pop(self.SHOWN_ADDRESS, None)

    def close(self):
        self.stop()
        if self.database:
            psql(f"drop database {self.database} with (force)")


def words(command):
    """Splits a command into its variables and its arguments."""
    parts = shlex.split(command, comments=True)
    env = {}
    while parts and re.fullmatch(r"[A-Z][A-Z0-9_]*=.*", parts[0]):
        name, value = parts.pop(0).split("=", 1)
        env[name] = value
    return env, parts


def perform(stage, command, typed=()):
    """Runs a command of the page; returns its output and its exit code."""
    env, parts = words(stage.real(command))
    if parts[:1] != ["graphloom"]:
        raise ValueError(f"only `graphloom` can be run here: `{command}`")
    if parts[1:2] == ["serve"]:
        return stage.serve(parts[1:], env)
    text, code = run(parts[1:], stage.project, env, "".join(row + "\n" for row in typed))
    if typed:
        # As a terminal shows it; the prompt at the end of the input stays out.
        rows = [f"> {row}".rstrip() + "\n" for row in typed] + [""]
        text = re.sub(r"^> ", lambda _: rows.pop(0), text, count=len(rows), flags=re.M)
    return text, code


def shell(stage, script):
    """Runs lines for `sh`; returns what they print."""
    if Stage.SHOWN_ADDRESS in script and Stage.SHOWN_ADDRESS not in stage.behind:
        raise ValueError("the page has no server that could be asked")
    done = subprocess.run(["sh", "-c", stage.real(script)], cwd=stage.project, env=environment(stage.project),
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT)
    if done.returncode:
        raise ValueError(f"exit code {done.returncode}: {(done.stdout + done.stderr).decode()}")
    return done.stdout.decode().replace("\r\n", "\n")
