"""`tuili serve`: an OpenAI-compatible HTTP server over one `LLM`, and a chat page. Needs tuili[server]."""
