"""Where every command that takes a question gets it from: the argument, a file, or standard input."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from consensus_flows.deployments.options import OUTPUT, SENTENCE
from consensus_flows.deployments.terminal import Stop, read_prompt, read_text
from consensus_flows.tasks.attachments import attached, check_size, keep
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.record import Attachment

Prompt = Annotated[str | None, SENTENCE, Parameter(name=["--prompt", "-p"], group=OUTPUT, metavar="TEXT")]
"""The argument of a command that is the question."""


@Parameter(name="*")
@dataclass(kw_only=True)
class PromptOptions:
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
        return self._read(prompt)

    def _read(self, prompt: str | None) -> str:
        return read_prompt(prompt, self.stdin)


@Parameter(name="*")
@dataclass(kw_only=True)
class QuestionOptions(PromptOptions):
    """Where else the question is read, and the files that it is about."""

    attach: Annotated[
        list[str] | None,
        Parameter(name=["--attach", "-a"], group=OUTPUT, negative="", allow_leading_hyphen=True, metavar="FILE"),
    ] = None
    """Image, PDF or text file that the prompt is about: a path, a URL, or - for standard input. May be repeated."""
    at: Annotated[
        list[tuple[str, str]] | None,
        Parameter(
            name=["--at", "--attachment-type"],
            group=OUTPUT,
            negative="",
            allow_leading_hyphen=True,
            metavar="FILE TYPE",
        ),
    ] = None
    """The same, with its media type, where it cannot be told from the file. May be repeated."""

    def _read(self, prompt: str | None) -> str:
        if "-" not in self._sources():
            return super()._read(prompt)
        if prompt == "-" or self.stdin:
            raise Stop("--attach -: standard input is the attachment, so the prompt must come from elsewhere")
        return read_prompt(prompt, stdin=False)

    def refuse_files(self, option: str) -> None:
        """Say that the questions of `option` have no files in common.

        Raises:
            Stop: If some were given.
        """
        if self._sources():
            raise Stop(f"--attach: not with {option}; `consensus batch` attaches files to many prompts")

    def attachments(self) -> list[Attachment]:
        """Read the files that the question is about, and keep them.

        Raises:
            Stop: If one cannot be read or sent.
        """
        found: list[Attachment] = []
        try:
            for source, media_type in self._sources().items():
                if source == "-":
                    found.append(keep(sys.stdin.buffer.read(), "stdin", media_type, parameter="--attach"))
                else:
                    found.append(attached(source, "--attach", media_type=media_type))
            check_size(sum(one.size for one in found), "--attach")
        except ConfigurationError as error:
            raise Stop(error.message) from None
        return found

    def _sources(self) -> dict[str, str | None]:
        """The files in their order, each with its media type where that was given."""
        return dict.fromkeys(self.attach or ()) | dict(self.at or ())


@Parameter(name="*")
@dataclass(kw_only=True)
class RowFileOptions:
    """The files that many prompts are about."""

    attach_column: Annotated[str | None, Parameter(group=OUTPUT, metavar="COLUMN")] = None
    """Column of images, PDFs and text files: a path from the input's folder, a URL, or a JSON list of them."""
    attach: Annotated[
        list[str] | None, Parameter(name=["--attach", "-a"], group=OUTPUT, negative="", metavar="FILE")
    ] = None
    """File or URL that every prompt is about. May be repeated."""

    def attachments(self) -> list[str]:
        """Return where the files of every prompt are, as it holds for workers too."""
        return [
            one if "://" in one or one.startswith("data:") else str(Path(one).absolute()) for one in self.attach or ()
        ]


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
