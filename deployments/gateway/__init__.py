"""The gateway: saved configurations as models of an HTTP server that speaks OpenAI's API.

`runs` starts runs and tells what happens in them; `chat` and `flare` translate that into what their clients expect.
"""
