"""Chat templates are code from untrusted files; this is where `tuili.chat.template` runs them.

A template has no access to Python: only the attributes, functions, filters and operators named in
`environment` and `filters` exist for it. Every loop turn, call and operation spends fuel in proportion to its
work (`meter`), so a template ends in time whatever it does, and every text is measured before it is made.
Apart from that, templates behave as in transformers.
"""
