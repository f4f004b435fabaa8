"""The MCP server: panels as tools of a client such as Claude, Cursor or VS Code.

`session` keeps what all tools share, the budget above all; `results` is what they return; `tools` are the tools.
"""
