#!/usr/bin/env python3
"""Write the digest of each image beside its tag, in the files that name images; needs Docker and the registries.

images.py            write what the tags are now
images.py --check    change nothing: fail where a tag is not there, or is no longer what was written down
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
DIGEST = r"sha256:[0-9a-f]{64}"
# Of each file, an image as it is written there: what comes before the digest, and the digest, if there is one. Not the
# node's image: each version of kind says itself which digest of the tag it was made for.
FILES = {
    HERE / "versions.env": (
        rf"^(?P<before>(?!NODE_)[A-Z_]+_IMAGE=(?P<name>[^\s@]+):(?P<tag>[^\s@:/]+))(@(?P<digest>{DIGEST}))?$",
        "{before}@{digest}",
    ),
    HERE / "observability" / "versions" / "kustomization.yaml": (
        rf"^(?P<before> +newName: (?P<name>\S+)\n +newTag: (?P<tag>\S+))(\n +digest: (?P<digest>{DIGEST}))?$",
        "{before}\n    digest: {digest}",
    ),
    HERE / "trial" / "postgresql.yaml": (
        rf"^(?P<before> +image: (?P<name>[^\s@]+):(?P<tag>[^\s@:/]+))(@(?P<digest>{DIGEST}))?$",
        "{before}@{digest}",
    ),
}


class Unknown(Exception):
    """The registry does not say what a tag is."""


def main() -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args().check
    found, wrong = {}, []
    for image, written in images():
        try:
            found[image] = digest_of(image)
        except Unknown as error:
            wrong.append(f"{image}: {error}")
            continue
        if check and written and written != found[image]:
            wrong.append(f"{image}: was {written}, is {found[image]}")
        print(f"{image} {found[image]}" + ("" if written else " (not written down)" if check else " (new)"))
    for line in wrong:
        print(f"images.py: {line}", file=sys.stderr)
    if not wrong and not check:
        write(found)
    return 1 if wrong else 0


def images() -> Iterator[tuple[str, str | None]]:
    """Yield each image by name and tag, and the digest that is written down for it."""
    for file, (pattern, _) in FILES.items():
        for match in re.finditer(pattern, file.read_text(encoding="utf-8"), re.MULTILINE):
            yield f"{match['name']}:{match['tag']}", match["digest"]


def digest_of(image: str) -> str:
    """Ask the registry what a tag is; raise Unknown where it does not say."""
    command = ["docker", "buildx", "imagetools", "inspect", "--format", "{{json .Manifest}}", image]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        sys.exit("images.py: docker is missing: install Docker with buildx (https://docs.docker.com/engine/install)")
    if done.returncode:
        raise Unknown(done.stderr.strip().partition("\n")[0] or f"docker ended with {done.returncode}")
    digest = json.loads(done.stdout).get("digest", "")
    if not re.fullmatch(DIGEST, digest):
        raise Unknown(f"docker said {done.stdout.strip()!r}, and no digest")
    return str(digest)


def write(digests: dict[str, str]) -> None:
    """Write all digests down."""
    for file, (pattern, form) in FILES.items():
        text = file.read_text(encoding="utf-8")

        def with_digest(match: re.Match[str], form: str = form) -> str:
            return form.format(before=match["before"], digest=digests[f"{match['name']}:{match['tag']}"])

        file.write_text(re.sub(pattern, with_digest, text, flags=re.MULTILINE), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
