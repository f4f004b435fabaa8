"""What a way to ask a panel is worth, measured on labeled rows. Pure: no call is made, and nothing is read or written."""
