"""The documents that the gateway serves about itself, read by the tools that people use."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from openapi_spec_validator import validate

from support.gateway import Gateway

GENERATOR = Path(sys.executable).with_name("openapi-python-client")


def test_openapi_json_is_valid_openapi_3_1(gateway: Gateway) -> None:
    document = gateway.request("GET", "/openapi.json").json
    assert document["openapi"].startswith("3.1")
    validate(document)
    text = json.dumps(document)
    assert "uint32" not in text
    assert document["paths"]["/messages"]["post"]["requestBody"]["required"] is False
    assert "null" not in json.dumps(document["paths"]["/messages"]["post"]["requestBody"])
    assert {"bearer", "token"} <= set(document["components"]["securitySchemes"])
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for status, response in operation["responses"].items():
                assert response["description"], f"{method} {path} {status}"


def test_asyncapi_yaml_is_valid_yaml(gateway: Gateway) -> None:
    document = yaml.safe_load(gateway.request("GET", "/asyncapi.yaml").body)
    assert document["asyncapi"].startswith("3.")


@pytest.fixture(scope="module")
def generated(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """A client that openapi-python-client has generated from the document."""
    folder = tmp_path_factory.mktemp("generated")
    document = folder / "openapi.json"
    document.write_bytes(gateway.request("GET", "/openapi.json").body)
    # Its formatter is not needed, and is not on every PATH.
    config = folder / "config.yaml"
    config.write_text("post_hooks: []\n")
    subprocess.run(
        [
            GENERATOR, "generate", "--path", document, "--meta", "none", "--config", config,
            "--output-path", folder / "duologue_client", "--fail-on-warning",
        ],
        check=True,
        timeout=60,
        capture_output=True,
    )
    sys.path.insert(0, str(folder))
    return importlib.import_module("duologue_client")


def test_a_generated_client_holds_a_conversation(gateway: Gateway, generated: ModuleType) -> None:
    name = generated.__name__
    create, refresh = (
        importlib.import_module(f"{name}.api.session.{call}") for call in ("create", "refresh")
    )
    send = importlib.import_module(f"{name}.api.conversation.send")
    body = importlib.import_module(f"{name}.models.send_body").SendBody
    with generated.Client(base_url=gateway.http) as client:
        created = create.sync(client=client, name="Ada")
    gateway.tokens.append(str(created.token))
    message = body(text="Hello", client_message_id="m1")
    with generated.AuthenticatedClient(base_url=gateway.http, token=str(created.token)) as client:
        for duplicate in (False, True):
            accepted = send.sync(client=client, body=message)
            assert (accepted.seq, accepted.duplicate) == (1, duplicate)
        page = refresh.sync(client=client, after=0)
    assert (page.name, page.messages[0].msg) == ("Ada", "Hello")
