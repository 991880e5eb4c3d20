"""The registry as pages and as a JSON API, for people who decide and people who check.

 access.py     tokens, roles, sessions: who asks, and what that person may do
 guard.py      what every request must pass before any page: host, origin, size, rate; the headers that every answer carries
 views.py      the facts of each page, as plain data      graph.py   lineage laid out in layers
 schemas.py    the form of every answer, for OpenAPI      runs.py  long actions that go on while nobody looks
 api.py        JSON under /api      pages.py  HTML, from the same facts      paint.py  templates      app.py  all of it joined
Jobs that this floor may not import (explain, audit, release) come in as callables: see site.py.
"""
