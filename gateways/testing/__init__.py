"""For tests of FastCGI, SCGI, uwsgi and HTTP/1.1 programs, ours and other people's; docs/testing.md shows how.

``model`` says what a request and a response are; ``requests`` and ``responses`` draw them; ``framing`` draws the bytes
that carry them, by the rules or against one of them; ``noise`` and ``noisy`` cut and damage bytes; ``peers`` plays them
over sockets. ``model``, ``noise``, ``peers`` and ``framing.fastcgi_records`` need the standard library alone, the rest
hypothesis: ``pip install gateways[fuzz]``.
"""
