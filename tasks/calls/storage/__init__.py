"""Where answers are stored: under which key, for how long, in what folder, and once only."""
