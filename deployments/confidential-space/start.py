"""Starts the gateway in Confidential Space: fetches the keys, saves the panels of the image, serves them attested."""

import base64
import os
import subprocess
from pathlib import Path

import httpx

METADATA = "http://metadata.google.internal/computeMetadata/v1"
SECRETS = "https://secretmanager.googleapis.com/v1"
TOKEN = "GATEWAY_TOKEN"  # noqa: S105 - its name
KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", TOKEN)
"""The secrets, and the environment variables that they become: what the vendors of the panels need, and clients' token.

They are not set at the start of the instance: what is set there is written into every token.
"""
PANELS = Path("/opt/consensus/panels")


def fetch_keys() -> None:
    """Fetch the latest version of each secret of this project, as the service account of the instance."""
    with httpx.Client(timeout=30, trust_env=False, headers={"Metadata-Flavor": "Google"}) as metadata:
        project = metadata.get(f"{METADATA}/project/project-id").raise_for_status().text
        account = metadata.get(f"{METADATA}/instance/service-accounts/default/token").raise_for_status().json()
    with httpx.Client(timeout=30, headers={"Authorization": f"Bearer {account['access_token']}"}) as secrets:
        for name in KEYS:
            address = f"{SECRETS}/projects/{project}/secrets/{name}/versions/latest:access"
            data = secrets.get(address).raise_for_status().json()["payload"]["data"]
            os.environ[name] = base64.b64decode(data).decode().strip()


def main() -> None:
    """Start the gateway."""
    fetch_keys()
    subprocess.run(["consensus", "keys", "token"], input=os.environ.pop(TOKEN), text=True, check=True)
    for panel in sorted(PANELS.glob("*/*.json")):
        flow, name = panel.parent.name, panel.stem
        subprocess.run(["consensus", "save", name, "--flow", flow, "--config", str(panel)], check=True)
    # Clients come through a tunnel that ends at the instance, and name the host localhost.
    os.execvp("consensus", ["consensus", "serve", "--attest", "--host", "0.0.0.0", "--allow-host", "localhost"])


if __name__ == "__main__":
    main()
