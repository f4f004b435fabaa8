"""What a way to ask a panel is worth, measured on labelled rows. Pure: no call is made, and nothing is read or written."""
