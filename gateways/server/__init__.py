"""Sockets, threads and processes: what carries bytes between web servers and applications."""
