"""Reads what is counted out of what members wrote, and says which readings are one."""
