"""From a prompt's ids to tokens: `params` checks what was asked, `request` is what the caller holds,
`scheduler` decides who computes what in a step, `delivery` when a text stops, `spelling` how ids become text,
`worker` owns the thread, `engine` joins them.
"""
