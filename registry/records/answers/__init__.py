"""What commands answer: the JSON that scripts outside are built on, one record for each answer.

In:  typed values from the catalogue and the jobs.  Out: `to_json()`, one JSON document.
Keys may be added, never renamed. The pages' API answers with the same records, and their JSON
Schemas are published in `docs/schemas`.
"""
