"""`consensus review`: what people decided about rows of a batch comes back into its output."""

from typing import Annotated

from cyclopts import App, Parameter

from consensus_flows.deployments.terminal import Exit, Stop, put, say
from consensus_flows.tasks.batches.review_file import apply_review
from consensus_flows.tasks.history.writing import username

app = App(name="review", help="Bring decisions of a review file into the output of its batch.")


@app.command
def apply(
    file: str,
    *,
    output: Annotated[str | None, Parameter(name=["--output", "-o"])] = None,
    by: str | None = None,
) -> Exit:
    """Write the decisions of a review file into the output.

    A row whose column `decision` is filled in gets that answer, the status `decided`, who decided and when; `panel_answer`
    keeps what the panel said. The batch keeps the decisions when it is run again.

    Args:
        file: The review file that `consensus batch --review` wrote.
        output: The output; default: the one that the file names.
        by: Who decided; default: you.
    """
    try:
        applied = apply_review(file, output, by or username())
    except OSError as error:
        raise Stop(f"the output cannot be written: {error.strerror or error}", Exit.NO_ANSWER) from None
    if applied.unknown:
        say(f"  ! not in the output: {', '.join(applied.unknown[:20])}")
    say(f"{applied.rows} rows of the output are decided")
    put(applied.output)
    return Exit.ANSWER
