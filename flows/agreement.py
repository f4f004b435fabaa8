"""The agreement of a panel's members, measured without labels."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from prefect.artifacts import acreate_markdown_artifact
from prefect.logging import get_logger
from prefect.runtime import flow_run

from consensus_flows.tasks.evaluation.agreement import Agreement, measure_agreement
from consensus_flows.tasks.evaluation.labelled import PanelAnswers, read_answers, read_prices, read_recorded
from consensus_flows.tasks.reports.agreement_report import findings, write_agreement
from consensus_flows.tasks.reports.findings import markdown
from consensus_flows.tasks.reports.page import write_report
from consensus_flows.tasks.watch import emit


def agreement_of_recorded(
    address: str,
    *,
    members: Sequence[str] = (),
    extract: str | None = None,
    prices: Path | None = None,
    id_column: str | None = None,
) -> Agreement:
    """Measure the agreement of the members on answers that were recorded. No call is made.

    Args:
        address: The rows, in the shape of a batch's output.
        members: Names of the members, in order; empty for all.
        extract: How answers are read out of the texts; None to take them as they were read.
        prices: File of prices, for rows that have tokens and no cost.
        id_column: The column that tells rows apart.

    Raises:
        ConfigurationError: Naming what cannot be used.
    """
    rows = read_recorded(address, None, extract, id_column, None)
    return measure_agreement(
        read_answers(rows, members, extract, None if prices is None else read_prices(prices)), extract
    )


def report_agreement(made: Agreement, report: Path | None, title: str) -> Agreement:
    """Write the report."""
    if report is not None:
        name = PurePosixPath(title).name
        write_report(report, "agreement", made, lambda file: write_agreement(file, made, title=name))
    return made


async def end_with_agreement(
    answered: PanelAnswers, extract: str, event: str, report: Path | None, title: str
) -> Agreement:
    """End a run whose rows have no labels with the members' agreement.

    Args:
        answered: The members' answers.
        extract: How they were read.
        event: The event with which the run ends.
        report: Folder of the report.
        title: What was asked.
    """
    made = measure_agreement(answered, extract)
    made.flow_run_id = flow_run.id
    report_agreement(made, report, title)
    await emit(event, made)
    found = findings(made)
    try:
        await acreate_markdown_artifact(markdown(found), "agreement", found.sentence)
    except Exception as error:  # a run that is paid for does not end because its artifact cannot be written
        get_logger("consensus").warning("An artifact could not be written: %r", error)
    return made
