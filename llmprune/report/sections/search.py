"""Which blocks are redundant, and how they were found."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from llmprune.report.charts.search import CandidateMark, Profile, SearchRound, draw_profiles, draw_rounds
from llmprune.report.parts import Cell, Chart, Missing, Section, Table

if TYPE_CHECKING:
    from llmprune.artifacts.activations import CalibrationManifest
    from llmprune.artifacts.records.importance import Importance
    from llmprune.report.contents import RunContents

_METRICS = {
    "sleb": "the loss without the block, measured again after every removal",
    "block-influence": "block influence: 1 - mean cosine similarity of a block's input and output",
    "angular": "angular distance of the hidden states around a run of blocks",
}


def search_section(contents: RunContents) -> Section:
    """Losses of all candidates, importance against depth, and the order of removal."""
    importance, calibration = contents.importance, contents.calibration
    lead = [] if importance is None else [_told(importance)]
    charts, tables, missing = [], [], []
    if importance is None:
        missing.append(Missing("No blocks were ranked in this run yet.", "llmprune verify-redundancy --target 20%"))
    elif importance.rounds:
        charts.append(_rounds_chart(importance))
        tables += [_rounds_table(importance), _candidates_table(importance)]
    else:
        tables.append(_scores_table(importance))
    profiles = _profiles(importance, calibration)
    if profiles:
        charts.append(_profile_chart(profiles, contents, importance, calibration))
    return Section(
        "redundancy", "Which blocks are redundant", tuple(lead), tuple(missing), tuple(charts), tuple(tables)
    )


def _told(importance: Importance) -> str:
    settings = importance.settings
    order = ", ".join(map(str, importance.order))
    where = importance.measured_on
    if not importance.rounds:
        return (
            f"Blocks by {_METRICS[settings.metric]}, least important first: {order}; on {where}, {settings.dtype}. "
            f"The dense model's loss there is {importance.dense_loss:.4f} nats/token."
        )
    share = importance.block_forwards / importance.naive_block_forwards
    return (
        f"Blocks {order} are removed, in this order (SLEB: {_METRICS['sleb']}). The loss rises from "
        f"{importance.dense_loss:.4f} to {importance.rounds[-1].loss:.4f} nats/token on {where}, {settings.dtype}. "
        f"The search ({settings.search}) ran {importance.block_forwards:,} block forwards, {share:.0%} of what "
        "skipping each candidate in a full forward pass takes."
    )


def _rounds(importance: Importance) -> list[SearchRound]:
    return [
        SearchRound(
            decided.removed,
            decided.loss,
            tuple(CandidateMark(one.block, one.loss, one.complete) for one in decided.candidates),
        )
        for decided in importance.rounds
    ]


def _rounds_chart(importance: Importance) -> Chart:
    return Chart(
        "losses",
        "Loss of every candidate in every round",
        "Each row is a round. Each square is a candidate: the model of that round with one more block skipped. The "
        "stronger the colour, the higher its loss above that of the block that was removed. Each step of colour holds "
        "about the same number of squares. Small squares were dropped early, and their losses are over the tokens that "
        "they saw. A block without a square was removed before, or is protected.",
        partial(draw_rounds, _rounds(importance), importance.model.num_blocks),
    )


def _profiles(importance: Importance | None, calibration: CalibrationManifest | None) -> list[Profile]:
    found: list[Profile] = []
    if importance is not None and importance.rounds:
        first = importance.rounds[0].candidates
        rises = {one.block: one.loss - importance.dense_loss for one in first}
        partial_ones = frozenset(one.block for one in first if not one.complete)
        found.append(Profile("loss above dense, nats/token", rises, partial_ones))
    if importance is not None and importance.scores is not None and importance.settings.metric != "block-influence":
        found.append(Profile(f"{importance.settings.metric} score", dict(enumerate(importance.scores))))
    if calibration is not None and calibration.measured:
        influence = {block: one.influence for block, one in enumerate(calibration.blocks)}
        found.append(Profile("block influence (1 - cosine similarity)", influence))
    return found


def _profile_chart(
    profiles: list[Profile],
    contents: RunContents,
    importance: Importance | None,
    calibration: CalibrationManifest | None,
) -> Chart:
    model = (importance or calibration).model  # type: ignore[union-attr]
    told = [
        "Every block of the dense model, the first at the left.",
        "The loss with that block alone skipped is what SLEB decides by." if importance and importance.rounds else "",
        "The cosine of a block's input and output costs one pass over the model." if calibration else "",
        "Removed blocks are in colour." if contents.removed else "",
        "Hollow bars were dropped early: their losses are over a part of the tokens."
        if any(profile.partial for profile in profiles)
        else "",
    ]
    return Chart(
        "depth",
        "Importance against depth",
        " ".join(filter(None, told)),
        partial(draw_profiles, profiles, contents.removed, model.num_blocks),
    )


def _rounds_table(importance: Importance) -> Table:
    rows = tuple(
        (
            Cell(str(number), number),
            Cell(str(one.removed), one.removed),
            Cell(f"{one.loss:.4f}", one.loss),
            Cell(f"{one.loss - importance.dense_loss:+.4f}", one.loss - importance.dense_loss),
            Cell(str(len(one.candidates)), len(one.candidates)),
            Cell(str(dropped := sum(not candidate.complete for candidate in one.candidates)), dropped),
            Cell(f"{one.seconds:.1f}", one.seconds),
        )
        for number, one in enumerate(importance.rounds, start=1)
    )
    columns = ("round", "block", "loss, nats/token", "above dense", "candidates", "dropped early", "time, s")
    return Table("Rounds of the search", columns, rows)


def _candidates_table(importance: Importance) -> Table:
    rows = tuple(
        (
            Cell(str(number), number),
            Cell(str(one.block), one.block),
            Cell(f"{one.loss:.4f}", one.loss),
            Cell(f"{one.tokens:,}", one.tokens),
            Cell("removed" if one.block == decided.removed else "stayed" if one.complete else "dropped early"),
        )
        for number, decided in enumerate(importance.rounds, start=1)
        for one in sorted(decided.candidates, key=lambda one: one.block)
    )
    columns = ("round", "block", "loss, nats/token", "tokens seen", "outcome")
    return Table("Every candidate's loss", columns, rows, folded=True)


def _scores_table(importance: Importance) -> Table:
    scores = importance.scores or ()
    ranked = [(place, block) for place, block in enumerate(importance.order, start=1) if block < len(scores)]
    rows = tuple(
        (Cell(str(place), place), Cell(str(block), block), Cell(f"{scores[block]:.4f}", scores[block]))
        for place, block in ranked
    )
    return Table(f"Blocks by {importance.settings.metric}", ("place", "block", "score"), rows)
