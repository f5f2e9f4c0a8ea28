"""The commands that say who may open a dataset's keys: grant, revoke, rotate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

from pipecrypt.cli.options import AcceptFuture, TrustedKeys, credentials
from pipecrypt.cli.render import show

if TYPE_CHECKING:
    from pipecrypt.runs.deep_rotation import DeepSummary
    from pipecrypt.runs.sharing import GrantSummary, RevokeSummary

__all__ = ["grant", "revoke", "rotate"]

_Dataset = Annotated[str, typer.Argument(metavar="DATASET", help="A dataset, a directory or a file; a path or a URL.")]
_DatasetIDs = Annotated[
    list[str] | None,
    typer.Option("--dataset-id", metavar="ID", help="Dataset that is meant, where the files are of several."),
]
_NOT_UNDONE = "not undone: what its holder copied or unwrapped before, files and grants in backups and old versions"


def grant(
    dataset: _Dataset,
    to: Annotated[str, typer.Option("--to", metavar="KEYREF", help="The master key or recipient that shall open it.")],
    key: Annotated[
        list[str], typer.Option("--key", metavar="KEYREF", help="Key that opens it now; may be given several times.")
    ],
    trust: TrustedKeys = None,
    dataset_id: _DatasetIDs = None,
) -> None:
    """Let one more master key open a dataset, without touching its files."""
    from pipecrypt.runs.sharing import grant as grant_keys

    summary = grant_keys(dataset, to, key, trust=trust or None, dataset_ids=dataset_id or (), credentials=credentials())
    show(summary, lambda: _grant_lines(summary))


def revoke(
    dataset: _Dataset,
    key: Annotated[
        str, typer.Option("--from", metavar="KEY", help="Key reference, or the master key id that grants name.")
    ],
) -> None:
    """Remove the grants of a master key; says what that does not undo."""
    from pipecrypt.runs.sharing import revoke as revoke_grants

    summary = revoke_grants(dataset, key, credentials=credentials())
    show(summary, lambda: _revoke_lines(summary))


def rotate(
    dataset: _Dataset,
    old: Annotated[str, typer.Option("--from", metavar="KEYREF", help="The master key that opens it now.")],
    new: Annotated[str, typer.Option("--to", metavar="KEYREF", help="The master key that shall open it.")],
    key: Annotated[
        list[str] | None, typer.Option("--key", metavar="KEYREF", help="Further keys, to open encrypted footers.")
    ] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Take the old key out of the files, by new footers; data stays in place.")
    ] = False,
    also: Annotated[
        list[str] | None,
        typer.Option("--also", metavar="KEYREF", help="With --deep: let this key open it, too, by grants."),
    ] = None,
    sign: Annotated[
        list[str] | None,
        typer.Option("--sign", metavar="KEYREF", help="With --deep: sign the new version of what is signed."),
    ] = None,
    trust: TrustedKeys = None,
    dataset_id: _DatasetIDs = None,
    accept_future_statement: AcceptFuture = False,
) -> None:
    """Let a new master key open all that an old one opens, by grants or new footers."""
    from pipecrypt.runs.sharing import rotate as rotate_keys

    summary = rotate_keys(
        dataset,
        old,
        new,
        keys=key or (),
        deep=deep,
        also=also or (),
        sign=sign or (),
        trust=trust or None,
        dataset_ids=dataset_id or (),
        credentials=credentials(),
        accept_future_statement=accept_future_statement,
    )
    show(summary, lambda: _rotate_lines(summary))


def _rotate_lines(summary: GrantSummary | DeepSummary) -> list[str]:
    if summary.operation != "rotate --deep":
        return _grant_lines(cast("GrantSummary", summary))
    deep = cast("DeepSummary", summary)
    lines = [
        f"rotated {deep.dataset} to {deep.master_key_id!a}: {deep.changed} of {deep.files} files changed",
        f"data keys            {deep.data_keys}",
        f"bytes written        {deep.bytes_moved}, undo files included",
        f"bytes of the files   {deep.total_bytes}",
        f"key service calls    {deep.service_calls}",
    ]
    if deep.put_back:
        lines.append(f"put back first       {deep.put_back} files, left by a rotation that did not end")
    lines += [f"signed {each.path}, version {each.version}" for each in deep.signed]
    lines += [f"opens it no more: {each!a}, whose grants were for keys that are gone" for each in deep.lost_grants]
    return [*lines, _NOT_UNDONE]


def _grant_lines(summary: GrantSummary) -> list[str]:
    lines = [
        f"{'granted' if summary.operation == 'grant' else 'rotated'} {summary.dataset} to {summary.master_key_id!a}",
        f"key encryption keys  {summary.keks}: {summary.granted} granted now, {summary.already} before",
        f"footers read         {summary.footers_read}{'' if summary.used_manifest else ', all: there is no manifest'}",
        f"key service calls    {summary.service_calls}",
        f"grants               {summary.grants}",
    ]
    lines += [f"left as they are     keys under {each!a}" for each in summary.unopened]
    if summary.hidden_files:
        count, first = len(summary.hidden_files), summary.hidden_files[0]
        lines.append(f"not looked into      {count} files whose footer no given key opens, such as {first}")
    if summary.operation == "rotate":
        lines.append("the old master key still opens the files; rotate --deep takes it out of them")
    return lines


def _revoke_lines(summary: RevokeSummary) -> list[str]:
    lines = [
        f"removed {summary.removed} grants of {', '.join(map(ascii, summary.master_key_ids))}; {summary.left} stay"
    ]
    if summary.is_in_files is not False:
        lines.append("not undone: keys in the files themselves that are wrapped for it; rotate --deep changes those")
    return [*lines, _NOT_UNDONE]
