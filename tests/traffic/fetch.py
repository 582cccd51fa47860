#!/usr/bin/env python3
"""Brings answers that real providers streamed: those which client libraries keep in their source packages.

They are others' work, so they stay out of the repository; the sums say that they are what was looked at. Needs PyYAML.
"""
import gzip, hashlib, io, json, os, re, shutil, subprocess, sys, tarfile, urllib.request
from pathlib import Path
from urllib.parse import urljoin

import yaml
from pip._internal.models.index import PyPI

PACKAGES = [
    ("langchain-anthropic", "1.7.10", "72869686960b3d6665f99e7c91c9f6dd4a1d9ccf73d23edd8702eb603cc2e498"),
    ("langchain-openai", "1.7.4", "8fd90e41588526d990f32262447adf8e130d7ce28ed66cefa315e64cc9dd12ce"),
    ("langchain-groq", "1.1.3", "890c099a55526bceafc3e696d123cb9d36464c6664a3ead34ae6e09e0d50caeb"),
    ("anthropic", "2.14.0", "afb02f4df8efba429ff769bbfd71340d8b244b41ba42c073a45cc307702549fe"),
]
HERE = Path(__file__).parent
RECORDED = HERE / "recorded"


def index():
    """Returns the package index that pip uses; what it uses when nothing is set only its own code says."""
    pip = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    known = subprocess.run(pip, capture_output=True, text=True).stdout.strip()
    return os.environ.get("PIP_INDEX_URL") or known or PyPI.simple_url


def package(name, version, digest):
    """Returns the source package, as an open archive."""
    page = urljoin(index().rstrip("/") + "/", f"{name}/")
    links = re.findall(r'href="([^"#]+)', urllib.request.urlopen(page, timeout=60).read().decode())
    wanted = f"/{name.replace('-', '_')}-{version}.tar.gz"
    link = next((link for link in links if ("/" + link).endswith(wanted)), None)
    if link is None:
        sys.exit(f"{name} {version} has no source package")
    data = urllib.request.urlopen(urljoin(page, link), timeout=120).read()
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        sys.exit(f"{name} {version} has the sum {found}, not {digest}")
    return tarfile.open(fileobj=io.BytesIO(data))


def bodies(path, data):
    """Yields the bodies of the answers in a file."""
    if path.endswith((".sse", "_response.txt")):
        yield data
    if "/cassettes/" not in path or not path.endswith(".yaml.gz"):
        return
    tape = yaml.load(gzip.decompress(data), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    answers = [entry["response"] for entry in tape["interactions"]] if "interactions" in tape else tape["responses"]
    for answer in answers:
        body = answer["body"]
        body = body["string"] if isinstance(body, dict) else body
        body = body.encode() if isinstance(body, str) else body
        yield gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body


def protocol(body):
    """Returns whose protocol a stream speaks; nothing where it is another one, or no stream."""
    for line in body.decode("utf-8", "replace").splitlines():
        if line.startswith("data:"):
            try:
                first = json.loads(line[5:])
            except ValueError:
                return None
            if first.get("object") == "chat.completion.chunk":
                return "openai"
            return "anthropic" if first.get("type") == "message_start" else None
        if not line.startswith("event:"):
            return None
    return None


STAMP = RECORDED / "packages.json"
if STAMP.is_file() and STAMP.read_text() == json.dumps(PACKAGES):
    sys.exit()
shutil.rmtree(RECORDED, ignore_errors=True)
count = {"anthropic": 0, "openai": 0}
for name, version, digest in PACKAGES:
    with package(name, version, digest) as archive:
        for member in archive.getmembers():
            if not member.isfile():
                continue
            data = archive.extractfile(member).read()
            for number, body in enumerate(bodies(member.name, data)):
                if (spoken := protocol(body)) is None:
                    continue
                stem = re.sub(r"[^\w]+", "_", f"{name}_{Path(member.name).name.split('.yaml')[0]}_{number}")
                target = RECORDED / spoken / f"{stem}.sse"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(body)
                count[spoken] += 1
STAMP.write_text(json.dumps(PACKAGES))
print(", ".join(f"{n} of {spoken}" for spoken, n in count.items()))
