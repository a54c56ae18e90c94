"""Networks as data; each file carries its drawing."""
