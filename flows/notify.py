"""Makes the Prefect server tell a chat channel about runs that fail.

    export PREFECT_API_URL=http://127.0.0.1:4200/api
    export LUMIERE_WEBHOOK=https://hooks.example.org/the/secret/part
    python -m flows.notify          # again after the address has changed
    python -m flows.notify --off

The server then sends `{"text": "..."}` to the address whenever a run of the pipeline ends as
Failed, Crashed or TimedOut. Slack, Mattermost and many other services take this form. The address
comes from a variable because other users of the machine can read a command line; Prefect encrypts
it in its database.
"""

from __future__ import annotations

import argparse
import os
from urllib.parse import urlsplit
from uuid import UUID

from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.settings import PREFECT_API_URL
from prefect.types import SecretDict

from flows.program import check_server
from lumiere.errors import ParamsError, run_program

AUTOMATION, BLOCK = "lumiere-run-failed", "lumiere-webhook"
VARIABLE = "LUMIERE_WEBHOOK"
ENDINGS = ("Failed", "Crashed", "TimedOut")
SUBJECT = "lumiere: {{ flow_run.name }}: {{ flow_run.state.name }}"
BODY = "{{ flow_run.state.message }}"


def switch_on(client: SyncPrefectClient, address: str) -> None:
    """Create or renew the automation.

    Args:
        client: a client of the server that the settings name.
        address: where messages are posted.
    """
    block = CustomWebhookNotificationBlock(
        name=BLOCK,
        url="{{address}}",
        json_data={"text": "{{subject}}\n{{body}}"},
        headers=None,
        cookies=None,
        secrets=SecretDict({"address": address}),
    )
    block_id = block.save(BLOCK, overwrite=True)
    assert isinstance(block_id, UUID)  # it is a coroutine only in async code
    switch_off(client)
    runs = ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"})
    flow = ResourceSpecification(
        {"prefect.resource.role": "flow", "prefect.resource.name": "lumiere-pipeline"}
    )
    trigger = EventTrigger(
        posture=Posture.Reactive,
        expect={f"prefect.flow-run.{ending}" for ending in ENDINGS},
        match=runs,
        match_related=flow,
        for_each={"prefect.resource.id"},
        threshold=1,
    )
    action = SendNotification(block_document_id=block_id, subject=SUBJECT, body=BODY)
    client.create_automation(AutomationCore(name=AUTOMATION, trigger=trigger, actions=[action]))


def check_address(address: str) -> None:
    """Raise ParamsError unless messages can be posted to the address, as far as its text shows."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ParamsError(
            f"set {VARIABLE} to the address that gets the messages; it begins with https:// or http://"
        )


def switch_off(client: SyncPrefectClient) -> int:
    """Delete the automation; return how many there were."""
    automations = client.read_automations_by_name(AUTOMATION)
    for automation in automations:
        client.delete_automation(automation.id)
    return len(automations)


def main() -> None:
    """Parse the command line, and switch."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.notify",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--off", action="store_true", help="delete the automation")
    is_off = parser.parse_args().off
    address = os.environ.get(VARIABLE, "")
    if not PREFECT_API_URL.value():
        raise ParamsError(
            "the embedded server sends nothing, because it ends with its run; start one with `make "
            "serve`, and set PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    if not is_off:
        check_address(address)
    check_server()
    with get_client(sync_client=True) as client:
        if is_off:
            print("switched off" if switch_off(client) else "it was not switched on")
            return
        switch_on(client, address)
    print(f"runs that end as {', '.join(ENDINGS)} send a message to {urlsplit(address).hostname}")


if __name__ == "__main__":
    run_program(main)
