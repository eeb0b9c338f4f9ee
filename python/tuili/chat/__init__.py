"""Conversations: `template` makes a prompt of messages, `tool_calls` finds calls in answers, `completions`
speaks OpenAI's words.
"""
