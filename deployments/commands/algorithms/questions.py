"""Where every command that takes a question gets it from: the argument, a file, or standard input."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from consensus_flows.deployments.options import OUTPUT, SENTENCE
from consensus_flows.deployments.terminal import Stop, read_prompt, read_text

Prompt = Annotated[str | None, SENTENCE, Parameter(name=["--prompt", "-p"], group=OUTPUT, metavar="TEXT")]
"""The argument of a command that is the question."""


@Parameter(name="*")
@dataclass(kw_only=True)
class QuestionOptions:
    """Where else the question is read."""

    prompt_file: Annotated[Path | None, Parameter(group=OUTPUT, allow_leading_hyphen=True, metavar="FILE")] = None
    """File of the prompt; - is standard input."""
    stdin: Annotated[bool | None, Parameter(group=OUTPUT)] = None
    """Prepend standard input to the prompt. Default: unless it is a terminal."""

    def given(self) -> bool:
        """Tell whether one of them names a question."""
        return self.prompt_file is not None or bool(self.stdin)

    def question(self, prompt: str | None) -> str:
        """Return the question: what is piped in, then the argument or the file.

        Args:
            prompt: The argument; `-` stands for standard input.

        Raises:
            Stop: If there is none, if there are two, or if the file cannot be read.
        """
        if self.prompt_file is not None:
            if prompt is not None:
                raise Stop("there are two prompts: give --prompt or --prompt-file")
            prompt = "-" if str(self.prompt_file) == "-" else read_text(self.prompt_file, "--prompt-file")
        return read_prompt(prompt, self.stdin)


def folder(path: Path, option: str) -> Path:
    """Return a folder to write into, which is made if it does not exist.

    Raises:
        Stop: If it is a file, or cannot be made or written into.
    """
    try:
        path.mkdir(exist_ok=True)
        probe = path / ".consensus-probe"
        probe.touch()
        probe.unlink()
    except FileExistsError:
        raise Stop(f"{option} {path} is a file: name a folder") from None
    except OSError as error:
        raise Stop(f"{option} {path} cannot be written into: {error.strerror}") from None
    return path
