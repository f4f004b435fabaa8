"""The gateway as other people's clients see it, each in a process of its own.

LangChain and LiteLLM bring 400 MB: `make test-clients` gives them an environment, and these tests are skipped without it.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CLIENTS = Path(__file__).parent.parent.parent / ".venv-clients" / "bin" / "python"
bulky = pytest.mark.skipif(not CLIENTS.exists(), reason="LangChain and LiteLLM are not there: run `make test-clients`")

LANGCHAIN = """
import asyncio, json, sys
from langchain_openai import ChatOpenAI

panel = ChatOpenAI(model="counted", base_url=sys.argv[1], api_key="none", stream_usage=True)
question = "Six times seven?"
whole = panel.invoke(question)
chunks = list(panel.stream([("system", "Be brief."), ("human", question)]))
later = asyncio.run(panel.ainvoke("And then?"))
print(json.dumps({
    "whole": whole.content,
    "streamed": "".join(chunk.text for chunk in chunks),
    "later": later.content,
    "tokens": [whole.usage_metadata["total_tokens"], sum(c.usage_metadata["total_tokens"] for c in chunks if c.usage_metadata)],
}))
"""

LITELLM = """
import json, sys
import litellm

panel = {"model": "openai/counted", "api_base": sys.argv[1], "api_key": "none"}
question = [{"role": "user", "content": "Six times seven?"}]
whole = litellm.completion(**panel, messages=question)
brief = [{"role": "system", "content": "Be brief."}, *question]
chunks = list(litellm.completion(**panel, messages=brief, stream=True, stream_options={"include_usage": True}))
rebuilt = litellm.stream_chunk_builder(chunks, messages=brief)
response = litellm.responses(**panel, input="And then?")
print(json.dumps({
    "whole": whole.choices[0].message.content,
    "streamed": rebuilt.choices[0].message.content,
    "later": response.output[0].content[0].text,
    "tokens": [whole.usage.total_tokens, rebuilt.usage.total_tokens],
}))
"""


def run(arguments, **environment):
    # No environment of the tests' own: keys and addresses of vendors would lead the clients elsewhere.
    there = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "LITELLM_LOCAL_MODEL_COST_MAP": "True", **environment}
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=240, env=there)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@bulky
@pytest.mark.parametrize("script", [LANGCHAIN, LITELLM], ids=["langchain", "litellm"])
def test_a_client_reads_whole_and_streamed_answers(gateway, vendors, script):
    read = json.loads(run([CLIENTS, "-c", script, f"{gateway.url}/v1"]).splitlines()[-1])
    assert (read["whole"], read["streamed"], read["later"]) == ("42", "42", "42")
    assert all(tokens > 0 for tokens in read["tokens"])
    assert vendors.count() == 9


def test_llm_asks_by_a_line_of_its_configuration(gateway, vendors, tmp_path):
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: night\n  model_name: counted\n  api_base: {gateway.url}/v1\n  can_stream: true\n"
    )
    llm = [Path(sys.executable).with_name("llm"), "-m", "night"]
    # Without its plugins: the panel is reached over HTTP alone.
    environment = {"LLM_USER_PATH": str(tmp_path), "LLM_LOAD_PLUGINS": ""}
    assert run([*llm, "Six times seven?"], **environment).strip() == "42"
    assert run([*llm, "--no-stream", "-c", "And then?"], **environment).strip() == "42"
    assert vendors.count() == 6
    assert [message["content"] for message in vendors.seen[-1].messages] == ["Six times seven?", "42", "And then?"]
