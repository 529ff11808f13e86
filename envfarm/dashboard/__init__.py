"""The pages people read: HTML from the store's queries, and the report of a demo run. A root."""
