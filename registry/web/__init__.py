"""The registry as pages and as a JSON API, for people who decide and people who check.

    access        tokens, roles, sessions: who asks, and what that person may do
    middleware    what every request must pass, and the headers that every answer carries
    requests      what is sent to the API
    views         what is told of versions          history     of the audit log
    relations     of lineage and withdrawals        graph, charts   where lines and boxes stand
    runs          long actions that go on while nobody looks
    site          one server's state
    api           JSON under /api                   html_pages  the same answers as HTML
    rendering     the templates and their printers  app         all of it joined

Answers are records, in `registry.records`. Jobs, which this floor may not import, come in as
callables: see `site`.
"""
