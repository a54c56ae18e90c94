"""The text front of PF_KEY: setkey(8) statements to messages and back."""
