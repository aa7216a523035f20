"""``blockzoo download``: fetch from the model hub what is needed of a checkpoint, whole and verified."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from blockzoo.checkpoints import hub
from blockzoo.checkpoints.load import recognize
from blockzoo.cli.output import gigabytes, note, print_json
from blockzoo.errors import InputError, nearest
from blockzoo.plugins import host


def command(
    ref: Annotated[
        str, typer.Argument(metavar="REF", help="a hub id: owner/name, with /folder and @revision if wanted")
    ],
    revision: Annotated[
        str | None, typer.Option(metavar="R", help="a branch, a tag or a commit [default: main]")
    ] = None,
    layout: Annotated[
        str | None, typer.Option(help="only this of the layouts that the repository has: hf, original (gpt-oss)")
    ] = None,
    to: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="into a new folder, instead of huggingface_hub's cache")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="don't ask the hub: is it whole in the cache?")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="also read and verify what is there already")] = False,
    token: Annotated[
        str | None, typer.Option(help="for private and gated repositories; better: HF_TOKEN, or `hf auth login`")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False,
) -> None:
    """Download a checkpoint; what was begun is resumed. Prints the folder."""
    access = hub.Access(token=token, offline=offline, again=verify, say=note)
    place = _in_layout(_pinned(ref, revision, access), layout, access)
    if place.asked is not None:
        note(f"{place.repo}: '{place.asked}' is commit {place.commit}")
    folder = hub.local_folder(place, access=access) if to is None else hub.download_to(to, place, hub.ALL, access)
    source = recognize(folder, registry=host().registry)
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}
    if as_json:
        about = {"repository": place.repo, "commit": place.commit, "revision": place.asked, "layout": source.layout}
        print_json({"folder": str(folder), **about, "files": sizes})
        return
    note(f"{place}: {len(sizes)} files, {gigabytes(sum(sizes.values()))}, layout {source.layout}, whole")
    print(folder)


def _pinned(ref: str, revision: str | None, access: hub.Access) -> hub.Reference:
    if revision is not None and "@" in ref:
        raise InputError(f"--revision {revision}: {ref} has a revision of its own; leave one of them out")
    if isinstance(hub.parse(ref), Path):
        raise InputError(f"{ref}: is a folder here; there is nothing to download")
    place = hub.pinned(ref if revision is None else f"{ref}@{revision}", access)
    assert isinstance(place, hub.Reference)
    return place


def _in_layout(place: hub.Reference, layout: str | None, access: hub.Access) -> hub.Reference:
    """The folder of the repository that has a layout; its config alone is downloaded, so that what no family knows is
    refused before gigabytes are.
    """
    found = recognize(hub.local_folder(place, hub.CONFIG, access), registry=host().registry)
    if layout in (None, found.layout):
        return place
    known = {"native": ""} if found.family is None else {name: o.folder for name, o in found.family.layouts.items()}
    if layout not in known:
        raise InputError(f"--layout {layout}: {place} is in the layout '{found.layout}'{nearest(layout, known)}")
    elsewhere = replace(place, folder=known[layout])
    if elsewhere.folder != place.folder:
        there = recognize(hub.local_folder(elsewhere, hub.CONFIG, access), registry=host().registry)
        if there.layout == layout:
            return elsewhere
    raise InputError(f"--layout {layout}: {elsewhere} has not got it; {place} is in the layout '{found.layout}'")
