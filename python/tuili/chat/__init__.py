"""Conversations: `messages` checks them, `template` makes a prompt of them, `tool_calls` finds calls
in answers, `completions` speaks OpenAI's words.
"""
