"""A vote that counts nothing: a judge compares the answers in pairs, and the best ones may be fused.

After LLM-Blender (arXiv:2306.02561).
"""

from collections.abc import Iterator
from dataclasses import replace

from consensus_flows.blocks.member import ModelName, parse_member
from consensus_flows.blocks.vote import VoteConfig
from consensus_flows.flows.run import Run
from consensus_flows.tasks.asking import missed_quorum
from consensus_flows.tasks.batches.planning import SCHEMA_CHARACTERS, Planned, judge_calls, prompt_length
from consensus_flows.tasks.judging.judge import JudgeRequest
from consensus_flows.tasks.judging.pairwise import candidates, fuse, judged, rank_pairs
from consensus_flows.tasks.record import Iteration, Synthesis


async def compare(run: Run[VoteConfig], iteration: Iteration, judge: str) -> str | None:
    """Ask everybody at once, let the judge compare the answers, and fuse the best; return why there is no answer."""
    config, record = run.config, run.record
    await run.ask(iteration, config.panel(), quorum=config.needed(), label="answers")
    likeness = await run.measure(iteration, "answers")
    answered = iteration.answered()
    failure = missed_quorum(iteration.responses, config.needed())
    if failure and not (answered and iteration.cut_by_budget):
        return failure
    model = parse_member(judge)[0]
    compared = candidates(iteration.responses, model)
    if len(compared) < len(answered):
        run.warn("self_preference", f"{judge} is also a member: its own answer is not compared", member=judge)
    found = await rank_pairs(compared, judge_request(run), model, run.call, config.comparisons)
    iteration.judgements += found.calls
    record.comparisons = found.comparisons
    if not found.ranking:
        cause = f"{judge} could not compare the answers" if found.calls else "fewer than two answers to compare"
        await run.stand_in(iteration, config.stand_in, likeness, cause)
        return None
    if unread := sum(not judged(comparison) for comparison in found.comparisons):
        record.degraded = True
        pairs = f"{unread} of {len(found.comparisons)} pairs"
        run.warn("unparsed", f"{judge} could not compare {pairs}: these count for neither side", member=judge)
    order = [member for group in found.ranking for member in group]
    if left_out := [response.member for response in compared if response.member not in order]:
        run.warn("not_ranked", f"not ranked, because in no comparison that could be read: {', '.join(left_out)}")
    by_name = {response.member: response for response in answered}
    best = by_name[order[0]]
    record.tie = len(found.ranking[0]) > 1 or any(
        judged(c) and c.winner is None and set(c.pair) == set(order[:2]) for c in found.comparisons
    )
    record.full_text = best.text
    iteration.synthesis = Synthesis(
        text=best.text or "", arbiter=judge, chosen=best.member, ranking=order, method="pairwise"
    )
    if config.fuse is not None:
        top = [by_name[name] for name in order[: config.fuse_top]]
        text, calls = await fuse(top, replace(judge_request(run), final=True), parse_member(config.fuse)[0], run.call)
        iteration.judgements += calls
        if text is None:
            record.degraded = True
            cause = f"{config.fuse} could not fuse the answers: the best one is returned verbatim"
            run.warn("not_fused", cause, member=config.fuse)
        else:
            update = {"text": text, "arbiter": config.fuse, "chosen": None, "method": "fuse"}
            iteration.synthesis = iteration.synthesis.model_copy(update=update)
    return None


def judge_request(run: Run[VoteConfig]) -> JudgeRequest:
    """Return what a judge of this run is told beside the answers."""
    return JudgeRequest(
        question=run.prompt,
        system=run.system,
        conversation=run.conversation,
        sampling=run.config.judge_settings,
        timeout=run.config.timeout_s(),
        seed=str(run.config.order_seed),
    )


def judge_plan(config: VoteConfig, judge: ModelName) -> Iterator[Planned]:
    """Plan the calls of the judge and of the model that fuses."""
    count = sum(member.name != judge for member in config.panel())
    pairs = count * (count - 1) // 2
    # Sorting compares at least every neighbour, and at most as many pairs as there are.
    some = (pairs, pairs) if config.comparisons is None else (count - 1, pairs)
    calls = tuple(2 * min(number, config.comparisons or pairs) for number in some)
    if count < 2:
        return
    instructions = len(config.system or "") + SCHEMA_CHARACTERS
    yield judge_calls(
        judge,
        "pairwise judge",
        (calls[0], calls[1]),
        [2 * number for number in calls],
        prompt_length("compare_system", "compare") + instructions,
        settings=config.judge_settings,
    )
    if config.fuse is not None:
        best = min(config.fuse_top, count)
        yield judge_calls(
            parse_member(config.fuse)[0],
            "fuser",
            (1, 2),  # a long answer is written in a call of its own
            (best, 2 * best + 1),
            prompt_length("fuse_system", "fuse", "fuse_answer") + instructions,
            settings=config.judge_settings,
        )
