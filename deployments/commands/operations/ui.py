"""`consensus ui`: open the Prefect UI, signed in."""

import html
import webbrowser
from typing import Annotated
from urllib.parse import quote

from cyclopts import Parameter
from prefect.settings import get_current_settings

from consensus_flows.deployments.server import connect
from consensus_flows.deployments.server_access import SIGN_IN_PATH
from consensus_flows.deployments.terminal import Exit, put, say
from consensus_flows.tasks.files import atomic_write


def ui(*, password: Annotated[bool, Parameter(negative="")] = False) -> Exit:
    """Open the Prefect UI in your browser, signed in.

    The server that `consensus` starts has a password, which your browser remembers after this command.

    Args:
        password: Print the password instead, to sign in from another browser or through an SSH tunnel.
    """
    info = connect()
    if password:
        if info.auth_string is None:
            say(f"consensus: {info.api_url} was not started by this command, so its password is not known here")
            return Exit.BAD_INPUT
        put(info.auth_string)
        return Exit.ANSWER
    address = info.ui_url
    if info.auth_string is not None:
        # The browser is handed a file that only you can read, not the link: other users see the arguments of every process.
        link = f"{info.ui_url}{SIGN_IN_PATH}#{quote(info.auth_string, safe='')}"
        page = get_current_settings().home / "consensus-ui.html"
        with atomic_write(page, mode=0o600, follow=False) as file:
            file.write_text(f'<meta http-equiv="refresh" content="0;url={html.escape(link)}">\n', encoding="utf-8")
        address = page.as_uri()
    opened = webbrowser.open(address)
    put(info.ui_url)
    if info.auth_string is not None:  # A browser from a snap cannot read the file, and says so only in its window.
        say(
            f"{'If it asks for a password' if opened else 'No browser was found'}: `consensus ui --password` prints it."
        )
    return Exit.ANSWER
