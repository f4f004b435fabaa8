"""How a model is asked to sample: the settings that vendors share, and what is passed through untouched.

What may not be passed through is a list of what is refused and not of what is allowed: every server that speaks OpenAI's
format has settings of its own, vLLM, llama.cpp and Ollama dozens each, and `extra` is there for them. So a name is refused
however it is spelled, in objects within objects too, and by its meaning where that can be seen in it; and a value that is
an address is refused.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field, JsonValue, field_validator

from consensus_flows.blocks.settings import Settings

ServiceTier = Literal["flex"]
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class Sampling(Settings):
    """Sampling settings of one call. A setting left empty is not sent, so the vendor's default holds."""

    model_config = ConfigDict(frozen=True)

    temperature: float | None = Field(None, ge=0, le=2, description="Sampling temperature, 0 to 2.")
    top_p: float | None = Field(None, gt=0, le=1, description="Nucleus sampling: probability mass to keep.")
    top_k: int | None = Field(None, ge=1, description="Number of most likely tokens to sample from.")
    max_output_tokens: int | None = Field(
        None, ge=1, description="Maximum number of tokens in an answer, including reasoning."
    )
    stop: tuple[str, ...] = Field((), description="Stop sequences.")
    seed: int | None = Field(None, description="Sampling seed, if the vendor supports one.")
    reasoning_effort: ReasoningEffort | None = Field(None, description="Reasoning effort of a reasoning model.")
    extra: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Extra parameters of the request body, sent as is; no address, key, model, prompt, tool, count or limit.",
    )

    @field_validator("extra")
    @classmethod
    def _check_extra(cls, extra: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if (why := refusal(extra)) is not None:
            raise ValueError(why)
        return extra

    def over(self, base: "Sampling") -> "Sampling":
        """Return these settings merged over `base`: what is set here wins, `extra` is merged key by key.

        An empty setting is not set: a saved configuration comes back with every field named, the empty ones too.
        """
        changed = {name: value for name in Sampling.model_fields if (value := getattr(self, name)) not in (None, ())}
        return base.model_copy(update=changed | {"extra": {**base.extra, **self.extra}})


_FREE = frozenset(
    {"metadata", "labels", "logitbias", "chattemplatekwargs", "maxprice", "reasoning"}
    | {"responseformat", "responseschema", "responsejsonschema", "jsonschema", "guidedjson", "structuredoutputs"}
)
"""Objects that are not looked into: their names are the user's own, or mean something else, as `reasoning.max_tokens`, of
which a limit is part that is set elsewhere, and `max_price.prompt`."""
_ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_OF_CREDENTIALS = re.compile(
    r"apibase|baseurl|apikey|apiversion|secret|credential|password|authori[sz]ation|authtoken|adtoken|accesstoken|bearer|"
    r"accesskey|headers?$|proxy|proxies|endpoint|hosts?$|webhook|callback|litellm|vertex|^aws|^azure|organi[sz]ation|"
    r"^project(id)?$|httpoptions|extrabody|extraquery|userconfig|ur[il]s?$|customllmprovider|^region|kvtransferparams"
)
"""Where a call goes and on whose account: proxies such as LiteLLM take it from the body, key and all (CVE-2024-6587)."""
_ELSEWHERE = {
    "members": re.compile(
        r"models?$|^model(id|name|list|config|routing|selection)|(?<!allow)fallback|^rout(e|er|ing)(config)?$|"
        r"^presets?$|^deployment(id)?$|^engine(id)?$|^mockresponse"
    ),
    "the prompt": re.compile(
        r"^(messages|contents|prompt|promptid|promptembeds|inputs?|instructions|cachedcontent|conversation|"
        r"previousresponseid|chattemplate)$"
    ),
    "system": re.compile(r"^system(prompt|instructions?|messages?)?$"),
    "a count, as in provider/model:3": re.compile(
        r"^(n|bestof|candidatecount|ncmpl|n(um)?(choices|completions|generations|responses|candidates|samples)|"
        r"numreturnsequences|beamwidth|usebeamsearch)$"
    ),
    "max_output_tokens": re.compile(
        r"max(?!thinking|reasoning|thought|prompt|input|context)\w*tokens|max(gen)?(len|length)$|^n(um)?predict$|"
        r"^(output)?tokenlimit$"
    ),
}
"""What has a place of its own, by which price and budget are reckoned and the record tells who was asked."""
_NEVER = {
    "a call is one request and its whole answer": re.compile(r"^stream|^(background|deferred)$"),
    "a member answers by itself, and what a tool does and costs is not seen": re.compile(
        r"^(tools?|functions?)(choice|config|call|resources|declarations)?$|^paralleltoolcalls$|^plugins?$|mcpservers?|"
        r"websearch|^search(parameters|options|settings)$|^enablesearch$|codeexecution|^container$|^compoundcustom$"
    ),
    "an answer is one text": re.compile(r"modalities$|^audio(config)?$|^(speech|image|imagegeneration)config$"),
}
"""What makes something else of a call than a text that is waited for and reckoned by its tokens."""


def refusal(extra: Mapping[str, Any]) -> str | None:
    """Return why `extra` cannot be passed through, naming the field and what would be right; None if it can be."""
    for path, name, value in _fields(extra):
        if _OF_CREDENTIALS.search(name) or (isinstance(value, str) and _ADDRESS.match(value)):
            return (
                f"{path!r} must not be set here: the address and the key belong to the provider's credentials, see "
                "`consensus keys set`"
            )
        for where, pattern in _ELSEWHERE.items():
            if pattern.search(name):
                return f"{path!r} must not be set here: write it as {where}"
        for why, pattern in _NEVER.items():
            if pattern.search(name):
                return f"{path!r} must not be set here: {why}"
    return None


def _fields(extra: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield the path, the name in plain letters and the value of every field, those of objects and lists in it too.

    Without recursion, so that no nesting is too deep for it.
    """
    left: list[tuple[str, Any]] = [("", extra)]
    while left:
        path, holder = left.pop()
        named = isinstance(holder, Mapping)
        for key, value in holder.items() if named else enumerate(holder):
            place = f"{path}.{key}" if path else str(key)
            name = re.sub("[^a-z0-9]", "", str(key).lower()) if named else ""
            yield place, name, value
            if isinstance(value, Mapping | list) and name not in _FREE:
                left.append((place, value))
