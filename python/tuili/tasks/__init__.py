"""What models are asked: a file per task, over a task head or over generation, with transformers' results."""
