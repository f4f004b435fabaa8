"""Where a command that takes `-p` gets its question from: the argument, a file, or standard input."""

from pathlib import Path

from deployments.terminal import Stop, read_prompt


def question(prompt: str | None, prompt_file: Path | None) -> str:
    """Return the question.

    Args:
        prompt: The argument; `-` stands for standard input, which is also read when nothing is given.
        prompt_file: A text file in UTF-8; `-` stands for standard input.

    Raises:
        Stop: If there is none, if there are two, or if the file cannot be read.
    """
    if prompt_file is None:
        return read_prompt(prompt, stdin=None)
    if prompt is not None:
        raise Stop("there are two prompts: give --prompt or --prompt-file")
    if str(prompt_file) == "-":
        return read_prompt("-", stdin=None)
    return read_text(prompt_file, "--prompt-file")


def read_text(path: Path, option: str) -> str:
    """Return the text of a file that was named by `option`.

    Raises:
        Stop: If it cannot be read, is no text, or is empty.
    """
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
    except OSError as error:
        raise Stop(f"{option} {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Stop(f"{option} {path} is no text in UTF-8") from None
    if not text:
        raise Stop(f"{option} {path} is empty")
    return text


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
