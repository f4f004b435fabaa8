"""`consensus review`: what people decided about rows of a batch comes back into its output."""

from typing import Annotated

from cyclopts import App, Parameter

from consensus_flows.deployments.terminal import Exit, Stop, put, say
from consensus_flows.tasks.batches.review_file import apply_review
from consensus_flows.tasks.history.writing import username
from consensus_flows.tasks.plain_text import plural

app = App(name="review", help="Apply the decisions in a review file to the output of its batch.")


@app.command
def apply(
    file: str,
    *,
    output: Annotated[str | None, Parameter(name=["--output", "-o"], metavar="FILE")] = None,
    by: Annotated[str | None, Parameter(metavar="NAME")] = None,
) -> Exit:
    """Apply the decisions in a review file to the output.

    A row with a `decision` gets it as its answer, with the status `decided`, who decided and when; `panel_answer` keeps
    what the panel said. Later runs of the batch keep the decisions.

    Args:
        file: Review file, as written by `consensus batch --review`.
        output: Output file; default: the one named in the review file.
        by: Who decided; default: your user name.
    """
    try:
        applied = apply_review(file, output, by or username())
    except OSError as error:
        raise Stop(f"the output cannot be written: {error.strerror or error}", Exit.NO_ANSWER) from None
    if applied.unknown:
        say(f"  ! not in the output: {', '.join(applied.unknown[:20])}")
    say(f"{plural(applied.rows, 'row')} of the output {'is' if applied.rows == 1 else 'are'} decided")
    put(applied.output)
    return Exit.ANSWER
