"""A repository's branch with a commit for each updated service, and its pull request."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from marty_lib import _cli_fleet_trees as trees
from marty_lib._cli_fleet_journal import BRANCH_EXISTS, CONFLICTS, FAILED, TESTS_FAILED, Result
from marty_lib._cli_fleet_processes import Failed, git, output

REMOTE = "origin"


def finish(repository: Path, results: Sequence[Result], *, pull_request: bool) -> list[Result]:
    """Make the branch of a repository from its services' results, and open its pull request; return the results.

    It may be called again after an interruption.
    """
    results = _make(repository, sorted(results, key=lambda result: result.folder))
    on_branch = [result for result in results if result.commit or result.outcome == BRANCH_EXISTS]
    if not pull_request or not on_branch:
        return results
    draft = any(result.outcome == TESTS_FAILED for result in on_branch)
    try:
        address = propose(repository, on_branch[0], draft=draft)
    except Failed as error:
        message = f"the branch is there, but not its pull request: {error}"
        return [replace(each, message=_and(each.message, message)) if each in on_branch else each for each in results]
    return [replace(each, pull_request=address) if each in on_branch else each for each in results]


def _make(repository: Path, results: Sequence[Result]) -> list[Result]:
    """Put the services' commits on top of each other, then make the branch: it is whole or not there."""
    found: list[Result] = []
    tip = results[0].head
    for result in results:
        if not result.commit:
            found.append(result)
            continue
        try:
            commit = trees.onto(repository, tip, result.start, result.commit)
        except Failed as error:
            message = f"changes the same lines as the update of another service here: {error}"
            found.append(replace(result, outcome=CONFLICTS, commit="", message=message))
            continue
        found.append(replace(result, start=tip, commit=commit))
        tip = commit
    if tip == results[0].head:
        return found
    try:
        _create(repository, results[0].branch, tip)
    except Failed as error:
        return [replace(each, outcome=FAILED, commit="", message=str(error)) if each.commit else each for each in found]
    return found


def _create(repository: Path, branch: str, tip: str) -> None:
    ref = f"refs/heads/{branch}"
    if has(repository, branch) != ref:
        git(repository, "update-ref", "-m", "marty fleet update", ref, tip, "0" * len(tip))
    elif git(repository, "rev-parse", f"{ref}^{{tree}}") != git(repository, "rev-parse", f"{tip}^{{tree}}"):
        raise Failed(f"somebody has made the branch {branch} meanwhile: merge or delete it, then try again")


def has(repository: Path, branch: str) -> str:
    """Return the ref of a branch, here or as last fetched from the remote; empty where there is none."""
    refs = (f"refs/heads/{branch}", f"refs/remotes/{REMOTE}/{branch}")
    return git(repository, "for-each-ref", "--format=%(refname)", *refs).split("\n")[0]


def propose(repository: Path, result: Result, *, draft: bool) -> str:
    """Push the branch of a result and open its pull request, unless it has or had one; return its address.

    Raises:
        Failed: where git or gh does.
    """
    branch, ref = result.branch, has(repository, result.branch)
    if ref.startswith("refs/heads/"):
        git(repository, "push", "--quiet", REMOTE, f"{ref}:refs/heads/{branch}")
    # One that its owner has closed stays so.
    listed = output("gh", "pr", "list", "--head", branch, "--state", "all", "--json", "url", folder=repository)
    if found := json.loads(listed or "[]"):
        return str(found[0]["url"])
    messages = git(repository, "log", "--reverse", "--format=%B%x00", f"{result.head}..{ref}").split("\0")
    texts = [text.strip() for text in messages if text.strip()]
    title = texts[0].split("\n")[0] if len(texts) == 1 else f"Update {len(texts)} services to {result.new}"
    with tempfile.NamedTemporaryFile("w", prefix="marty-pull-request-", suffix=".md") as body:
        body.write("\n\n---\n\n".join(texts) + "\n")
        body.flush()
        flags = [*_base(repository), *(["--draft"] if draft else [])]
        arguments = ("--head", branch, "--title", title, "--body-file", body.name, *flags)
        return output("gh", "pr", "create", *arguments, folder=repository).split("\n")[-1]


def _base(repository: Path) -> list[str]:
    """Return the option that names the branch which the owner has checked out; gh's own default where that is none."""
    try:
        return ["--base", git(repository, "symbolic-ref", "--quiet", "--short", "HEAD")]
    except Failed:
        return []


def without_remote(repositories: Sequence[Path]) -> list[Path]:
    """Return the repositories to which nothing can be pushed."""
    return [each for each in repositories if REMOTE not in git(each, "remote").split("\n")]


def _and(*messages: str) -> str:
    return "; ".join(filter(None, messages))
