"""Web pages about what runs on this machine: a server that lets in whom it was told to, and pages.

What a page shows comes through a `Source`, as plain data and bytes: pages know neither models nor stages.
"""
