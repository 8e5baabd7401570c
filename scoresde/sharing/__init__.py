"""Models in folders that others load: the files, their description, the card, the Hub."""
