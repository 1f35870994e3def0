"""`hft recommend`: the best items of an index for each user, from the texts of those that the user liked."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hft_core.errors import UsageError
from hft_core.sanitize import json_text

if TYPE_CHECKING:
    from hft_applications.recommending import Items, Nearness, Ranker, Recommended, User
    from hft_applications.top_k_scores import TopKScores

USERS = 64
"""Users that are recommended for at a time."""

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")]
IndexOption = Annotated[Path, typer.Option("--index", metavar="DIR", help="The items: an index that hft index made.")]
InputOption = Annotated[str, typer.Option("--input", metavar="FILE", help="The users: a data file, a row each.")]
KOption = Annotated[int, typer.Option("--k", min=1, help="How many items a user is recommended.")]
LikedOption = Annotated[
    str, typer.Option("--liked", metavar="COLUMN", help="The list of texts that the user liked, the latest last.")
]
SeenOption = Annotated[
    list[str],
    typer.Option("--seen", metavar="COLUMN", help="A list of texts that are not recommended either. Repeatable."),
]
NextOption = Annotated[
    str, typer.Option("--next", metavar="COLUMN", help="The texts that the user did like next, to score by.")
]
NeighborsOption = Annotated[
    int, typer.Option("--neighbors", metavar="N", min=1, help="Items near to a liked one that count for it.")
]
RerankOption = Annotated[
    str | None, typer.Option("--rerank", metavar="TASK", help="Order the candidates by this ranking task of the run.")
]
CandidatesOption = Annotated[
    int, typer.Option("--candidates", metavar="N", min=1, help="Items that are re-ranked for a user.")
]
PopularityOption = Annotated[
    str | None,
    typer.Option("--popularity", metavar="COLUMN", help="How often the items were liked: weights their scores."),
]
WeightOption = Annotated[
    float, typer.Option("--weight", metavar="POWER", min=0, help="The power of the popularity; 0: it does not count.")
]
OutputOption = Annotated[
    Path | None, typer.Option("--output", metavar="FILE", help="Write the lines to this file, not standard output.")
]


def recommend(
    ctx: typer.Context,
    run: RunArgument,
    index: IndexOption,
    input: InputOption,
    k: KOption = 10,
    liked: LikedOption = "liked",
    seen: SeenOption = ["disliked"],  # noqa: B006 - typer copies it
    next: NextOption = "next",
    neighbors: NeighborsOption = 500,
    rerank: RerankOption = None,
    candidates: CandidatesOption = 20,
    popularity: PopularityOption = None,
    weight: WeightOption = 0.5,
    output: OutputOption = None,
) -> None:
    """Recommend items: for each user, those whose texts are nearest to what the user liked.

    Writes a line of JSON for each user. Where users have what they liked next, nDCG, recall and coverage are told on
    standard error, beside those of TF-IDF similarity and of popularity.
    """
    from hft_applications import recommending
    from hft_core import open_run
    from hft_core.search import open_index

    users = recommending.users_of(input, liked=liked, seen=seen, after=next)
    saved = open_run(run, ctx.obj.catalogue, merge=True)
    opened = open_index(index, saved)
    items = recommending.Items(opened)
    likes = None if popularity is None else items.numbers(popularity)
    nearness = recommending.Nearness(opened, items, neighbors, 1 if likes is None else likes**weight)
    ranker = None if rerank is None else recommending.Ranker(saved, rerank, items)
    found: list[list[Recommended]] = []
    for begin in range(0, len(users), USERS):
        found += recommended(users[begin : begin + USERS], items, nearness, ranker, k=k, candidates=candidates)
    lines = [json_text(_line(user, own, items)) + "\n" for user, own in zip(users, found, strict=True)]
    _write(output, lines)
    if any(user.after for user in users):
        lists = {"this run": [[one.number for one in own] for own in found]}
        lists["TF-IDF similarity"] = _lists(recommending.by_tfidf(items), users, items, k)
        if likes is not None:
            lists[f"popularity ({popularity})"] = _lists(lambda _: likes, users, items, k)
        typer.echo(table({name: scores(own, users, items, k) for name, own in lists.items()}, k), err=True)


def recommended(
    users: Sequence[User], items: Items, nearness: Nearness, ranker: Ranker | None, *, k: int, candidates: int
) -> list[list[Recommended]]:
    """Return the `k` best items of each user, the best first; with a `ranker`, of the nearest `candidates`."""
    from hft_applications.recommending import Recommended, top

    nearness.prepare(users)
    near = [nearness(user) for user in users]
    first = max(k, candidates) if ranker else k
    best = [top(own, user, items.texts, first) for own, user in zip(near, users, strict=True)]
    if ranker is None:
        ordered = [[(number, float(own[number])) for number in chosen] for own, chosen in zip(near, best, strict=True)]
    else:
        ordered = [own[:k] for own in ranker.order(users, best)]
    return [
        [Recommended(number, score, nearness.reason(user, number)) for number, score in own]
        for user, own in zip(users, ordered, strict=True)
    ]


def scores(lists: Sequence[Sequence[int]], users: Sequence[User], items: Items, k: int) -> TopKScores:
    """Score lists of item numbers by what the users liked next; what is in no row of the index cannot be found."""
    from hft_applications.top_k_scores import score

    numbers = {text: number for number, text in reversed(list(enumerate(items.texts)))}  # the first, as `top`
    known = [user.seen.union(user.liked) for user in users]
    after = [
        {numbers.get(text, -place) for place, text in enumerate(user.after - own, start=1)}
        for user, own in zip(users, known, strict=True)
    ]
    return score(lists, after, items=len(items.rows), k=k)


def table(found: dict[str, TopKScores], k: int) -> str:
    """Return scores by name as text."""
    users = next(iter(found.values())).users
    width = max(map(len, found))
    head = f"{f'{users} users':<{width}}  nDCG@{k:<3} recall@{k:<3} coverage"
    lines = [f"{name:<{width}}  {one.ndcg:<8.4f} {one.recall:<10.4f} {one.coverage:.3f}" for name, one in found.items()]
    return "\n".join([head, *lines])


def _lists(scores: Any, users: Sequence[User], items: Items, k: int) -> list[list[int]]:
    from hft_applications.recommending import top

    return [top(scores(user), user, items.texts, k) for user in users]


def _line(user: User, own: Sequence[Recommended], items: Items) -> dict[str, Any]:
    listed = [{"row": items.rows[one.number], "score": one.score, "because": one.because} for one in own]
    return {**user.columns, "recommended": listed}


def _write(output: Path | None, lines: Sequence[str]) -> None:
    if output is None:
        sys.stdout.writelines(lines)
        return
    try:
        output.write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--output {output}: cannot be written to: {error.strerror}") from error
