"""Find the passages that a question is about: python examples/embeddings_search.py"""

import tuili

PASSAGES = [
    "To reset your password, open Settings and choose Security.",
    "Invoices are sent on the first day of each month.",
    "The warehouse is closed on public holidays.",
    "You can change the language of the application in your profile.",
    "Refunds take up to five working days.",
]

with tuili.LLM("all-minilm-l6-v2") as embedder:
    for query in ("I forgot my login", "when do I get my money back?"):
        print(query)
        for hit in embedder.rank(query, PASSAGES, top_k=2):
            print(f"  {hit['score']:.2f}  {hit['text']}")
