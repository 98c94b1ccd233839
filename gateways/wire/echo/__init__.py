"""The echo application, which is all that ``gateways conform`` needs of a server."""
