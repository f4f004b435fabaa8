"""How fast calls go out: as vendors ask, and as the process can bear."""
