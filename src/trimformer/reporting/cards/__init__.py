"""Model cards: the page that the hub shows of a directory."""
